"""How a drawing is arranged: steps one behind another and side by side, repeats folded.

The graph of steps is cut at every step that all paths pass through, and what lies between two cuts is taken apart into
branches, again and again, until a `Chain` of `Step` and `Fan` is left. Then patterns of a chain that follow one another
unchanged become one `Repeat`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from .drawing_fold import collapse, fold_chain
from .drawing_inputs import Graph, parts_of
from .drawing_items import Chain, Fan, Item, Tangle, note_sizes, walk
from .drawing_steps import START, Step, steps_of

if TYPE_CHECKING:
    from .whole import Anatomy


_MANY = 60  # steps of a drawing from which two equal patterns are folded
_CROWDED = 110  # steps from which patterns with growing channels are folded, too


def plan(anatomy: Anatomy, fold: bool | None = None, most: int = 400) -> Chain:
    """Return the whole net as a chain that begins with its input.

    Args:
        anatomy: the net.
        fold: True and False fold all patterns that come twice, or none; None folds where it makes a drawing readable.
        most: steps that are drawn; a net with more loses the inside of its blocks, innermost first.
    """
    chain = Chain([])
    for part in parts_of(*steps_of(anatomy), _tangled):
        chain.items += [i for i in _Taker(part).whole().items if not (isinstance(i, Step) and i.kind == START)]
    if fold is not False:
        count = sum(1 for _ in walk(chain))
        fold_chain(chain, least=2 if fold or count > _MANY else 3, growing=None)
        crowded = sum(1 for _ in walk(chain)) > _CROWDED
        fold_chain(chain, least=2 if fold or count > _MANY else 3, growing=3 if fold or crowded else 6)
    while sum(1 for _ in walk(chain)) > most and collapse(chain):
        pass
    note_sizes(chain, "")
    return chain


def _tangled(graph: Graph) -> int:
    """Steps of a graph that are no nest of branches."""

    def count(item: Item | Chain) -> int:
        if isinstance(item, Tangle):
            return sum(map(len, item.columns))
        inner = item.items if isinstance(item, Chain) else item.branches if isinstance(item, Fan) else ()
        return sum(map(count, inner))

    return count(_Taker(graph).whole())


class _Taker:
    """Takes a graph of steps, whose root is -1, apart."""

    def __init__(self, graph: Graph) -> None:
        self.steps = {int(n): step for n, step in graph.steps.items()}
        self.before = {int(n): [int(s) for s in b] for n, b in graph.before.items()}
        self.behind = {int(n): [int(s) for s in b] for n, b in graph.behind.items()}
        self.open: set[int] = set()  # steps whose result joins nothing

    def whole(self) -> Chain:
        main = max(self.steps)  # what comes last is the output
        reach = self._ancestors(main)
        aside: dict[int, list[list[int]]] = {}  # further outputs, by the step that they read
        for group in self._groups(sorted(set(self.steps) - reach)):
            roots = {s for n in group for s in self.before[n] if s in reach}
            aside.setdefault(roots.pop() if len(roots) == 1 else main, []).append(group)
        order: list[int] = []
        for number in sorted(reach):
            order += [number, *(n for group in aside.get(number, ()) for n in group)]
        self._renumber(order)
        new = {old: k - 1 for k, old in enumerate(order)}
        spine = sorted(new[n] for n in reach)
        self.end = len(order) - 1
        self._join(new[main], self.end)
        for root, groups in aside.items():
            target = next(iter(self._cuts(new[root], self.end, [n for n in spine if n > new[root]])), self.end)
            for number in (new[n] for group in groups for n in group):
                if not self.behind[number]:  # drawn beside what follows the step that it reads
                    self.open.add(number)
                    self._join(number, target)
        return Chain([self.steps[-1], *self._between(-1, self.end, list(range(self.end)))])

    def _renumber(self, order: Sequence[int]) -> None:
        """Number the steps in this order, from -1."""
        new = {old: k - 1 for k, old in enumerate(order)}
        self.steps = {new[n]: self.steps[n] for n in order}
        for number, step in self.steps.items():
            step.number = number
        self.before = {new[n]: [new[s] for s in self.before[n]] for n in order}
        self.behind = {new[n]: [new[s] for s in self.behind[n]] for n in order}

    def _join(self, source: int, target: int) -> None:
        self.behind[source].append(target)
        self.before.setdefault(target, []).append(source)

    def _ancestors(self, number: int) -> set[int]:
        found, todo = {number, -1}, [number]
        while todo:
            for source in self.before[todo.pop()]:
                if source not in found:
                    found.add(source)
                    todo.append(source)
        return found

    def _groups(self, numbers: Sequence[int]) -> list[list[int]]:
        """Connected parts of these steps."""
        left, groups = set(numbers), []
        for number in numbers:
            if number not in left:
                continue
            left.discard(number)
            group, todo = [number], [number]
            while todo:
                here = todo.pop()
                for near in (*self.before[here], *self.behind[here]):
                    if near in left:
                        left.discard(near)
                        group.append(near)
                        todo.append(near)
            groups.append(sorted(group))
        return groups

    def _cuts(self, start: int, end: int, numbers: Sequence[int]) -> list[int]:
        """Of these steps, in order, those that every path from `start` to `end` passes through."""
        inside, cuts = set(numbers), []
        reach = max((n for n in self.behind[start] if n in inside or n == end), default=start)
        for number in numbers:
            if reach <= number:
                cuts.append(number)
            reach = max([reach, *(n for n in self.behind[number] if n in inside or n == end)])
        return cuts

    def _between(self, start: int, end: int, numbers: Sequence[int]) -> list[Item]:
        """What is drawn between two steps; `numbers` are the steps there, in order."""
        direct = end in self.behind[start]
        cuts = [] if direct else self._cuts(start, end, numbers)
        if cuts:
            items: list[Item] = []
            at = 0
            for before, cut in zip([start, *cuts], [*cuts, end], strict=True):
                inside = []
                while at < len(numbers) and numbers[at] < cut:
                    inside.append(numbers[at])
                    at += 1
                if inside:
                    items += self._between(before, cut, inside)
                if cut != end:
                    items.append(self.steps[cut])
                    at += 1
            return items
        groups = self._groups(numbers)
        if not direct and len(groups) == 1:
            return [self._tangle(start, end, numbers)] if numbers else []
        branches = []
        for group in groups:
            chain = self._alone(start, end, group)
            chain.joined = any(end in self.behind[n] and n not in self.open for n in group)
            branches.append(chain)
        if direct and groups:
            branches.append(Chain([]))
        return [Fan(branches)] if branches else []

    def _alone(self, start: int, end: int, group: list[int]) -> Chain:
        """One branch: the steps of `group`, without the direct connection from `start` to `end`."""
        kept = self.behind[start]
        self.behind[start] = [n for n in kept if n in set(group)]
        chain = Chain(self._between(start, end, group))
        self.behind[start] = kept
        return chain

    def _tangle(self, start: int, end: int, numbers: Sequence[int]) -> Tangle:
        rank: dict[int, int] = {start: -1}
        for number in numbers:
            rank[number] = 1 + max((rank[s] for s in self.before[number] if s in rank), default=-1)
        columns: list[list[Step]] = [[] for _ in range(1 + max(rank.values()))]
        for number in numbers:
            columns[rank[number]].append(self.steps[number])
        edges = [
            (-1 if s == start else s, n) for n in numbers for s in self.before[n] if s in rank and s not in self.open
        ]
        ends = [n for n in numbers if end in self.behind[n] and n not in self.open]
        return Tangle(columns, edges, ends)
