"""A net with several inputs: chains side by side where they join once, and a chain of its own for an input that is read
in many places, such as the encoder of a transformer. Where another chain reads it, its name is written.
"""

from __future__ import annotations

import heapq
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from .drawing_steps import FROM, INPUT, START, TO, Step, Volume


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


def parts_of(steps: dict[int, Step], before: dict[int, list[int]], tangled: Callable[[Graph], int]) -> list[Graph]:
    """Return the chains of a net, in the order in which they are drawn; each has one root, -1.

    `tangled` counts the steps of a graph that are no nest of branches.
    """
    new: dict[int, float] = {n: n if n < 0 else n + 1 for n in steps}  # room for a step before the first
    whole = Graph({new[n]: step for n, step in steps.items()}, {new[n]: [new[s] for s in b] for n, b in before.items()})
    inputs = whole.inputs
    tries = [[_rooted(whole)], *(_cut(whole, main) for main in (inputs if len(inputs) > 1 else ()))]

    def price(parts: list[Graph]) -> tuple[int, int, int]:
        """The last part is the main one: better that of a picture than that of a vector."""
        axes = max(len(step.volume.extent) for step in parts[-1].steps.values() if step.kind == INPUT)
        cuts = sum(step.kind == FROM for part in parts for step in part.steps.values())
        return sum(map(tangled, parts)), -axes, cuts

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
    waiting = {n: len(b) for n, b in graph.before.items()}
    ready = [(n >= 0, abs(n), n) for n, count in waiting.items() if not count]
    heapq.heapify(ready)
    order: list[float] = []
    while ready:
        order.append(heapq.heappop(ready)[2])
        for n in graph.behind[order[-1]]:
            waiting[n] -= 1
            if not waiting[n]:
                heapq.heappush(ready, (n >= 0, abs(n), n))
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
    """Unconnected parts; that of `main` last."""
    parts: list[set[float]] = []
    left = set(graph.steps)
    for start in [n for n in graph.inputs if n != main] + [main]:
        if start not in left:
            continue
        found, todo = {start}, [start]
        while todo:
            here = todo.pop()
            for near in (*graph.before[here], *graph.behind[here]):
                if near not in found:
                    found.add(near)
                    todo.append(near)
        left -= found
        parts.append(found)
    return [
        Graph({n: graph.steps[n] for n in sorted(part)}, {n: graph.before[n] for n in sorted(part)}) for part in parts
    ]
