"""The parts of a drawing, as a tree: chains, fans of branches, tangles, repeats; and how patterns are folded."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from .drawing_steps import FROM, INPUT, OTHER, TO, Step

_LONG_PERIOD = 16  # steps of the longest pattern that is looked for


@dataclass(slots=True, eq=False)
class Chain:
    """Items one behind another; an empty one is a path on which nothing happens."""

    items: list[Item]
    joined: bool = True  # False: its end is an output of its own, which joins nothing


@dataclass(slots=True, eq=False)
class Fan:
    """Branches side by side, from what is before to what is behind."""

    branches: list[Chain]


@dataclass(slots=True, eq=False)
class Tangle:
    """Steps that are no nest of branches, by the longest way to them, with their connections (-1: from before)."""

    columns: list[list[Step]]
    edges: list[tuple[int, int]]
    ends: list[int]


@dataclass(slots=True, eq=False)
class Repeat:
    """A pattern that comes `times` times; `growing` if the number of channels changes from one to the next."""

    body: Chain
    times: int
    all: list[Chain]
    growing: bool = False


Item = Step | Fan | Tangle | Repeat


def walk(item: Item | Chain) -> Iterator[Step]:
    """Every step that is drawn, in order."""
    if isinstance(item, Step):
        yield item
    elif isinstance(item, Tangle):
        for column in item.columns:
            yield from column
    elif isinstance(item, Repeat):
        yield from walk(item.body)
    else:
        for inner in item.branches if isinstance(item, Fan) else item.items:
            yield from walk(inner)


def module_path(items: Iterable[Item | Chain]) -> str:
    """Path of the innermost module that contains all of these."""
    paths = [step.path.split(".") for item in items for step in walk(item) if step.layers]
    if not paths:
        return ""
    common = paths[0]
    for path in paths[1:]:
        n = next((k for k, (a, b) in enumerate(zip(common, path, strict=False)) if a != b), min(len(common), len(path)))
        common = common[:n]
    return ".".join(common)


def note_sizes(chain: Chain, before: str) -> str:
    """Mark the steps whose map is not as large as that of the step before; return the size at the end."""
    for item in chain.items:
        if isinstance(item, Step) and item.kind in (TO, FROM):
            before = "" if item.kind == FROM else before
        elif isinstance(item, Step):
            item.new_size = item.volume.size != before
            before = item.volume.size
        elif isinstance(item, Fan):
            ends = {note_sizes(branch, before) for branch in item.branches if branch.joined}
            before = ends.pop() if len(ends) == 1 else ""
        elif isinstance(item, Repeat):
            before = note_sizes(item.body, before)
        else:
            for step in walk(item):
                step.new_size = step.volume.size != before
    return before


# --- folding ---------------------------------------------------------------------------------------------------------


def _signature(item: Item | Chain, exact: bool) -> Hashable:
    if isinstance(item, Step):
        v = item.volume
        numbers = (v.channels, tuple((x.inputs, x.params, x.macs) for x in item.layers if x.macs)) if exact else ()
        return (item.kind, v.height, v.width, item.label, numbers)
    if isinstance(item, Fan):
        return ("fan", *(_signature(b, exact) for b in item.branches))
    if isinstance(item, Repeat):
        return ("repeat", item.times, _signature(item.body, exact))
    if isinstance(item, Tangle):
        return ("tangle", *(tuple(_signature(s, exact) for s in c) for c in item.columns))
    return ("chain", item.joined, *(_signature(i, exact) for i in item.items))


def fold_chain(chain: Chain, least: int, growing: int | None) -> None:
    """Fold patterns of a chain, innermost chains first.

    Args:
        chain: changed in place.
        least: how often a pattern of more than one step must come.
        growing: fold patterns that differ in channels only, if they come so often; None folds equal ones.
    """
    for item in chain.items:
        for inner in item.branches if isinstance(item, Fan) else [item.body] if isinstance(item, Repeat) else ():
            fold_chain(inner, least, growing)
    chain.items = _folded(chain.items, least, growing)


def _folded(items: list[Item], least: int, growing: int | None) -> list[Item]:
    exact = growing is None
    ids: dict[Hashable, int] = {}
    keys = [ids.setdefault(_signature(item, exact), len(ids)) for item in items]
    sizes = [0]
    for item in items:
        sizes.append(sizes[-1] + sum(1 for _ in walk(item)))
    barred = [isinstance(item, Repeat) or (isinstance(item, Step) and item.kind in (INPUT, TO)) for item in items]
    best: tuple[tuple[int, int, int], int, int, int] | None = None
    for period in range(1, min(_LONG_PERIOD, len(items) // 2) + 1):
        end = 0
        for start in range(len(items) - period):
            if start < end or keys[start] != keys[start + period]:
                continue
            end = start  # items from start to end equal those one period later
            while end < len(items) - period and keys[end] == keys[end + period]:
                end += 1
            for i in range(start, min(start + period, end)):
                times = (end - i) // period + 1
                size = sizes[i + period] - sizes[i]
                if times < 2 or isinstance(items[i + period - 1], Fan) or any(barred[i : i + period]):
                    continue
                if times < (growing or (5 if size == 1 else least)) or size * (times - 1) < 3 or (growing and size < 2):
                    continue
                saved = size * (times - 1)
                if best is None or saved >= best[0][0]:
                    rank = (saved, _cohesion(items, i, period, times), -i)
                    if best is None or rank > best[0]:
                        best = rank, i, period, times
    if best is None:
        return items
    _, i, period, times = best
    patterns = [Chain(items[k : k + period]) for k in range(i, i + period * times, period)]
    folded = Repeat(patterns[0], times, patterns, growing=not exact)
    rest = items[i + period * times :]
    return [*_folded(items[:i], least, growing), folded, *_folded(rest, least, growing)]


def _cohesion(items: Sequence[Item], start: int, period: int, times: int) -> int:
    """How many of the patterns lie in a module of their own."""
    paths = [module_path(items[k : k + period]) for k in range(start, start + period * times, period)]
    return len(set(paths)) if all(paths) else 0


def collapse(chain: Chain) -> bool:
    """Replace the innermost fans by one step each; False if there was none."""
    done = False
    for k, item in enumerate(chain.items):
        if isinstance(item, Fan):
            inside = [collapse(branch) for branch in item.branches]
            if not any(inside):
                steps = list(walk(item))
                block = steps[-1]
                layers = [layer for step in steps for layer in step.layers]
                chain.items[k] = Step(block.number, OTHER, block.volume, ("block",), layers, last=block.last)
            done = True
        elif isinstance(item, Repeat):
            done = collapse(item.body) or done
    return done
