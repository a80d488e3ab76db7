"""What a drawing shows: the steps of an Anatomy as volumes, one behind another and side by side, repeats folded.

1. Layers that only change values (normalisation, activation, dropout, padding) join the step that they follow.
2. The graph of steps is cut at every step that all paths pass through, and what lies between two cuts is taken apart
   into branches, again and again, until a `Chain` of `Step` and `Fan` is left.
3. Patterns of a chain that follow one another unchanged become one `Repeat`.
"""

from __future__ import annotations

import re
from collections.abc import Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from math import prod

from .record import Anatomy, Layer, Shape

INPUT, CONV, UP, POOL, FULL, SUM, PRODUCT, CONCAT, OTHER = (
    "input", "convolution", "enlarging", "pooling", "fully connected", "sum", "product", "concatenation", "other",
)  # fmt: skip

_LAST = ("Linear", "LayerNorm", "Embedding", "linear", "layer_norm", "embedding", "matmul", "softmax")
_SHAPING = frozenset(("constant_pad_nd", "slice", "reflection_pad2d", "replication_pad2d", "index", "narrow"))
_VIEWS = frozenset("view _unsafe_view reshape t transpose permute expand squeeze unsqueeze clone".split())
_WORD = 12  # letters of a line under an arrow
_LONG_PERIOD = 16  # steps of the longest pattern that is looked for
_MANY = 60  # steps of a drawing from which two equal patterns are folded
_CROWDED = 110  # steps from which patterns with growing channels are folded, too


@dataclass(frozen=True, slots=True)
class Volume:
    """A map: channels, height and width (1 where there is none), and the whole extent of its positions."""

    channels: int
    height: int = 1
    width: int = 1
    extent: Shape = ()

    @property
    def upright(self) -> bool:
        """True for what has one position: drawn as a bar."""
        return self.height == self.width == 1

    @property
    def size(self) -> str:
        """The extent, such as "56×56"; "" for a single position."""
        return "" if prod(self.extent) <= 1 else "×".join(map(str, self.extent))


@dataclass(slots=True, eq=False)
class Step:
    """One thing that is drawn, with all layers that belong to it."""

    number: int
    kind: str
    volume: Volume
    label: tuple[str, ...] = ()  # lines under the arrow that leads here
    layers: list[Layer] = field(default_factory=list)
    parts: tuple[int, ...] = ()  # channels that a concatenation joins
    last: bool = False  # channels are the last dimension
    new_size: bool = True  # the map is not as large as the one before: its size is written

    @property
    def path(self) -> str:
        """Path of the module that contains the layer."""
        if not self.layers:
            return ""
        first = self.layers[0]
        return first.module if first.functional else first.name.rpartition(".")[0]


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


def plan(anatomy: Anatomy, fold: bool | None = None, most: int = 400) -> Chain:
    """Return the whole net as a chain that begins with its input.

    Args:
        anatomy: the net.
        fold: True and False fold all patterns that come twice, or none; None folds where it makes a drawing readable.
        most: steps that are drawn; a net with more loses the inside of its blocks, innermost first.
    """
    steps, before = _steps(anatomy)
    chain = _Taker(steps, before).whole()
    if fold is not False:
        count = sum(1 for _ in walk(chain))
        _fold(chain, least=2 if fold or count > _MANY else 3, growing=None)
        crowded = sum(1 for _ in walk(chain)) > _CROWDED
        _fold(chain, least=2 if fold or count > _MANY else 3, growing=3 if fold or crowded else 6)
    while sum(1 for _ in walk(chain)) > most and _collapse(chain):
        pass
    _note_sizes(chain, "")
    return chain


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


# --- layers to steps -------------------------------------------------------------------------------------------------


