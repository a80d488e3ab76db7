"""Draw a net to scale, as the papers do: maps as boxes, fully connected layers as bars, branches as branches.

The drawing is one SVG without script, font or picture from elsewhere, the same for the same net, readable on light and
dark screens. `drawing_plan` decides what is drawn; here it is measured, placed and written.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape
from itertools import pairwise

from .drawing_plan import (
    CONCAT, CONV, FULL, INPUT, OTHER, POOL, PRODUCT, SUM, UP,
    Chain, Fan, Item, Repeat, Step, Tangle, Volume, module_path, plan, walk,
)  # fmt: skip
from .record import Anatomy, Layer, Shape

_SIDE, _THICK = 112.0, 56.0  # longest side of a map, thickest box, in pixels of the drawing
_LINEAR = 8  # up to this ratio between the largest and the smallest, lengths are proportional; beyond, square roots
_SLANT = (0.36, 0.25)  # how far right and up one pixel of depth goes
_GAP = 24.0  # between two steps, at least
_TRUNK = 9.0  # from the end of a step to where its branches part
_LANE = 10.0  # between two branches
_FLAT = 12.0  # depth of a map with one axis
_RADIUS = 7.5  # of the circle of a sum
_BAR = 8.0  # width of a bar
_U_SHAPED = 8  # steps on a way round from which the short way is drawn straight, and the long one below it
_CLASS = {INPUT: "in", CONV: "co", UP: "up", POOL: "po", FULL: "fc", CONCAT: "ca", OTHER: "ot", SUM: "ot", PRODUCT: "ot"}
_COLOURS = {
    "in": (200, 207, 215), "co": (244, 184, 92), "up": (112, 193, 160), "po": (229, 118, 98),
    "fc": (150, 138, 220), "ca": (116, 172, 224), "ot": (214, 160, 200),
}  # fmt: skip
_WIDTHS = {**dict.fromkeys("iljtfI.,:;'|!()[]/ ", 0.32), **dict.fromkeys("mwMW", 0.88), "×": 0.62, "_": 0.58}

Point = tuple[float, float]
Wire = tuple[Point, ...]


def to_svg(anatomy: Anatomy, *, width: int = 1120, fold: bool | None = None, title: str | None = None) -> str:
    """Return the drawing of a net as the text of an SVG file.

    Args:
        anatomy: the net.
        width: pixels after which a new row begins; a block that cannot be cut may be wider.
        fold: draw a pattern that comes several times once, with "×35": True always, False never, None where the net
            is long.
        title: heading; default: the name of the net. "" leaves it out.
    """
    return _Drawing(anatomy, plan(anatomy, fold), float(width)).svg(anatomy.name if title is None else title)


def text_width(text: str, size: float) -> float:
    """Pixels that a text takes at a font size; a little more than it needs in common fonts."""
    return size * sum(_WIDTHS.get(c, 0.72 if c.isupper() else 0.6) for c in text)


def short(number: float) -> str:
    """A number with three or four digits and a unit: "25.6 M"."""
    for unit, factor in (("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if number >= factor:
            return f"{number / factor:.3g} {unit}" if number < 999.5 * factor else f"{number / factor:,.0f} {unit}"
    return f"{number:,.0f}"


@dataclass(frozen=True, slots=True)
class _Size:
    """Room that an item takes: width, and above and below the axis on which its arrows run."""

    width: float
    up: float
    down: float


@dataclass(frozen=True, slots=True)
class _Bracket:
    """The name of a module below the steps that it holds."""

    path: str
    start: float
    end: float
    whole: bool  # it holds more than one step
    texts: list[str]  # what may be written, the longest first
    low: float  # how far its steps reach below the axis


class _Scale:
    """Pixels for sides of maps and for channels."""

    def __init__(self, volumes: Iterable[Volume]) -> None:
        volumes = list(volumes)
        sides = [n for v in volumes if not v.upright for n in (v.height, v.width) if n > 1]
        channels = [v.channels for v in volumes if v.channels > 0]
        self.most_side, self.side_power = self._fit(sides)
        self.most_channels, self.channel_power = self._fit(channels)

    @staticmethod
    def _fit(values: Sequence[int]) -> tuple[int, float]:
        if not values:
            return 1, 1.0
        return max(values), 1.0 if max(values) <= _LINEAR * min(values) else 0.5

    def side(self, n: int) -> float:
        return 1.0 if n <= 1 else max(2.0, _SIDE * (n / self.most_side) ** self.side_power)

    def channels(self, n: int) -> float:
        return max(2.0, _THICK * (n / self.most_channels) ** self.channel_power)

    def text(self, bars: bool) -> str:
        words = {1.0: "proportional", 0.5: "square-root scale"}
        told = (
            f"Drawn to scale: height and depth of a box are those of the map ({words[self.side_power]}), "
            f"its thickness is the number of channels ({words[self.channel_power]})."
        )
        if bars:
            told += " Upright bars have a single position; their length is the number of channels."
        return told + " Under the arrows: kernel, / stride; dw: one filter per channel, g: groups."


def _main(fan: Fan) -> int:
    """The longest branch."""
    return max(range(len(fan.branches)), key=lambda k: (fan.branches[k].joined, sum(1 for _ in walk(fan.branches[k]))))


def _passed(fan: Fan) -> bool:
    """True if a fan is one branch and short ways around it; False if its branches are of the same rank."""
    steps = [sum(1 for _ in walk(b)) for b in fan.branches]
    return 0 in steps or (len(steps) == 2 and steps[_main(fan)] > min(steps) and min(steps) <= 1)


class _Drawing:
    """Measures, places and writes one drawing."""

    def __init__(self, anatomy: Anatomy, chain: Chain, width: float) -> None:
        self.anatomy, self.chain, self.width = anatomy, chain, width
        self.steps = list(walk(chain))
        self.scale = _Scale(step.volume for step in self.steps)
        self.sizes: dict[int, _Size] = {}
        self.named = {id(item) for item in chain.items if isinstance(item, Step)}
        self.hanging: dict[int, tuple[Step, Step]] = {}  # fans drawn like a U, with the steps before and behind
        self.hung: set[int] = set()  # steps that an arrow enters, or leaves, at the top
        self.entered: set[int] = set()  # those that it enters
        self._find_hanging(chain)
        self.frames: list[str] = []
        self.boxes: list[str] = []
        self.wires: list[str] = []
        self.texts: list[str] = []
        self.right = 0.0

    def _find_hanging(self, item: Item | Chain, inside: bool = False) -> None:
        if isinstance(item, Chain):
            for before, fan, behind in zip(item.items, item.items[1:], item.items[2:], strict=False):
                if isinstance(fan, Fan) and isinstance(before, Step) and isinstance(behind, Step):
                    main = fan.branches[_main(fan)]
                    ends = main.items[:1] + main.items[-1:]
                    boxed = all(isinstance(e, Step) and e.kind not in (SUM, PRODUCT) for e in ends)
                    long = sum(1 for _ in walk(main)) > _U_SHAPED
                    small = inside and min(s.volume.height for s in walk(main)) < before.volume.height
                    if (long or small) and _passed(fan) and boxed and main.joined:
                        self.hanging[id(fan)] = before, behind
                        self.hung.update(map(id, ends))
                        self.entered.add(id(ends[0]))
        inner = item.items if isinstance(item, Chain) else item.branches if isinstance(item, Fan) else ()
        for one in [item.body] if isinstance(item, Repeat) else inner:
            self._find_hanging(one, inside or id(item) in self.hanging)

    # --- measuring -----------------------------------------------------------------------------------------------

    def box(self, step: Step) -> tuple[float, float, float, float]:
        """Front width and height of a step's box, and how far its depth goes right and up."""
        v = step.volume
        if step.kind in (SUM, PRODUCT):
            return 2 * _RADIUS, 2 * _RADIUS, 0.0, 0.0
        if v.upright:
            return _BAR, self.scale.channels(v.channels), 4.0, 3.0
        depth = self.scale.side(v.width) if v.width > 1 else _FLAT  # a sequence is a board
        return self.scale.channels(v.channels), self.scale.side(v.height), _SLANT[0] * depth, _SLANT[1] * depth

    def gap(self, step: Step) -> float:
        """Room for the arrow that leads to a step, and its label."""
        if step.kind == INPUT:
            return 0.0
        if id(step) in self.entered:
            return 14.0
        return max([_GAP if step.kind not in (SUM, PRODUCT) else 18.0, *(text_width(t, 9) + 8 for t in step.label)])

    def name(self, step: Step) -> str:
        """What is written below a step of the main path."""
        if id(step) not in self.named or step.kind in (SUM, PRODUCT):
            return ""
        if step.kind == INPUT:
            return "input" if len(self.anatomy.inputs) < 2 else "inputs"
        parts = step.layers[0].name.split(".")
        last = parts[-2] if len(parts) > 1 and parts[-1] in ("conv", "linear") else parts[-1]
        if last.isdigit() or ":" in last or step.label[:1] == ("block",):
            return ""
        return last if len(last) <= 12 else last[:11] + "…"

    def number(self, step: Step) -> str:
        """What is written below a box: its channels; of several inputs, how many they are."""
        several = step.kind == INPUT and len(self.anatomy.inputs) > 1
        return str(len(self.anatomy.inputs) if several else step.volume.channels)

    def slot(self, step: Step) -> float:
        """Width of a step without its gap: box and labels."""
        w, h, ox, oy = self.box(step)
        # texts of a high box stand below the labels of the arrows, and may reach under them
        gap = min(12.0, self.gap(step) / 2) if (h + oy) / 2 > 36 else 2.0
        words = [(self.number(step), 10.0), (self.name(step), 9.0)]
        if step.new_size:
            words.append((step.volume.size, 9.0))
        if step.kind in (SUM, PRODUCT):
            words = []
        return max([w + ox, *(text_width(t, s) - gap for t, s in words)])

    def measure(self, item: Item | Chain) -> _Size:
        known = self.sizes.get(id(item))
        if known is None:
            known = self.sizes[id(item)] = self._measure(item)
        return known

    def _measure(self, item: Item | Chain) -> _Size:
        if isinstance(item, Step):
            _, h, _, oy = self.box(item)
            half = (h + oy) / 2
            if item.kind in (SUM, PRODUCT):
                return _Size(self.gap(item) + 2 * _RADIUS, half + 2, half + 2)
            up = half + (13 if item.new_size and item.volume.size else 2) + (16 if id(item) in self.entered else 0)
            down = max(half + 14 + (11 if self.name(item) else 0), 12 + 9.5 * len(item.label))
            return _Size(self.gap(item) + self.slot(item), up, down)
        if isinstance(item, Chain):
            inner = [self.measure(i) for i in item.items]
            return _Size(
                sum(s.width for s in inner), max([4, *(s.up for s in inner)]), max([4, *(s.down for s in inner)])
            )
        if isinstance(item, Repeat):
            size = self.measure(item.body)
            return _Size(size.width + 22, size.up + 20, size.down + 6)
        if isinstance(item, Tangle):
            return self._tangle_size(item)
        lanes = self.lanes(item)
        sizes = [self.measure(b) for b in item.branches]
        if id(item) in self.hanging:
            return _Size(
                self._hanging_at(item)[1],
                max(s.up - y for s, y in zip(sizes, lanes, strict=True)),
                max(s.down + y for s, y in zip(sizes, lanes, strict=True)),
            )
        return _Size(
            max(s.width for s in sizes) + 2 * _TRUNK + 5,
            max(s.up - y for s, y in zip(sizes, lanes, strict=True)),
            max(s.down + y for s, y in zip(sizes, lanes, strict=True)),
        )

    def lanes(self, fan: Fan) -> list[float]:
        """Where the axis of each branch lies, relative to that of the fan (negative is above)."""
        sizes = [self.measure(b) for b in fan.branches]
        lanes = [0.0] * len(sizes)
        if not _passed(fan):
            total = sum(s.up + s.down for s in sizes) + _LANE * (len(sizes) - 1)
            at = -total / 2
            for k, size in enumerate(sizes):
                lanes[k] = at + size.up
                at += size.up + size.down + _LANE
            return lanes
        main = _main(fan)
        others = [k for k in range(len(sizes)) if k != main]
        if id(fan) in self.hanging:  # the short way runs straight on, the long one hangs below
            at = 0.0
            for k in others:
                at += sizes[k].up if at else 0.0
                lanes[k] = at
                at += sizes[k].down + _LANE
            lanes[main] = max(at, *(self.measure(s).down + _LANE for s in self.hanging[id(fan)])) + sizes[main].up
            return lanes
        at = -sizes[main].up - _LANE
        for k in sorted(others, key=lambda k: sum(1 for _ in walk(fan.branches[k])), reverse=True):
            lanes[k] = at - sizes[k].down
            at = lanes[k] - sizes[k].up - _LANE
        return lanes

    def _hanging_at(self, fan: Fan) -> tuple[float, float, float]:
        """Of a fan that hangs: where its long branch begins, its width, and where its arrow goes up, all from its left end.

        The long branch begins below the step before, and ends below the step behind.
        """
        before, behind = self.hanging[id(fan)]
        body = fan.branches[_main(fan)]
        first, last = body.items[0], body.items[-1]
        assert isinstance(first, Step) and isinstance(last, Step)
        width = self.measure(body).width
        w, _, ox, _ = self.box(before)
        down = -(self.slot(before) + w + ox) / 2 + w + ox / 2  # x of the arrow that goes down
        start = down - self.gap(first) - self.slot(first) / 2
        w, _, ox, _ = self.box(behind)
        up = self.gap(behind) + (self.slot(behind) - w - ox) / 2 + (w / 2 if behind.kind in (SUM, PRODUCT) else w + ox / 2)
        end = start + width - self.slot(last) / 2
        others = [self.measure(b).width for b in fan.branches if b is not body]
        room = max(2 * _TRUNK + 5 + max(others, default=0), end - up)
        return start, room, end

    # --- placing -------------------------------------------------------------------------------------------------

    def place(self, item: Item | Chain, x: float, y: float, wires: list[Wire]) -> list[Wire]:
        """Put an item with its left end at x on the axis y; return the wires that lead on from it."""
        if isinstance(item, Step):
            return [self._place_step(item, x, y, wires)]
        if isinstance(item, Chain):
            for inner in item.items:
                wires = self.place(inner, x, y, wires)
                x += self.measure(inner).width
            return wires
        if isinstance(item, Repeat):
            return self._place_repeat(item, x, y, wires)
        if isinstance(item, Tangle):
            return self._place_tangle(item, x, y, wires)
        if id(item) in self.hanging:
            return self._place_hanging(item, x, y, wires)
        size, on = self.measure(item), []
        for branch, lane in zip(item.branches, self.lanes(item), strict=True):
            inner_size = self.measure(branch)
            start = x + _TRUNK + (size.width - 2 * _TRUNK - 5 - inner_size.width) / 2
            into = [(*wire, (x + _TRUNK, wire[-1][1]), (x + _TRUNK, y + lane)) for wire in wires]
            out = self.place(branch, start, y + lane, into)
            if branch.joined:
                on += [(*wire, (x + size.width - _TRUNK, wire[-1][1])) for wire in out]
        return on

    def _place_hanging(self, fan: Fan, x: float, y: float, wires: list[Wire]) -> list[Wire]:
        before, behind = self.hanging[id(fan)]
        body, lanes = fan.branches[_main(fan)], self.lanes(fan)
        start, width, end = self._hanging_at(fan)
        first, last = body.items[0], body.items[-1]
        assert isinstance(first, Step) and isinstance(last, Step)
        axis = y + lanes[_main(fan)]
        self.place(body, x + start, axis, [])
        _, h, _, _ = self.box(first)
        middle, lid = x + start + self.gap(first) + self.slot(first) / 2, axis - h / 2
        _, h, _, _ = self.box(before)
        self.wire(((middle, y + h / 2), (middle, lid)))
        self.text(middle + 4, lid - self.box(first)[3] / 2 - 16, " ".join(first.label), "s")
        w, h, ox, _ = self.box(behind)
        up = self.gap(behind) + (self.slot(behind) - w - ox) / 2 + (w / 2 if behind.kind in (SUM, PRODUCT) else w + ox / 2)
        top = axis - self.box(last)[1] / 2
        turn = (top + y + h / 2) / 2
        self.wire(((x + end, top), (x + end, turn), (x + width + up, turn), (x + width + up, y + h / 2)))
        on: list[Wire] = []
        for branch, lane in zip(fan.branches, lanes, strict=True):
            if branch is body:
                continue
            begin = x + _TRUNK + (width - 2 * _TRUNK - 5 - self.measure(branch).width) / 2
            into = [(*wire, (x + _TRUNK, wire[-1][1]), (x + _TRUNK, y + lane)) if lane else wire for wire in wires]
            out = self.place(branch, begin, y + lane, into)
            on += [(*wire, (x + width - _TRUNK, wire[-1][1])) for wire in out]
        return on

    def _place_repeat(self, item: Repeat, x: float, y: float, wires: list[Wire]) -> list[Wire]:
        size = self.measure(item.body)
        top, bottom, w = y - size.up - 18, y + size.down + 5, size.width + 14
        self.frames.append(
            f'<rect class="fr" x="{_n(x + 5)}" y="{_n(top)}" width="{_n(w)}" height="{_n(bottom - top)}" rx="6"/>'
        )
        note = f"×{item.times}"
        if item.growing:
            first, last = ([s.volume.channels for s in walk(c)][-1] for c in (item.all[0], item.all[-1]))
            note += f", {first} to {last} channels" if first != last else ", not all equal"
        self.text(x + w - 1, top + 12, note, "e b")
        return self.place(item.body, x + 8, y, wires)

    def _place_step(self, step: Step, x: float, y: float, wires: list[Wire]) -> Wire:
        w, h, ox, oy = self.box(step)
        gap, slot = self.gap(step), self.slot(step)
        left = x + gap + (slot - w - ox) / 2
        self.right = max(self.right, x + gap + slot)
        if step.kind in (SUM, PRODUCT):
            left = x + gap
            cx = left + _RADIUS
            for wire in wires:
                end = wire[-1][1]
                aside = abs(end - y) > 1
                self.wire((*wire, (cx, end), (cx, y + math.copysign(_RADIUS, end - y))) if aside else (*wire, (left, y)))
            sign = "M-4 0H4M0-4V4" if step.kind == SUM else "M-3-3L3 3M3-3L-3 3"
            self.boxes.append(
                f'<g class="op" transform="translate({_n(cx)} {_n(y)})"><title>{escape(self._told(step))}</title>'
                f'<circle r="{_RADIUS}"/><path d="{sign}"/></g>'
            )
            return ((left + 2 * _RADIUS, y),)
        spread = h * 0.32
        for wire in wires:
            end = wire[-1][1]
            into = y + max(-spread, min(spread, (end - y) * 0.4))
            turn = wire[-1][0]
            self.wire((*wire, (turn, into), (left, into)) if abs(end - y) > 1 else (*wire, (left, y)))
        self._draw_box(step, left, y, w, h, ox, oy)
        middle = left + (w + ox) / 2
        if step.new_size and step.volume.size:
            if id(step) in self.hung:
                self.text(middle - 4, y - (h + oy) / 2 - 5, step.volume.size, "e s")
            else:
                self.text(middle, y - (h + oy) / 2 - 4, step.volume.size, "m s")
        below = left + w / 2 if not step.volume.upright else middle
        self.text(below, y + (h + oy) / 2 + 11, self.number(step), "m")
        if name := self.name(step):
            self.text(below, y + (h + oy) / 2 + 21, name, "m s")
        # the left of the gap may be covered by the depth of the box before: its lower edge slants away from the label
        for k, line in enumerate(step.label if wires else ()):
            self.text(left - 4 - max(0.0, gap - 8 - text_width(line, 9)) / 2, y + 10 + 9.5 * k, line, "e k")
        return ((left + w + ox / 2, y),)

    def _draw_box(self, step: Step, x: float, y: float, w: float, h: float, ox: float, oy: float) -> None:
        top = y + oy / 2 - h / 2
        face = f'<path d="M{_n(x)} {_n(top)}h{_n(w)}v{_n(h)}h{_n(-w)}z"/>'
        lid = f'<path class="t" d="M{_n(x)} {_n(top)}l{_n(ox)} {_n(-oy)}h{_n(w)}l{_n(-ox)} {_n(oy)}z"/>'
        side = f'<path class="d" d="M{_n(x + w)} {_n(top)}l{_n(ox)} {_n(-oy)}v{_n(h)}l{_n(-ox)} {_n(oy)}z"/>'
        seams = ""
        if len(step.parts) > 1 and w > 3 * len(step.parts):
            at, whole = 0.0, sum(step.parts)
            for part in step.parts[:-1]:
                at += w * part / whole
                seams += f"M{_n(x + at)} {_n(top + h)}v{_n(-h)}l{_n(ox)} {_n(-oy)}"
            seams = f'<path class="z" d="{seams}"/>'
        told = escape(self._told(step))
        self.boxes.append(f'<g class="{_CLASS[step.kind]}"><title>{told}</title>{face}{lid}{side}{seams}</g>')

    def _told(self, step: Step) -> str:
        """What a box says when the pointer rests on it."""
        shape = " × ".join(map(str, (step.volume.channels, *step.volume.extent)))
        if step.kind == INPUT:
            return "input: " + "; ".join(" × ".join(map(str, s[1:])) for s in self.anatomy.inputs)
        first = step.layers[0]
        names = ", ".join(f"{x.name} ({x.kind})" for x in step.layers[:6]) + (", …" if len(step.layers) > 6 else "")
        told = [names, f"output {shape}"]
        if params := sum(x.params for x in step.layers):
            told.append(f"{params:,} parameters")
        if macs := sum(x.macs for x in step.layers):
            told.append(f"{short(macs)} MACs")
        if first.field is not None and not step.volume.upright:
            told.append("receptive field " + _joined(first.field.size))
        return "; ".join(told)

    # --- tangles -------------------------------------------------------------------------------------------------

    def _tangle_size(self, item: Tangle) -> _Size:
        sizes = [[self.measure(s) for s in column] for column in item.columns]
        half = max(sum(s.up + s.down + _LANE for s in column) for column in sizes) / 2
        lanes = 7.0 * self._far(item)
        width = sum(max(s.width for s in column) + _TRUNK for column in sizes)
        return _Size(width + _TRUNK, half + lanes, half)

    @staticmethod
    def _far(item: Tangle) -> int:
        """Connections that pass over a column, and so get a lane of their own above all."""
        rank = {s.number: k for k, column in enumerate(item.columns) for s in column}
        far = sum(1 for a, b in item.edges if rank[b] - rank.get(a, -1) > 1)
        return far + sum(1 for n in item.ends if rank[n] < len(item.columns) - 1)

    def _place_tangle(self, item: Tangle, x: float, y: float, wires: list[Wire]) -> list[Wire]:
        rank = {s.number: k for k, column in enumerate(item.columns) for s in column}
        ends = x + self.measure(item).width - _TRUNK
        sky = y - self.measure(item).up + 4
        from_: dict[int, list[Wire]] = {-1: [(*wire, (x + 3, wire[-1][1])) for wire in wires]}
        out: list[Wire] = []
        for k, column in enumerate(item.columns):
            sizes = [self.measure(s) for s in column]
            at = y - sum(s.up + s.down + _LANE for s in sizes) / 2
            trunk = x + _TRUNK - 2
            for step, size in zip(column, sizes, strict=True):
                at += size.up
                into: list[Wire] = []
                for a, b in item.edges:
                    if b != step.number:
                        continue
                    for wire in from_[a]:
                        if k - rank.get(a, -1) > 1:
                            wire = (*wire, (wire[-1][0], sky), (trunk, sky))
                            sky += 7
                        into.append((*wire, (trunk, wire[-1][1]), (trunk, at)))
                out_of = self._place_step(step, x + _TRUNK, at, into)
                clear = out_of[-1][0] + self.box(step)[2] / 2 + 4 + 3 * column.index(step)
                from_[step.number] = [(*out_of, (clear, at))]
                if step.number in item.ends:
                    for wire in from_[step.number]:
                        if k < len(item.columns) - 1:
                            wire = (*wire, (wire[-1][0], sky), (ends, sky))
                            sky += 7
                        out.append((*wire, (ends, wire[-1][1])))
                at += size.down + _LANE
            x += max(s.width for s in sizes) + _TRUNK
        return out

    # --- rows ----------------------------------------------------------------------------------------------------

    def units(self) -> list[list[Item]]:
        """Items of the main chain that stay in one row: branches with the step that joins them."""
        units: list[list[Item]] = []
        open_ = False
        for item in self.chain.items:
            if open_:
                units[-1].append(item)
            elif id(item) in self.hanging:  # begins below the step before
                before = units.pop()
                if len(before) > 1:
                    units.append(before[:-1])
                units.append([before[-1], item])
            else:
                units.append([item])
            open_ = isinstance(item, Fan | Tangle)
        return units

    def rows(self) -> list[list[list[Item]]]:
        """Units in rows of about the same width, as few rows as fit."""
        units = self.units()
        widths = [sum(self.measure(i).width for i in unit) for unit in units]

        def cut(limit: float) -> list[list[list[Item]]]:
            rows: list[list[list[Item]]] = []
            at = math.inf
            for unit, w in zip(units, widths, strict=True):
                if at + w > limit:
                    rows.append([])
                    at = 0.0
                rows[-1].append(unit)
                at += w
            return rows

        room = max(self.width - 40, *widths)
        if max(widths) > 0.75 * self.width and sum(widths) < 2.4 * self.width:
            room = sum(widths)  # a U is not torn from what leads to it
        few = len(cut(room))
        low, high = max(widths), room
        for _ in range(12):
            middle = (low + high) / 2
            low, high = (low, middle) if len(cut(middle)) == few else (middle, high)
        return cut(high)

    def _captions(self, spans: Sequence[tuple[list[Item], float, float]], axis: float) -> float:
        """Put brackets with the names of modules under a row; return where they end."""
        found: list[_Bracket] = []
        for unit, x0, x1 in spans:
            whole = len(unit) > 1 or isinstance(unit[0], Repeat)
            path = module_path(unit)
            texts = self._caption(unit, path)
            low = max(self.measure(i).down for i in unit)
            if found and path and found[-1].path == path and not any(isinstance(i, Repeat) for i in unit):
                found[-1] = _Bracket(path, found[-1].start, x1, True, texts, max(low, found[-1].low))
            else:
                found.append(_Bracket(path, x0, x1, whole, texts, low))
        shown = [one for one in found if one.whole and one.texts]
        y = axis + max((one.low for one in shown), default=0.0) + 4
        for one in shown:
            a, b = one.start + 6, one.end - 2
            self.frames.append(f'<path class="br" d="M{_n(a)} {_n(y)}v4H{_n(b)}v-4"/>')
            fits = next((t for t in one.texts if text_width(t, 9) <= b - a), one.texts[-1])
            self.text((a + b) / 2, y + 16, _clipped(fits, 9, b - a), "m s")
        return y + 20 if shown else axis

    def _caption(self, unit: Sequence[Item], path: str) -> list[str]:
        """Texts for a bracket, the most telling one first."""
        if isinstance(unit[0], Repeat):
            first, last = (module_path([c]) for c in (unit[0].all[0], unit[0].all[-1]))
            if first != last:
                kind = self.anatomy.modules.get(first, "")
                until = last.rpartition(".")[2] if first.rpartition(".")[0] == last.rpartition(".")[0] else last
                return [f"{name} – {until} {kind}".strip() for name in _tails(first)] + [f"{_tails(first)[-1]} – {until}"]
            path = first
        kind = self.anatomy.modules.get(path, "")
        plain = kind in ("", "Sequential", "ModuleList")
        return [*([] if plain else [f"{name} {kind}" for name in _tails(path)]), *_tails(path)] if path else []

    def svg(self, title: str) -> str:
        """Place everything and write the file."""
        y = 10.0
        if title:
            self.text(14, y + 16, title, "h")
            self.text(14, y + 34, self._subtitle(), "s")
            y += 48
        left = 20.0
        wires: list[Wire] = []
        for row in self.rows():
            sizes = [self.measure(item) for unit in row for item in unit]
            axis = y + max(s.up for s in sizes)
            if wires:  # from the end of the row before, around, to the start of this one
                self.right += 12
                around = ((self.right, wires[0][-1][1]), (self.right, y - 8), (8, y - 8), (8, axis), (14, axis))
                self.wire((*wires[0], *around), head=False)
                wires = [((14, axis),)]
            x, spans = left, []
            for unit in row:
                begin = x
                for item in unit:
                    wires = self.place(item, x, axis, wires)
                    x += self.measure(item).width
                spans.append((unit, begin, x))
            self.right = max(self.right, x)
            y = axis + max(s.down for s in sizes) + 4
            if not any(id(item) in self.hanging for unit in row for item in unit):
                y = max(y, self._captions(spans, axis))
            y += 20
        y = self._legend(y - 8)
        w, h = math.ceil(max(self.right + 20, 520)), math.ceil(y + 6)
        fits = ' style="max-width:100%;height:auto"' if w <= 1.2 * self.width else ""
        body = "\n".join([*self.frames, *self.boxes, *self.wires, *self.texts])
        label = escape(f"Drawing of {self.anatomy.name}: {self._subtitle()}", quote=True)
        return (
            f'<svg xmlns="http://www.w3.org/2000/svg" class="neocog-net" viewBox="0 0 {w} {h}" width="{w}" height="{h}"'
            f'{fits} role="img" aria-label="{label}">\n<style>{_STYLE}</style>\n'
            f'<rect class="bg" width="{w}" height="{h}"/>\n{body}\n</svg>\n'
        )

    def _subtitle(self) -> str:
        a = self.anatomy
        inputs = ", ".join(" × ".join(map(str, shape[1:])) or "1" for shape in a.inputs)
        return f"{short(a.params)} parameters, {short(a.macs / max(1, a.batch))} MACs for one input of {inputs}"

    def _legend(self, y: float) -> float:
        limit = max(self.right, 500.0)
        x = 14.0
        for kind in dict.fromkeys(step.kind for step in self.steps if step.kind not in (INPUT, SUM, PRODUCT)):
            w = 24 + text_width(kind, 10)
            if x + w > limit and x > 14:
                x, y = 14.0, y + 17
            self.boxes.append(
                f'<g class="{_CLASS[kind]}"><rect x="{_n(x)}" y="{_n(y)}" width="11" height="11" rx="1"/></g>'
            )
            self.text(x + 16, y + 9.5, kind, "")
            x += w + 6
        y += 28
        for line in _wrapped(self.scale.text(any(s.volume.upright for s in self.steps)), 9, limit - 20):
            self.text(14, y, line, "s")
            y += 13
        return y

    # --- writing -------------------------------------------------------------------------------------------------

    def text(self, x: float, y: float, text: str, css: str) -> None:
        named = f' class="{css}"' if css else ""
        self.texts.append(f'<text{named} x="{_n(x)}" y="{_n(y)}">{escape(text)}</text>')

    def wire(self, points: Wire, head: bool = True) -> None:
        """A line around rounded corners, with or without an arrowhead."""
        points = _straight(points)
        d = f"M{_h(points[0][0])} {_h(points[0][1])}"
        for k, (x, y) in enumerate(points[1:], start=1):
            if k == len(points) - 1:
                d += f"L{_h(x)} {_h(y)}"
                break
            (px, py), (nx, ny) = points[k - 1], points[k + 1]
            r = min(5.0, math.dist((px, py), (x, y)) / 2, math.dist((nx, ny), (x, y)) / 2)
            a = _towards((x, y), (px, py), r)
            b = _towards((x, y), (nx, ny), r)
            d += f"L{_h(a[0])} {_h(a[1])}Q{_h(x)} {_h(y)} {_h(b[0])} {_h(b[1])}"
        (px, py), (x, y) = points[-2], points[-1]
        x, y, px, py = (math.floor(v) + 0.5 for v in (x, y, px, py))
        length = math.dist((px, py), (x, y)) or 1.0
        ux, uy = (x - px) / length, (y - py) / length
        barbs = [(x - 6 * ux + s * 2.6 * uy, y - 6 * uy - s * 2.6 * ux) for s in (1, -1)]
        tip = "L".join(f"{_n(a)} {_n(b)}" for a, b in (barbs[0], (x, y), barbs[1]))
        self.wires.append(f'<path class="w" d="{d}"/>' + (f'<path class="a" d="M{tip}z"/>' if head else ""))


