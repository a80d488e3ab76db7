"""Fold patterns that come several times, and what is too much to draw."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

from .drawing_items import Chain, Fan, Item, Repeat, Tangle, module_path, walk
from .drawing_steps import INPUT, OTHER, TO, Step

_LONG_PERIOD = 16  # steps of the longest pattern that is looked for


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