def _steps(anatomy: Anatomy) -> tuple[dict[int, Step], dict[int, list[int]]]:
    """Steps by number, -1 is the input; and the steps that each one reads."""
    shape = anatomy.inputs[0] if len(set(anatomy.inputs)) == 1 else ()  # several have no common size
    steps = {-1: Step(-1, INPUT, _volume(shape, last=_tokens(anatomy)), last=_tokens(anatomy))}
    before: dict[int, list[int]] = {-1: []}
    of: dict[int, int] = {-1: -1}
    joined: dict[int, list[int]] = {}  # what each concatenation joins
    for layer in anatomy.layers:
        sources = list(dict.fromkeys(of[s] for s in layer.sources if s in of))
        if not sources:
            continue  # made of parameters alone
        kind = _kind(layer, len(sources))
        if kind is None:
            of[layer.index] = sources[0]
            steps[sources[0]].layers.append(layer)
            continue
        earlier = [steps[s] for s in sources]
        last = _channels_last(layer, any(s.last for s in earlier))
        step = Step(layer.index, kind, _volume(layer.output, last), _label(layer, kind), [layer], last=last)
        if kind == CONCAT:
            step.parts = tuple(s.volume.channels for s in earlier)
            joined[layer.index] = sources
            sources = _nested(sources, joined)
        of[layer.index] = layer.index
        steps[layer.index] = step
        before[layer.index] = sources
    return steps, before


def _nested(sources: list[int], joined: dict[int, list[int]]) -> list[int]:
    """Sources of a concatenation, where those that an earlier one has joined are replaced by its result."""
    inner = [n for n, parts in joined.items() if 1 < len(parts) < len(sources) and set(parts) <= set(sources)]
    if not inner:
        return sources
    best = max(inner, key=lambda n: len(joined[n]))
    return [best, *(s for s in sources if s not in joined[best])]


def _tokens(anatomy: Anatomy) -> bool:
    """True if the first layer takes the last dimension of its input for the channels."""
    first = next((layer for layer in anatomy.layers if -1 in layer.sources), None)
    return first is not None and any(word in first.kind for word in _LAST)


def _channels_last(layer: Layer, inherited: bool) -> bool:
    if "kernel" in layer.settings or any("pool" in op or "batch_norm" in op for op in layer.operators):
        return False
    return inherited or (len(layer.output) > 2 and any(word in layer.kind for word in _LAST))


def _volume(shape: Shape, last: bool) -> Volume:
    inner = shape[1:]
    if not inner:
        return Volume(1)
    channels, extent = (inner[-1], inner[:-1]) if last else (inner[0], inner[1:])
    sides = extent[-2:]
    return Volume(channels, sides[0] if sides else 1, sides[1] if len(sides) > 1 else 1, extent)


def _kind(layer: Layer, sources: int) -> str | None:
    """What a layer is drawn as; None if it only changes values of the step before."""
    names = {op.rpartition(".")[2].rstrip("_") for op in layer.operators}
    word = layer.kind.lower()
    if layer.macs and "kernel" in layer.settings:
        return UP if layer.settings.get("transposed") else CONV
    if layer.macs:
        simple = names - _VIEWS <= {"addmm", "mm", "linear", "bmm", "matmul", "add", "baddbmm"}
        return FULL if layer.params + layer.shared and simple else OTHER
    if any(part in name for name in names for part in ("unpool", "upsample", "pixel_shuffle")):
        return UP
    if any("pool" in name for name in names) or "pool" in word:
        # local response normalisation sums with a pooling operator; adaptive pooling may find nothing to do
        same = layer.inputs[:1] == layer.outputs[:1]
        return None if same and ("pool" not in word or "kernel" not in layer.settings) else POOL
    if names & {"cat", "stack"} and (sources > 1 or names <= {"cat", "stack"}):
        return CONCAT
    if sources > 1 and names & {"mul", "div"}:
        return PRODUCT
    if sources > 1:
        return SUM if names & {"add", "sub", "maximum", "minimum"} else OTHER
    if layer.inputs[:1] == layer.outputs[:1] or not layer.outputs or names <= _SHAPING:
        return None
    if names & {"mean", "sum", "amax"} and len(layer.inputs[0]) > 2:
        return POOL
    return OTHER if prod(layer.inputs[0]) != prod(layer.output) or layer.params else None