def _straight(points: Wire) -> Wire:
    """The same line without repeated points and points on the way."""
    kept: list[Point] = []
    for p in points:
        if kept and math.dist(kept[-1], p) < 0.05:
            continue
        if len(kept) > 1:
            (ax, ay), (bx, by) = kept[-2], kept[-1]
            if abs((bx - ax) * (p[1] - ay) - (by - ay) * (p[0] - ax)) < 0.05:
                kept.pop()
        kept.append(p)
    return tuple(kept) if len(kept) > 1 else (points[0], (points[0][0] + 1, points[0][1]))


def _towards(a: Point, b: Point, r: float) -> Point:
    d = math.dist(a, b) or 1.0
    return a[0] + (b[0] - a[0]) * r / d, a[1] + (b[1] - a[1]) * r / d


def _n(value: float) -> str:
    """A coordinate with one decimal, as short as it can be written."""
    text = f"{value:.1f}"
    text = text[:-2] if text.endswith(".0") else text
    return "0" if text == "-0" else text


def _h(value: float) -> str:
    """A coordinate in the middle of a pixel: lines that lie on each other look like one."""
    return f"{math.floor(value)}.5" if value >= 0 else _n(value)


def _tails(path: str) -> list[str]:
    """The path, and shorter and shorter ends of it that do not begin with a number."""
    parts = path.split(".")
    ends = [".".join(parts[k:]) for k in range(len(parts)) if k == 0 or not parts[k].isdigit()]
    return ends or [path]


