"""Draw a net to scale, as the papers do: maps as boxes, fully connected layers as bars, branches as branches.

The drawing is one SVG without script, font or picture from elsewhere, the same for the same net, readable on light and
dark screens. `drawing_plan` decides what is drawn; here it is measured, placed and written.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .drawing_items import Chain, Fan, Item, Repeat, Tangle, module_path, walk
from .drawing_marks import STYLE, Ink, Wire, clipped, n, safe, short, tails, text_width, wrapped
from .drawing_measure import LANE, RADIUS, TRUNK, Measure, longest
from .drawing_plan import plan
from .drawing_steps import CONCAT, CONV, FROM, FULL, INPUT, OTHER, POOL, PRODUCT, SUM, TO, UP, Step

if TYPE_CHECKING:
    from .whole import Anatomy


_CLASS = {INPUT: "in", CONV: "co", UP: "up", POOL: "po", FULL: "fc", CONCAT: "ca", OTHER: "ot"}


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


@dataclass(frozen=True, slots=True)
class _Bracket:
    """The name of a module below the steps that it holds."""

    path: str
    start: float
    end: float
    whole: bool  # it holds more than one step
    texts: list[str]  # what may be written, the longest first
    low: float  # how far its steps reach below the axis


class _Drawing(Measure):
    """Places and writes one drawing."""

    def __init__(self, anatomy: Anatomy, chain: Chain, width: float) -> None:
        super().__init__(anatomy, chain)
        self.chain, self.width = chain, width
        self.ink = Ink()
        self.right = 0.0

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
        return self._place_branches(item, item.branches, x, y, wires)

    def _place_branches(self, fan: Fan, some: Sequence[Chain], x: float, y: float, wires: list[Wire]) -> list[Wire]:
        width, on, straight = self.measure(fan).width, list[Wire](), id(fan) in self.hanging
        for branch, lane in zip(fan.branches, self.lanes(fan), strict=True):
            if branch not in some:
                continue
            start = x + TRUNK + (width - 2 * TRUNK - 5 - self.measure(branch).width) / 2
            into = wires
            if lane or not straight:
                into = [(*wire, (x + TRUNK, wire[-1][1]), (x + TRUNK, y + lane)) for wire in wires]
            out = self.place(branch, start, y + lane, into)
            if branch.joined:
                on += [(*wire, (x + width - TRUNK, wire[-1][1])) for wire in out]
        return on

    def _place_hanging(self, fan: Fan, x: float, y: float, wires: list[Wire]) -> list[Wire]:
        before, behind = self.hanging[id(fan)]
        body, lanes = fan.branches[longest(fan)], self.lanes(fan)
        start, width, end, up = self.hanging_at(fan)
        first, last = body.items[0], body.items[-1]
        assert isinstance(first, Step) and isinstance(last, Step)
        axis = y + lanes[longest(fan)]
        self.place(body, x + start, axis, [])
        _, h, _, _ = self.box(first)
        middle, lid = x + start + self.gap(first) + self.slot(first) / 2, axis - h / 2
        _, h, _, _ = self.box(before)
        self.ink.wire(((middle, y + h / 2), (middle, lid)))
        self.ink.text(middle + 4, lid - self.box(first)[3] / 2 - 16, " ".join(first.label), "s")
        _, h, _, _ = self.box(behind)
        top = axis - self.box(last)[1] / 2
        turn = (top + y + h / 2) / 2
        self.ink.wire(((x + end, top), (x + end, turn), (x + width + up, turn), (x + width + up, y + h / 2)))
        return self._place_branches(fan, [b for b in fan.branches if b is not body], x, y, wires)

    def _place_repeat(self, item: Repeat, x: float, y: float, wires: list[Wire]) -> list[Wire]:
        size = self.measure(item.body)
        top, bottom, w = y - size.up - 18, y + size.down + 5, size.width + 14
        self.ink.frames.append(
            f'<rect class="fr" x="{n(x + 5)}" y="{n(top)}" width="{n(w)}" height="{n(bottom - top)}" rx="6"/>'
        )
        note = f"×{item.times}"
        if item.growing:
            first, last = ([s.volume.channels for s in walk(c)][-1] for c in (item.all[0], item.all[-1]))
            note += f", {first} to {last} channels" if first != last else ", not all equal"
        self.ink.text(x + w - 1, top + 12, note, "e b")
        return self.place(item.body, x + 8, y, wires)

    def _place_step(self, step: Step, x: float, y: float, wires: list[Wire]) -> Wire:
        w, h, ox, oy = self.box(step)
        gap, slot = self.gap(step), self.slot(step)
        left = x + gap + (slot - w - ox) / 2
        self.right = max(self.right, x + gap + slot)
        if step.kind in (TO, FROM):
            if step.kind == TO:
                self.ink.wire((*wires[0], (x + gap, y)))
            self.ink.frames.append(
                f'<rect class="fr" x="{n(x + gap)}" y="{n(y - h / 2)}" width="{n(w)}" height="{n(h)}" rx="9"/>'
            )
            self.ink.text(x + gap + w / 2, y + 3, step.label[0], "m s")
            return ((x + gap + w, y),)
        if step.kind in (SUM, PRODUCT):
            left = x + gap
            cx = left + RADIUS
            for wire in wires:
                end = wire[-1][1]
                aside = abs(end - y) > 1
                self.ink.wire(
                    (*wire, (cx, end), (cx, y + math.copysign(RADIUS, end - y))) if aside else (*wire, (left, y))
                )
            sign = "M-4 0H4M0-4V4" if step.kind == SUM else "M-3-3L3 3M3-3L-3 3"
            self.ink.boxes.append(
                f'<g class="op" transform="translate({n(cx)} {n(y)})"><title>{safe(self._told(step))}</title>'
                f'<circle r="{RADIUS}"/><path d="{sign}"/></g>'
            )
            return ((left + 2 * RADIUS, y),)
        spread = h * 0.32
        for wire in wires:
            end = wire[-1][1]
            into = y + max(-spread, min(spread, (end - y) * 0.4))
            turn = wire[-1][0]
            self.ink.wire((*wire, (turn, into), (left, into)) if abs(end - y) > 1 else (*wire, (left, y)))
        self._draw_box(step, left, y, w, h, ox, oy)
        middle = left + (w + ox) / 2
        if step.new_size and step.volume.size:
            if id(step) in self.hung:
                self.ink.text(middle - 4, y - (h + oy) / 2 - 5, step.volume.size, "e s")
            else:
                self.ink.text(middle, y - (h + oy) / 2 - 4, step.volume.size, "m s")
        below = left + w / 2 if not step.volume.upright else middle
        self.ink.text(below, y + (h + oy) / 2 + 11, str(step.volume.channels), "m")
        if name := self.name(step):
            self.ink.text(below, y + (h + oy) / 2 + 21, name, "m s")
        for k, line in enumerate(step.label if wires else ()):
            self.ink.text(left - 4 - max(0.0, gap - 8 - text_width(line, 9)) / 2, y + 10 + 9.5 * k, line, "e k")
        return ((left + w + ox / 2, y),)

    def _draw_box(self, step: Step, x: float, y: float, w: float, h: float, ox: float, oy: float) -> None:
        top = y + oy / 2 - h / 2
        face = f'<path d="M{n(x)} {n(top)}h{n(w)}v{n(h)}h{n(-w)}z"/>'
        lid = f'<path class="t" d="M{n(x)} {n(top)}l{n(ox)} {n(-oy)}h{n(w)}l{n(-ox)} {n(oy)}z"/>'
        side = f'<path class="d" d="M{n(x + w)} {n(top)}l{n(ox)} {n(-oy)}v{n(h)}l{n(-ox)} {n(oy)}z"/>'
        seams = ""
        if len(step.parts) > 1 and w > 3 * len(step.parts):
            at, whole = 0.0, sum(step.parts)
            for part in step.parts[:-1]:
                at += w * part / whole
                seams += f"M{n(x + at)} {n(top + h)}v{n(-h)}l{n(ox)} {n(-oy)}"
            seams = f'<path class="z" d="{seams}"/>'
        told = safe(self._told(step))
        self.ink.boxes.append(f'<g class="{_CLASS[step.kind]}"><title>{told}</title>{face}{lid}{side}{seams}</g>')

    def _told(self, step: Step) -> str:
        """What a box says when the pointer rests on it."""
        shape = " × ".join(map(str, (step.volume.channels, *step.volume.extent)))
        if step.kind == INPUT:
            return f"{step.label[0]}: {shape}"
        first = step.layers[0]
        names = ", ".join(f"{x.name} ({x.kind})" for x in step.layers[:6]) + (", …" if len(step.layers) > 6 else "")
        told = [names, f"output {shape}"]
        if params := sum(x.params for x in step.layers):
            told.append(f"{params:,} parameters")
        if macs := sum(x.macs for x in step.layers):
            told.append(f"{short(macs)} MACs")
        if first.field is not None and not step.volume.upright:
            sizes = first.field.size
            sides = str(sizes[0]) if len(set(sizes)) == 1 else " × ".join(map(str, sizes))
            told.append("receptive field " + "at least " * first.field.at_least + sides)
        return "; ".join(told)

    def _place_tangle(self, item: Tangle, x: float, y: float, wires: list[Wire]) -> list[Wire]:
        rank = {s.number: k for k, column in enumerate(item.columns) for s in column}
        ends = x + self.measure(item).width - TRUNK
        sky = y - self.measure(item).up + 4
        from_: dict[int, list[Wire]] = {-1: [(*wire, (x + 3, wire[-1][1])) for wire in wires]}
        out: list[Wire] = []
        for k, column in enumerate(item.columns):
            sizes = [self.measure(s) for s in column]
            at = y - sum(s.up + s.down + LANE for s in sizes) / 2
            trunk = x + TRUNK - 2
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
                out_of = self._place_step(step, x + TRUNK, at, into)
                clear = out_of[-1][0] + self.box(step)[2] / 2 + 4 + 3 * column.index(step)
                from_[step.number] = [(*out_of, (clear, at))]
                if step.number in item.ends:
                    for wire in from_[step.number]:
                        if k < len(item.columns) - 1:
                            wire = (*wire, (wire[-1][0], sky), (ends, sky))
                            sky += 7
                        out.append((*wire, (ends, wire[-1][1])))
                at += size.down + LANE
            x += max(s.width for s in sizes) + TRUNK
        return out

    # --- rows ----------------------------------------------------------------------------------------------------

    def units(self) -> list[list[Item]]:
        """Items of the main chain that stay in one row: branches with the step that joins them."""
        units: list[list[Item]] = []
        open_ = False
        for item in self.chain.items:
            if open_ or id(item) in self.hanging:
                units[-1].append(item)
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
                if at + w > limit or _begins(unit):
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
            self.ink.frames.append(f'<path class="br" d="M{n(a)} {n(y)}v4H{n(b)}v-4"/>')
            fits = next((t for t in one.texts if text_width(t, 9) <= b - a), one.texts[-1])
            self.ink.text((a + b) / 2, y + 16, clipped(fits, 9, b - a), "m s")
        return y + 20 if shown else axis

    def _caption(self, unit: Sequence[Item], path: str) -> list[str]:
        """Texts for a bracket, the most telling one first."""
        if isinstance(unit[0], Repeat):
            first, last = (module_path([c]) for c in (unit[0].all[0], unit[0].all[-1]))
            if first != last:
                kind = self.anatomy.modules.get(first, "")
                until = last.rpartition(".")[2] if first.rpartition(".")[0] == last.rpartition(".")[0] else last
                stem = first.rpartition(".")[2].rstrip("0123456789")  # "denselayer1 – 6", not "– denselayer6"
                until = until.removeprefix(stem) if until[len(stem) :].isdigit() else until
                names = self._clear(first)
                return [f"{name} – {until} {kind}".strip() for name in names] + [f"{names[-1]} – {until}"]
            path = first
        kind = self.anatomy.modules.get(path, "")
        plain = kind in ("", "Sequential", "ModuleList")
        names = self._clear(path) if path else []
        return [*([] if plain else [f"{name} {kind}" for name in names]), *names]

    def _clear(self, path: str) -> list[str]:
        """The path, and shorter ends of it that no other module has."""
        whole, *ends = tails(path)
        return [whole, *(e for e in ends if sum(m == e or m.endswith(f".{e}") for m in self.anatomy.modules) < 2)]

    def svg(self, title: str) -> str:
        """Place everything and write the file."""
        y = 10.0
        if title:
            self.ink.text(14, y + 16, title, "h")
            self.ink.text(14, y + 34, self._subtitle(), "s")
            y += 48
        left = 20.0
        wires: list[Wire] = []
        for row in self.rows():
            sizes = [self.measure(item) for unit in row for item in unit]
            axis = y + max(s.up for s in sizes)
            if _begins(row[0]):
                wires = []
            if wires:  # from the end of the row before, around, to the start of this one
                self.right += 12
                around = ((self.right, wires[0][-1][1]), (self.right, y - 8), (8, y - 8), (8, axis), (14, axis))
                self.ink.wire((*wires[0], *around), head=False)
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
        label = safe(f"Drawing of {self.anatomy.name}: {self._subtitle()}")
        return (
            f'<svg xmlns="http://www.w3.org/2000/svg" class="neocog-net" viewBox="0 0 {w} {h}" width="{w}" height="{h}"'
            f'{fits} role="img" aria-label="{label}">\n<style>{STYLE}</style>\n'
            f'<rect class="bg" width="{w}" height="{h}"/>\n{self.ink}\n</svg>\n'
        )

    def _subtitle(self) -> str:
        a = self.anatomy
        inputs = " and ".join(" × ".join(map(str, shape[1:])) or "1" for shape in a.inputs)
        one = "one input" if len(a.inputs) < 2 else "inputs"
        return f"{short(a.params)} parameters, {short(a.macs / max(1, a.batch))} MACs for {one} of {inputs}"

    def _legend(self, y: float) -> float:
        limit = max(self.right, 500.0)
        x = 14.0
        for kind in dict.fromkeys(step.kind for step in walk(self.chain) if step.kind in _CLASS and step.kind != INPUT):
            w = 24 + text_width(kind, 10)
            if x + w > limit and x > 14:
                x, y = 14.0, y + 17
            self.ink.boxes.append(
                f'<g class="{_CLASS[kind]}"><rect x="{n(x)}" y="{n(y)}" width="11" height="11" rx="1"/></g>'
            )
            self.ink.text(x + 16, y + 9.5, kind, "")
            x += w + 6
        y += 28
        boxes = [step for step in walk(self.chain) if step.kind in _CLASS]
        words = self.scale.text(
            bars=any(step.volume.upright for step in boxes),
            kernels=any(step.kind in (CONV, UP, POOL) for step in boxes),
            named=any(step.kind == TO for step in walk(self.chain)),
        )
        for line in wrapped(words, 9, limit - 20):
            self.ink.text(14, y, line, "s")
            y += 13
        return y


def _begins(unit: Sequence[Item]) -> bool:
    """True for the input of a net, with which a row begins."""
    return isinstance(unit[0], Step) and unit[0].kind == INPUT
