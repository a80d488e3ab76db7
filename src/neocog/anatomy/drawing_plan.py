"""How a drawing is arranged: steps one behind another and side by side, repeats folded.

The graph of steps is cut at every step that all paths pass through, and what lies between two cuts is taken apart into
branches, again and again, until a `Chain` of `Step` and `Fan` is left. Then patterns of a chain that follow one another
unchanged become one `Repeat`.

A net with several inputs has chains side by side where they join once, and a chain of its own for an input that is read
in many places, such as the encoder of a transformer. Where another chain reads it, its name is written.
"""

from __future__ import annotations

import heapq
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from graphlib import TopologicalSorter
from typing import TYPE_CHECKING, TypeVar

from .drawing_items import Chain, Fan, Item, Tangle, collapse, fold_chain, note_sizes, walk
from .drawing_steps import FROM, INPUT, START, TO, Step, Volume, steps_of

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
    for part in _parts(*steps_of(anatomy)):
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


@dataclass
class Graph:
    """Steps by number, an order in which they can be computed, and the steps that each one reads."""

    steps: dict[float, Step]
    before: dict[float, list[float]]
    behind: dict[float, list[float]] = field(init=False)

    def __post_init__(self) -> None:
        self.behind = {n: [] for n in self.steps}
        for number, sources in self.before.items():
            for source in sources:
                self.behind[source].append(number)

    @property
    def inputs(self) -> list[float]:
        return [n for n, step in self.steps.items() if step.kind == INPUT]


def _parts(steps: dict[int, Step], before: dict[int, list[int]]) -> list[Graph]:
    """Return the chains of a net, in the order in which they are drawn; each has one root, -1."""
    new: dict[int, float] = {n: n if n < 0 else n + 1 for n in steps}  # room for a step before the first
    whole = Graph({new[n]: step for n, step in steps.items()}, {new[n]: [new[s] for s in b] for n, b in before.items()})
    inputs = whole.inputs
    tries = [[_rooted(whole)], *(_cut(whole, main) for main in (inputs if len(inputs) > 1 else ()))]

    def price(parts: list[Graph]) -> tuple[int, int, int]:
        """The last part is the main one: better that of a picture than that of a vector."""
        axes = max(len(step.volume.extent) for step in parts[-1].steps.values() if step.kind == INPUT)
        cuts = sum(step.kind == FROM for part in parts for step in part.steps.values())
        return sum(map(_tangled, parts)), -axes, cuts

    return min(tries, key=price)


def _rooted(graph: Graph) -> Graph:
    """The same, numbered from -1: its only input, or a step that is not drawn, before all inputs."""
    steps, before = {**graph.steps}, {**graph.before}
    if len(graph.inputs) > 1:
        start = -0.5
        before |= {n: [start] for n in graph.inputs}
        steps[start], before[start] = Step(-1, START, Volume(0)), []
    order = _in_order(Graph(steps, before))
    new: dict[float, float] = {n: k - 1 for k, n in enumerate(order)}
    return Graph({new[n]: steps[n] for n in order}, {new[n]: [new[s] for s in before[n]] for n in order})


def _in_order(graph: Graph) -> list[float]:
    """Every step behind those that it reads, else by number; inputs are -1, -2, ..."""
    sorter, order = TopologicalSorter(graph.before), list[float]()
    sorter.prepare()
    ready: list[tuple[bool, float, float]] = []
    while sorter.is_active():
        for n in sorter.get_ready():
            heapq.heappush(ready, (n >= 0, abs(n), n))
        order.append(heapq.heappop(ready)[2])
        sorter.done(order[-1])
    return order


def _cut(graph: Graph, main: float) -> list[Graph]:
    """The chain of the input `main`, and those of the other inputs, cut off where several steps read them."""
    order = sorted(graph.steps)
    reads = {n: {n} for n in graph.inputs}
    for n in order:
        reads.setdefault(n, set()).update(*(reads[s] for s in graph.before[n]))
    steps, before = {**graph.steps}, {n: [*b] for n, b in graph.before.items()}
    ends: dict[float, str] = {}
    cuts = list(dict.fromkeys(_thick_end(graph, s, t) for s, t in _crossing(graph, reads, main)))
    for source, target in cuts:
        if source not in ends:
            ends[source] = _name(steps[source], set(ends.values()))
        number = target - 0.5
        while number in steps:
            number += 0.01
        steps[number] = Step(-1, FROM, Volume(0), (ends[source],))
        before[number] = [_start_beside(graph, source, target)]
        before[target] = [number if s == source else s for s in before[target]]
    for source, name in ends.items():
        number = source + 0.4 if source > 0 else 0.4 + 0.001 * source  # behind all inputs
        steps[number], before[number] = Step(-1, TO, Volume(0), (name,)), [source]
    return [_rooted(part) for part in _components(Graph(steps, before), main)]


def _crossing(graph: Graph, reads: dict[float, set[float]], main: float) -> Iterator[tuple[float, float]]:
    """Connections from what depends on one other input only to what depends on several."""
    for target in sorted(graph.steps):
        for source in graph.before[target]:
            if len(reads[source]) == 1 and main not in reads[source] and len(reads[target]) > 1:
                yield source, target


def _thick_end(graph: Graph, source: float, target: float) -> tuple[float, float]:
    """The same connection, followed back to the step that several read, or that reads several."""
    while len(graph.behind[source]) == 1 and len(graph.before[source]) == 1:
        source, target = graph.before[source][0], source
    return source, target


def _start_beside(graph: Graph, source: float, target: float) -> float:
    """The step of the other chain beside which a cut branch is drawn: where the path that it joins begins."""
    length, came = 0, source
    while len(graph.before[target]) == 1 and graph.behind[target]:
        came, target = target, graph.behind[target][0]
        length += 1
    beside = next((s for s in graph.before[target] if s != came), target)
    while length and len(graph.before[beside]) == 1 and len(graph.behind[beside]) == 1:
        beside = graph.before[beside][0]
        length -= 1
    return beside


def _name(step: Step, taken: set[str]) -> str:
    """Name of the outermost module that holds a step, or of the input."""
    first = step.label[0] if step.kind == INPUT else re.split(r"[.:]", step.layers[0].name)[0] or "map"
    return next(name for k in range(1, 999) if (name := first if k == 1 else f"{first} {k}") not in taken)


def _components(graph: Graph, main: float) -> list[Graph]:
    """Unconnected parts that have an input; that of `main` last."""
    parts = _connected(graph.steps, graph.before, graph.behind)
    roots = [n for n in graph.inputs if n != main] + [main]
    order = dict.fromkeys(next(k for k, part in enumerate(parts) if n in part) for n in roots)
    return [Graph({n: graph.steps[n] for n in parts[k]}, {n: graph.before[n] for n in parts[k]}) for k in order]


_N = TypeVar("_N", bound=float)


def _connected(numbers: Iterable[_N], before: Mapping[_N, list[_N]], behind: Mapping[_N, list[_N]]) -> list[list[_N]]:
    """Connected parts of these steps, each in order."""
    order = list(numbers)
    left, groups = set(order), []
    for number in order:
        if number not in left:
            continue
        left.discard(number)
        group: list[_N] = [number]
        for here in group:  # which grows on the way
            near = {n for n in (*before[here], *behind[here]) if n in left}
            left -= near
            group += near
        groups.append(sorted(group))
    return groups


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
        for group in _connected(sorted(set(self.steps) - reach), self.before, self.behind):
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
        groups = _connected(numbers, self.before, self.behind)
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