def _joined(values: Sequence[object]) -> str:
    return str(values[0]) if len(set(values)) == 1 else " × ".join(map(str, values))


def _clipped(text: str, size: float, width: float) -> str:
    if text_width(text, size) <= width:
        return text
    while text and text_width(text + "…", size) > width:
        text = text[:-1]
    return text.rstrip() + "…" if text else ""


def _wrapped(text: str, size: float, width: float) -> list[str]:
    lines: list[str] = []
    for word in text.split(" "):
        if lines and text_width(f"{lines[-1]} {word}", size) <= width:
            lines[-1] += " " + word
        else:
            lines.append(word)
    return lines


def _shade(colour: tuple[int, int, int], towards: int, share: float) -> str:
    return "#" + "".join(f"{round(c + (towards - c) * share):02x}" for c in colour)


def _style() -> str:
    """Style sheet; every rule is bound to drawings, because inline SVG shares the style of its page."""
    n = ".neocog-net"
    rules = [
        f"{n}{{font:10px Helvetica,Arial,'Liberation Sans',sans-serif}}",
        f"{n} .bg{{fill:#fff}}{n} text{{fill:#1f2328}}{n} .m{{text-anchor:middle}}{n} .e{{text-anchor:end}}",
        f"{n} .s,{n} .k{{font-size:9px;fill:#57606a}}{n} .b{{font-weight:700;font-size:11px}}",
        f"{n} .h{{font-size:16px;font-weight:700}}{n} .w{{fill:none;stroke:#444c56;stroke-width:1}}{n} .a{{fill:#444c56}}",
        f"{n} g path,{n} g rect{{stroke:#32383f;stroke-width:.6;stroke-linejoin:round}}{n} .z{{fill:none}}",
        f"{n} .fr{{fill:#8c959f;fill-opacity:.1;stroke:#8c959f;stroke-dasharray:4 3}}{n} .br{{fill:none;stroke:#8c959f}}",
        f"{n} .op circle{{fill:#fff;stroke:#444c56}}{n} .op path{{stroke:#444c56;stroke-width:1.4;fill:none}}",
    ]
    for name, colour in _COLOURS.items():
        rules.append(
            f"{n} .{name}{{fill:{_shade(colour, 0, 0)}}}{n} .{name} .t{{fill:{_shade(colour, 255, 0.45)}}}"
            f"{n} .{name} .d{{fill:{_shade(colour, 0, 0.22)}}}"
        )
    dark = [
        f"{n} .bg{{fill:#15181c}}{n} text{{fill:#e5e8eb}}{n} .s,{n} .k{{fill:#a4adb7}}{n} .w{{stroke:#b6bec7}}",
        f"{n} .a{{fill:#b6bec7}}{n} .op circle{{fill:#15181c;stroke:#b6bec7}}{n} .op path{{stroke:#b6bec7}}",
        f"{n} g path,{n} g rect{{stroke:#0b0d10}}",
    ]
    for name, colour in _COLOURS.items():
        dark.append(
            f"{n} .{name}{{fill:{_shade(colour, 0, 0.14)}}}{n} .{name} .t{{fill:{_shade(colour, 255, 0.2)}}}"
            f"{n} .{name} .d{{fill:{_shade(colour, 0, 0.4)}}}"
        )
    return "".join(rules) + "@media(prefers-color-scheme:dark){" + "".join(dark) + "}"


_STYLE = _style()
