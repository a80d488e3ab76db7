"""How much room the parts of a drawing take: boxes to scale, gaps for labels, branches above and below one another."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .drawing_items import Chain, Fan, Item, Repeat, Tangle, walk
from .drawing_marks import text_width
from .drawing_steps import FROM, INPUT, PRODUCT, SUM, TO, Step, Volume

if TYPE_CHECKING:
    from .whole import Anatomy


_SIDE, _THICK = 112.0, 56.0  # longest side of a map, thickest box, in pixels of the drawing
_LINEAR = 8  # up to this ratio between the largest and the smallest, lengths are proportional; beyond, square roots
_SLANT = (0.36, 0.25)  # how far right and up one pixel of depth goes
GAP = 24.0  # between two steps, at least
TRUNK = 9.0  # from the end of a step to where its branches part
LANE = 10.0  # between two branches
_FLAT = 12.0  # depth of a map with one axis
RADIUS = 7.5  # of the circle of a sum
_BAR = 8.0  # width of a bar
_SIGNS = (SUM, PRODUCT, TO, FROM)  # what is no box
_U_SHAPED = 8  # steps on a way round from which the short way is drawn straight, and the long one below it


@dataclass(frozen=True, slots=True)
class Size:
    """Room that an item takes: width, and above and below the axis on which its arrows run."""

    width: float
    up: float
    down: float


class Scale:
    """Pixels for sides of maps and for channels."""

    def __init__(self, volumes: Iterable[Volume]) -> None:
        volumes = list(volumes)
        sides = [n for v in volumes if not v.upright for n in (v.height, v.width) if n > 1]
        channels = [v.channels for v in volumes if v.channels > 0]
        self.most_side, self.side_power = self._fit(sides)
        self.most_channels, self.channel_power = self._fit(channels)

    @staticmethod
    def _fit(values: Sequence[int]) -> tuple[int, float]:
        most, least = max(values, default=1), min(values, default=1)
        return most, 1.0 if most <= _LINEAR * least else 0.5

    def side(self, n: int) -> float:
        return 1.0 if n <= 1 else max(2.0, _SIDE * (n / self.most_side) ** self.side_power)

    def channels(self, n: int) -> float:
        return max(2.0, _THICK * (n / self.most_channels) ** self.channel_power)

    def text(self, *, bars: bool, kernels: bool, named: bool) -> str:
        words = {1.0: "proportional", 0.5: "square-root scale"}
        told = (
            f"Drawn to scale: height and depth of a box are those of the map ({words[self.side_power]}), "
            f"its thickness is the number of channels ({words[self.channel_power]})."
        )
        if bars:
            told += " Upright bars have a single position; their length is the number of channels."
        if kernels:
            told += " Under the arrows: kernel, / stride; dw: one filter per channel, g: groups."
        return told + (" A rounded label is the same map wherever it appears." if named else "")


def longest(fan: Fan) -> int:
    """The longest branch; not one that comes from another chain, if there is a choice."""

    def rank(k: int) -> tuple[bool, bool, int]:
        branch = fan.branches[k]
        return branch.joined, not _from_elsewhere(branch), sum(1 for _ in walk(branch))

    return max(range(len(fan.branches)), key=rank)


def _from_elsewhere(branch: Chain) -> bool:
    return any(isinstance(item, Step) and item.kind == FROM for item in branch.items[:1])


def passed(fan: Fan) -> bool:
    """True if a fan is one branch and short ways around it; False if its branches are of the same rank."""
    steps = [sum(1 for _ in walk(b)) for b in fan.branches]
    if any(map(_from_elsewhere, fan.branches)):
        return True
    return 0 in steps or (len(steps) == 2 and steps[longest(fan)] > min(steps) and min(steps) <= 1)


class Measure:
    """Sizes of the items of a plan."""

    def __init__(self, anatomy: Anatomy, chain: Chain) -> None:
        self.anatomy = anatomy
        self.scale = Scale(step.volume for step in walk(chain))
        self.named = {id(item) for item in chain.items if isinstance(item, Step)}
        self.hanging: dict[int, tuple[Step, Step]] = {}  # fans drawn like a U, with the steps before and behind
        self.hung: set[int] = set()  # steps that an arrow enters, or leaves, at the top
        self.entered: set[int] = set()  # those that it enters
        self._sizes: dict[int, Size] = {}
        self._find_hanging(chain)

    def _find_hanging(self, item: Item | Chain, inside: bool = False) -> None:
        if isinstance(item, Chain):
            for before, fan, behind in zip(item.items, item.items[1:], item.items[2:], strict=False):
                if isinstance(fan, Fan) and isinstance(before, Step) and isinstance(behind, Step):
                    main = fan.branches[longest(fan)]
                    ends = main.items[:1] + main.items[-1:]
                    boxed = all(isinstance(e, Step) and e.kind not in _SIGNS for e in ends)
                    long = sum(1 for _ in walk(main)) > _U_SHAPED
                    small = inside and min(s.volume.height for s in walk(main)) < before.volume.height
                    if (long or small) and passed(fan) and boxed and main.joined:
                        self.hanging[id(fan)] = before, behind
                        self.hung.update(map(id, ends))
                        self.entered.add(id(ends[0]))
        inner = item.items if isinstance(item, Chain) else item.branches if isinstance(item, Fan) else ()
        for one in [item.body] if isinstance(item, Repeat) else inner:
            self._find_hanging(one, inside or id(item) in self.hanging)

    def box(self, step: Step) -> tuple[float, float, float, float]:
        """Front width and height of a step's box, and how far its depth goes right and up."""
        v = step.volume
        if step.kind in (TO, FROM):
            return text_width(step.label[0], 9) + 14, 18.0, 0.0, 0.0
        if step.kind in (SUM, PRODUCT):
            return 2 * RADIUS, 2 * RADIUS, 0.0, 0.0
        if v.upright:
            return _BAR, self.scale.channels(v.channels), 4.0, 3.0
        depth = self.scale.side(v.width) if v.width > 1 else _FLAT  # a sequence is a board
        return self.scale.channels(v.channels), self.scale.side(v.height), _SLANT[0] * depth, _SLANT[1] * depth

    def gap(self, step: Step) -> float:
        """Room for the arrow that leads to a step, and its label."""
        if step.kind in (INPUT, FROM):
            return 0.0
        if step.kind == TO:
            return GAP
        if id(step) in self.entered:
            return 14.0
        return max([GAP if step.kind not in (SUM, PRODUCT) else 18.0, *(text_width(t, 9) + 8 for t in step.label)])

    def name(self, step: Step) -> str:
        """What is written below a step of the main path."""
        if step.kind == INPUT:
            return step.label[0]
        if id(step) not in self.named or step.kind in _SIGNS:
            return ""
        parts = step.layers[0].name.split(".")
        last = parts[-1]
        several = sum(path.endswith(f".{last}") for path in self.anatomy.modules) > 1
        if len(parts) > 1 and not last.isdigit() and several:
            last = parts[-2]  # "transition2" for one of several "transition2.pool"
        if last.isdigit() or ":" in last or step.label[:1] == ("block",):
            return ""
        return last if len(last) <= 12 else last[:11] + "…"

    def slot(self, step: Step) -> float:
        """Width of a step without its gap: box and labels."""
        w, h, ox, oy = self.box(step)
        # texts of a high box stand below the labels of the arrows, and may reach under them
        gap = min(12.0, self.gap(step) / 2) if (h + oy) / 2 > 36 else 2.0
        words = [(str(step.volume.channels), 10.0), (self.name(step), 9.0)]
        if step.new_size:
            words.append((step.volume.size, 9.0))
        if step.kind in _SIGNS:
            words = []
        return max([w + ox, *(text_width(t, s) - gap for t, s in words)])

    def measure(self, item: Item | Chain) -> Size:
        if id(item) not in self._sizes:
            self._sizes[id(item)] = self._measure(item)
        return self._sizes[id(item)]

    def _measure(self, item: Item | Chain) -> Size:
        if isinstance(item, Step):
            _, h, _, oy = self.box(item)
            half = (h + oy) / 2
            if item.kind in _SIGNS:
                return Size(self.gap(item) + self.box(item)[0], half + 2, half + 2)
            up = half + (13 if item.new_size and item.volume.size else 2) + (16 if id(item) in self.entered else 0)
            down = max(half + 14 + (11 if self.name(item) else 0), 12 + 9.5 * len(item.label))
            return Size(self.gap(item) + self.slot(item), up, down)
        if isinstance(item, Chain):
            inner = [self.measure(i) for i in item.items]
            up, down = max([4, *(s.up for s in inner)]), max([4, *(s.down for s in inner)])
            return Size(sum(s.width for s in inner), up, down)
        if isinstance(item, Repeat):
            size = self.measure(item.body)
            return Size(size.width + 22, size.up + 20, size.down + 6)
        if isinstance(item, Tangle):
            columns = [[self.measure(s) for s in column] for column in item.columns]
            half = max(sum(s.up + s.down + LANE for s in column) for column in columns) / 2
            width = sum(max(s.width for s in column) + TRUNK for column in columns)
            # connections that pass over a column get a lane of their own above all
            rank = {s.number: k for k, column in enumerate(item.columns) for s in column}
            far = sum(rank[b] - rank.get(a, -1) > 1 for a, b in item.edges)
            far += sum(rank[n] < len(item.columns) - 1 for n in item.ends)
            return Size(width + TRUNK, half + 7.0 * far, half)
        sizes = [self.measure(b) for b in item.branches]
        room = max(s.width for s in sizes) + 2 * TRUNK + 5
        lanes = list(zip(sizes, self.lanes(item), strict=True))
        up, down = max(s.up - y for s, y in lanes), max(s.down + y for s, y in lanes)
        return Size(self.hanging_at(item)[1] if id(item) in self.hanging else room, up, down)

    def lanes(self, fan: Fan) -> list[float]:
        """Where the axis of each branch lies, relative to that of the fan (negative is above)."""
        sizes = [self.measure(b) for b in fan.branches]
        lanes = [0.0] * len(sizes)
        if not passed(fan):
            total = sum(s.up + s.down for s in sizes) + LANE * (len(sizes) - 1)
            at = -total / 2
            for k, size in enumerate(sizes):
                lanes[k] = at + size.up
                at += size.up + size.down + LANE
            return lanes
        main = longest(fan)
        others = [k for k in range(len(sizes)) if k != main]
        if id(fan) in self.hanging:  # the short way runs straight on, the long one hangs below
            at = 0.0
            for k in others:
                at += sizes[k].up if at else 0.0
                lanes[k] = at
                at += sizes[k].down + LANE
            lanes[main] = max(at, *(self.measure(s).down + LANE for s in self.hanging[id(fan)])) + sizes[main].up
            return lanes
        at = -sizes[main].up - LANE
        for k in sorted(others, key=lambda k: sum(1 for _ in walk(fan.branches[k])), reverse=True):
            lanes[k] = at - sizes[k].down
            at = lanes[k] - sizes[k].up - LANE
        return lanes

    def hanging_at(self, fan: Fan) -> tuple[float, float, float, float]:
        """Of a fan that hangs: where its long branch begins, its width, and where its arrow goes up, from its left end.

        The long branch begins below the step before, and ends below the step behind.
        """
        before, behind = self.hanging[id(fan)]
        body = fan.branches[longest(fan)]
        first, last = body.items[0], body.items[-1]
        assert isinstance(first, Step) and isinstance(last, Step)
        width = self.measure(body).width
        w, _, ox, _ = self.box(before)
        down = -(self.slot(before) + w + ox) / 2 + w + ox / 2  # x of the arrow that goes down
        start = down - self.gap(first) - self.slot(first) / 2
        w, _, ox, _ = self.box(behind)
        up = self.gap(behind) + (self.slot(behind) - w - ox) / 2
        up += w / 2 if behind.kind in (SUM, PRODUCT) else w + ox / 2
        end = start + width - self.slot(last) / 2
        others = [self.measure(b).width for b in fan.branches if b is not body]
        room = max(2 * TRUNK + 5 + max(others, default=0), end - up)
        return start, room, end, up
