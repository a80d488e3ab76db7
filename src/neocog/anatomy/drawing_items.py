"""The parts of a drawing, as a tree: chains, fans of branches, tangles, repeats."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from .drawing_steps import FROM, TO, Step


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