def _label(layer: Layer, kind: str) -> tuple[str, ...]:
    """Lines such as ("3×3", "/2", "g32"): kernel, stride, dilation, groups."""
    word = layer.kind.lower()
    kernel, stride = layer.settings.get("kernel", ()), layer.settings.get("stride", ())
    lines: list[str] = []
    if kind == POOL:
        name = next((n for n in ("max", "avg", "l2", "mean") if n in word), "pool")
        lines.append("mean" if name == "avg" else name)
    if kernel:
        lines.append("×".join(map(str, kernel)) if len(kernel) < 3 else _cube(kernel))
    if any(s != 1 for s in stride):
        text = str(stride[0]) if len(set(stride)) == 1 else "×".join(map(str, stride))
        lines.append(f"×{text}" if kind == UP else f"/{text}")
    if kind in (CONV, UP) and kernel:
        dilation, groups = layer.settings.get("dilation", ()), layer.settings.get("groups", 1)
        if any(d != 1 for d in dilation):
            lines.append(f"dil {max(dilation)}")
        if groups > 1:
            channels = layer.inputs[0][1] if layer.inputs and len(layer.inputs[0]) > 1 else 0
            lines.append("dw" if groups == channels else f"g {groups}")
    elif kind == UP:
        lines.append("unpool" if "unpool" in word else "resize")
    elif kind == OTHER:
        words = re.findall(r"[A-Z]+(?![a-z])\d*|[A-Z]?[a-z]+\d*|\d+", layer.kind) or [layer.kind]
        lines += [word if len(word) <= _WORD else word[: _WORD - 1] + "…" for word in words[:3]]
    return tuple(lines)


def _cube(kernel: Sequence[int]) -> str:
    return f"{kernel[0]}³" if len(set(kernel)) == 1 else "×".join(map(str, kernel))


# --- steps to chains and fans ----------------------------------------------------------------------------------------


class _Taker:
    """Takes a graph of steps apart."""

    def __init__(self, steps: dict[int, Step], before: dict[int, list[int]]) -> None:
        self.steps, self.before = steps, {n: [*b] for n, b in before.items()}
        self.behind: dict[int, list[int]] = {n: [] for n in steps}
        for number, sources in self.before.items():
            for source in sources:
                self.behind[source].append(number)
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
            # a step of the group may feed `start`'s other readers only through `end`: edges stay inside the group
            chain = self._alone(start, end, group)
            chain.joined = not self.open.intersection(group)
            branches.append(chain)
        if direct and (len(groups) != 0):
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
        edges = [(-1 if s == start else s, n) for n in numbers for s in self.before[n] if s in rank]
        ends = [n for n in numbers if end in self.behind[n] and n not in self.open]
        return Tangle(columns, edges, ends)


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


def _fold(chain: Chain, least: int, growing: int | None) -> None:
    """Fold patterns of a chain, innermost chains first.

    Args:
        chain: changed in place.
        least: how often a pattern of more than one step must come.
        growing: fold patterns that differ in channels only, if they come so often; None folds equal ones.
    """
    for item in chain.items:
        for inner in item.branches if isinstance(item, Fan) else [item.body] if isinstance(item, Repeat) else ():
            _fold(inner, least, growing)
    chain.items = _folded(chain.items, least, growing)


def _folded(items: list[Item], least: int, growing: int | None) -> list[Item]:
    exact = growing is None
    ids: dict[Hashable, int] = {}
    keys = [ids.setdefault(_signature(item, exact), len(ids)) for item in items]
    sizes = [0]
    for item in items:
        sizes.append(sizes[-1] + sum(1 for _ in walk(item)))
    barred = [isinstance(item, Repeat) or (isinstance(item, Step) and item.kind == INPUT) for item in items]
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


def _collapse(chain: Chain) -> bool:
    """Replace the innermost fans by one step each; False if there was none."""
    done = False
    for k, item in enumerate(chain.items):
        if isinstance(item, Fan):
            inside = [_collapse(branch) for branch in item.branches]
            if not any(inside):
                steps = list(walk(item))
                block = steps[-1]
                layers = [layer for step in steps for layer in step.layers]
                chain.items[k] = Step(block.number, OTHER, block.volume, ("block",), layers, last=block.last)
            done = True
        elif isinstance(item, Repeat):
            done = _collapse(item.body) or done
    return done


def _note_sizes(chain: Chain, before: str) -> str:
    """Mark the steps whose map is not as large as that of the step before; return the size at the end."""
    for item in chain.items:
        if isinstance(item, Step):
            item.new_size = item.volume.size != before
            before = item.volume.size
        elif isinstance(item, Fan):
            ends = {_note_sizes(branch, before) for branch in item.branches if branch.joined}
            before = ends.pop() if len(ends) == 1 else ""
        elif isinstance(item, Repeat):
            before = _note_sizes(item.body, before)
        else:
            for step in walk(item):
                step.new_size = step.volume.size != before
    return before
