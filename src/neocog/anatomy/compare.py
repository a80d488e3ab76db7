"""Compare nets: one table, and published accuracy against MACs with circles as large as the parameters.

The scatter plot is that of Canziani, Paszke, Culurciello 2016 (arXiv:1605.07678), on a logarithmic axis.
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..charts import ticks
from ..errors import UsageError
from ..names import plain
from ..page import Html, page, paragraph, table
from .drawing_marks import safe, short, text_width
from .output import bytes_text, csv_text, shape_text, sides_text, text_table
from .whole import Anatomy

_W, _H, _LEFT, _RIGHT, _TOP, _BOTTOM = 860.0, 520.0, 64.0, 30.0, 54.0, 52.0
_LARGEST = 38.0  # radius of the largest circle
_SMALLEST = 3.0
_FONT = 11.0
_COLOURS = ("#0b62c4", "#c2410c", "#0a7d55", "#a21caf", "#8a6100", "#0e7490", "#be123c", "#52525b")
_DARK = ("#6cb1ff", "#fb9a5b", "#4fd1a0", "#e08cf0", "#e0b94a", "#5ccfe6", "#ff8098", "#b4bac0")

_NUMERIC = frozenset(
    ("year", "parameters", "MACs", "peak memory", "training memory", "receptive field", "layers with weights")
)

Rectangle = tuple[float, float, float, float]


@dataclass(frozen=True, slots=True)
class Published:
    """A published accuracy: the data set and the top-1 accuracy in percent."""

    data: str
    top1: float


@dataclass(frozen=True, slots=True)
class Entry:
    """One net of a comparison. Figures of operations and memory are for one example."""

    name: str
    year: int | None
    params: int
    macs: int
    peak_bytes: int
    training_bytes: int | None
    receptive_field: tuple[int, ...] | None
    layers: int  # with weights: convolutions, fully connected layers, recurrent cells
    input: tuple[int, ...]
    accuracy: str  # as published
    published: Published | None  # what could be read from it


def published(text: str) -> Published | None:
    """Read the top-1 accuracy out of "ImageNet top-1 76.13 %, top-5 92.86 % (torchvision weights, 1 crop)".

    The words before the first number name the data set. Without "top-1", the first percentage counts, unless it is a
    top-5 accuracy or something else than an accuracy, such as IU or AP. An error is turned into an accuracy. None if
    there is no such figure.
    """
    bare = re.sub(r"\([^()]*\)", "", text)  # remarks in brackets: other crops, other sources
    percent = r"(\d+(?:\.\d+)?)\s*%"
    other = r"(?:(?!\btop|\bIU\b|\bIoU\b|\bAP\b|\bmAP\b).)*?(\berror)?[\s:]*"
    found = re.search(rf"\btop-?\s?1\b(\s+error)?\D{{0,12}}?{percent}", bare, re.IGNORECASE)
    found = found or re.match(other + percent, bare, re.IGNORECASE)
    if found is None or not 0 <= (value := float(found[2])) <= 100:
        return None
    words = bare[: found.start(2)]
    data = re.split(r"\btop-?\s?\d\b|\berror\b|\baccuracy\b", words, flags=re.IGNORECASE)[0].strip(" ,:")
    if data and not re.match(r"[A-Z0-9]|\S+ test$", data):  # "above 75 % of the human score": no name of a data set
        return None
    return Published(data, round(100 - value, 6) if found[1] else value)


@dataclass(frozen=True)
class Comparison:
    """Nets side by side, in the order in which they were given."""

    entries: tuple[Entry, ...]

    @property
    def data(self) -> str:
        """The data set that most of the published accuracies are for; the plot shows these."""
        counts = Counter(e.published.data for e in self.entries if e.published)
        return max(counts, key=lambda name: counts[name]) if counts else ""

    @property
    def plotted(self) -> list[Entry]:
        """Nets in the scatter plot."""
        return [e for e in self.entries if e.published and e.published.data == self.data and e.macs > 0]

    def rows(self) -> list[dict[str, str]]:
        """The table: one dict from column to text for each net."""
        return [
            {
                "net": e.name,
                "year": "" if e.year is None else str(e.year),
                "input": shape_text(e.input, empty=""),
                "parameters": f"{e.params:,}",
                "MACs": f"{e.macs:,}",
                "peak memory": bytes_text(e.peak_bytes),
                "training memory": "" if e.training_bytes is None else bytes_text(e.training_bytes),
                "receptive field": sides_text(e.receptive_field or ()),
                "layers with weights": str(e.layers),
                "accuracy": e.accuracy,
            }
            for e in self.entries
        ]

    def to_text(self) -> str:
        """The table as plain text."""
        rows = self.rows()
        return text_table(list(rows[0]), [list(row.values()) for row in rows], _NUMERIC)

    __str__ = to_text

    def as_dict(self) -> dict[str, Any]:
        """Everything, JSON-able."""
        return {"data": self.data, "entries": plain(self.entries)}

    def to_json(self, indent: int | None = 2) -> str:
        """`as_dict` as JSON."""
        return json.dumps(self.as_dict(), indent=indent, allow_nan=False)

    def to_csv(self) -> str:
        """One line for each net, with exact numbers."""
        names = "name year params macs peak_bytes training_bytes receptive_field layers input accuracy".split()
        lines = []
        for e in self.entries:
            cells = {name: getattr(e, name) for name in names}
            cells |= {
                "input": shape_text(e.input, "x", ""),
                "receptive_field": shape_text(e.receptive_field or (), "x", ""),
            }
            lines.append([*cells.values(), *((e.published.data, e.published.top1) if e.published else ("", ""))])
        return csv_text([*names, "data", "top1"], lines)

    def to_html(self) -> str:
        """A page without any external resource: the plot and the table."""
        plot = f'<div class="scroll">{self.to_svg()}</div>'
        figures = self._table()
        told = paragraph("Operations and memory are for one example of the input that the table names.")
        title = ", ".join(e.name for e in self.entries[:4]) + (", ..." if len(self.entries) > 4 else "")
        return page(f"Comparison of {title}", [("Accuracy and cost", plot), ("Figures", Html(told + figures))])

    def _repr_html_(self) -> str:
        return self.to_svg() + self._table()

    def _table(self) -> Html:
        unbroken = [{**row, "input": row["input"].replace(" ", "\xa0")} for row in self.rows()]
        return table(unbroken, numeric=_NUMERIC)

    def to_svg(self) -> str:
        """The scatter plot. Circle areas are proportional to the parameters; nets without accuracy stand below."""
        return _plot(self)


def compare(
    anatomies: Mapping[str, Anatomy] | Sequence[Anatomy],
    accuracies: Mapping[str, str] | Sequence[str] = (),
    years: Mapping[str, int] | Sequence[int | None] = (),
) -> Comparison:
    """Set nets side by side.

    Args:
        anatomies: traced nets, by name or in order (then named by themselves).
        accuracies: published accuracies as texts, by name or in the same order; may lack some.
        years: of publication, likewise.

    Raises:
        UsageError: no nets, or lists of different lengths.
    """
    nets = dict(anatomies) if isinstance(anatomies, Mapping) else _named(anatomies)
    if not nets:
        raise UsageError("expected the anatomies of one or more nets to compare, got none")
    told, dated = _by_name(accuracies, nets, "accuracies"), _by_name(years, nets, "years")
    return Comparison(tuple(_entry(name, a, told.get(name) or "", dated.get(name)) for name, a in nets.items()))


def _named(anatomies: Sequence[Anatomy]) -> dict[str, Anatomy]:
    """By name; a second net of a name is called "name (2)"."""
    nets: dict[str, Anatomy] = {}
    for a in anatomies:
        name, n = a.name, 2
        while name in nets:
            name, n = f"{a.name} ({n})", n + 1
        nets[name] = a
    return nets


def _by_name(values: Any, nets: Mapping[str, Anatomy], what: str) -> dict[str, Any]:
    if isinstance(values, Mapping):
        return dict(values)
    if values and len(values) != len(nets):
        raise UsageError(f"expected as many {what} as nets ({len(nets)}), got {len(values)}; give them by name instead")
    return dict(zip(nets, values, strict=False))


def _entry(name: str, a: Anatomy, accuracy: str, year: int | None) -> Entry:
    batch = max(1, a.batch)
    field = a.receptive_field
    return Entry(
        name=name,
        year=year,
        params=a.params,
        macs=a.macs // batch,
        peak_bytes=a.peak_bytes // batch,
        training_bytes=None if a.training_bytes is None else a.training_bytes // batch,
        receptive_field=None if field is None or field.at_least else field.size,
        layers=sum(1 for layer in a.layers if layer.macs and layer.weights),
        input=a.inputs[0][1:] if a.inputs else (),
        accuracy=accuracy,
        published=published(accuracy),
    )


# --- the plot --------------------------------------------------------------------------------------------------------


def _plot(comparison: Comparison) -> str:
    shown = comparison.plotted
    nothing = '<text class="t" x="14" y="24">No net with a published top-1 accuracy.</text>'
    parts, height = (_scatter(shown, comparison.data), _H) if shown else ([nothing], 40.0)
    without = [e for e in comparison.entries if e not in shown]
    if without:
        height += 20
        head = "Not in the plot, because no accuracy on the same data is published:" if shown else "Nets:"
        parts.append(f'<text class="b" x="14" y="{height:.0f}">{head}</text>')
        for e in without:
            height += 17
            known = f"; {e.accuracy}" if e.accuracy else ""
            line = f"{e.name}: {short(e.macs)} MACs, {short(e.params)} parameters{known}"
            parts.append(f'<text class="s" x="14" y="{height:.0f}">{safe(line)}</text>')
        height += 14
    names = ", ".join(e.name for e in comparison.entries)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" class="neocog-plot" viewBox="0 0 {_W:.0f} {height:.0f}" '
        f'width="{_W:.0f}" height="{height:.0f}" style="max-width:100%;height:auto" role="img" '
        f'aria-label="{safe(f"Accuracy against MACs of {names}")}">\n<style>{_STYLE}</style>\n'
        f'<rect class="bg" width="{_W:.0f}" height="{height:.0f}"/>\n' + "\n".join(parts) + "\n</svg>\n"
    )


def _scatter(shown: Sequence[Entry], data: str) -> list[str]:
    most = max(1, *(e.params for e in shown))
    radius = {e.name: max(_SMALLEST, _LARGEST * math.sqrt(e.params / most)) for e in shown}
    low_x, high_x = _padded([math.log10(e.macs) for e in shown], 0.3)
    tops = [e.published.top1 for e in shown if e.published]
    low_y, high_y = _padded(tops, 2.0)
    high_y = min(100.0, high_y) if max(tops) < 99 else high_y
    inner_w, inner_h = _W - _LEFT - _RIGHT, _H - _TOP - _BOTTOM

    def x_of(log: float) -> float:
        return _LEFT + inner_w * (log - low_x) / (high_x - low_x)

    def y_of(value: float) -> float:
        return _TOP + inner_h * (high_y - value) / (high_y - low_y)

    out = [f'<text class="t" x="14" y="24">{safe(data + " " if data else "")}top-1 accuracy against MACs</text>']
    for value in ticks(low_y, high_y):
        y = y_of(value)
        out.append(f'<path class="g" d="M{_LEFT:.0f} {y:.1f}H{_W - _RIGHT:.0f}"/>')
        out.append(f'<text class="s e" x="{_LEFT - 7:.0f}" y="{y + 4:.1f}">{value:g}</text>')
    for value in _log_ticks(low_x, high_x):
        x = x_of(math.log10(value))
        out.append(f'<path class="g" d="M{x:.1f} {_TOP:.0f}V{_H - _BOTTOM:.0f}"/>')
        out.append(f'<text class="s m" x="{x:.1f}" y="{_H - _BOTTOM + 16:.0f}">{short(value)}</text>')
    out.append(f'<path class="ax" d="M{_LEFT:.0f} {_TOP:.0f}V{_H - _BOTTOM:.0f}H{_W - _RIGHT:.0f}"/>')
    out.append(
        f'<text class="m" x="{_LEFT + inner_w / 2:.0f}" y="{_H - 12:.0f}">MACs (multiply-adds) for one picture</text>'
    )
    middle = _TOP + inner_h / 2
    out.append(f'<text class="m" transform="translate(16 {middle:.0f}) rotate(-90)">top-1 accuracy, %</text>')
    circles = [(x_of(math.log10(e.macs)), y_of(e.published.top1), radius[e.name]) for e in shown if e.published]
    for k in sorted(range(len(shown)), key=lambda k: -circles[k][2]):  # small circles on top of large ones
        x, y, r = circles[k]
        e = shown[k]
        told = f"{e.name}: {short(e.params)} parameters, {short(e.macs)} MACs; {e.accuracy}"
        css = f"c{k % len(_COLOURS)}"
        out.append(
            f'<g class="{css}"><title>{safe(told)}</title><circle cx="{x:.1f}" cy="{y:.1f}" r="{r:.1f}"/>'
            f'<circle class="dot" cx="{x:.1f}" cy="{y:.1f}" r="1.6"/></g>'
        )
    sizes, taken = _size_legend(most)
    for (x, y, r), e, at in zip(circles, shown, place_labels(circles, [e.name for e in shown], taken), strict=True):
        left, top, right, bottom = at
        cx, cy = min(max(x, left), right), min(max(y, top), bottom)  # nearest point of the label
        if math.dist((x, y), (cx, cy)) > r + 8:
            out.append(f'<path class="l" d="M{x:.1f} {y:.1f}L{cx:.1f} {cy:.1f}"/>')
        out.append(f'<text class="n" x="{left + 1:.1f}" y="{bottom - 3:.1f}">{safe(e.name)}</text>')
    return out + sizes


def place_labels(
    circles: Sequence[tuple[float, float, float]], names: Sequence[str], taken: Sequence[Rectangle] = ()
) -> list[Rectangle]:
    """Return a rectangle (left, top, right, bottom) for each name: near its circle (x, y, r), and free of the others.

    Labels never overlap each other or `taken`, and keep off small circles and off the centres of large ones. They
    stay within the plot while there is room.
    """
    dots = [(x - min(r, 7), y - min(r, 7), x + min(r, 7), y + min(r, 7)) for x, y, r in circles]
    placed: dict[int, Rectangle] = {}
    for k in sorted(range(len(circles)), key=lambda k: circles[k][2]):  # small circles have the least choice
        x, y, r = circles[k]
        w, h = text_width(names[k], _FONT) + 2, _FONT + 3
        best: tuple[float, Rectangle] | None = None
        for far in (2, 10, 22, 38, 58, 82, 110, 150, 200):
            for turn in (0, 4, 2, 6, 1, 3, 5, 7, 0.5, 1.5, 2.5, 3.5, 4.5, 5.5, 6.5, 7.5):
                cos, sin = math.cos(turn * math.pi / 4), -math.sin(turn * math.pi / 4)
                d = r + far
                left = x + d * cos - (w / 2) * (1 - cos)
                top = y + d * sin - (h / 2) * (1 - sin)
                at = (left, top, left + w, top + h)
                if any(_overlap(at, other) for other in (*placed.values(), *taken)):
                    continue
                off = (
                    max(0, _LEFT - left)
                    + max(0, left + w - _W + 4)
                    + max(0, _TOP - 14 - top)
                    + max(0, top + h - _H + _BOTTOM)
                )
                hits = sum(_overlap(at, dot) for i, dot in enumerate(dots) if i != k)
                covered = sum(_in_ring(at, circle) for i, circle in enumerate(circles) if i != k)
                cost = far + 1000 * off + 120 * hits + 12 * covered + (0.1 * turn)
                if best is None or cost < best[0]:
                    best = cost, at
        if best is None:  # everything near is full: below all that is there
            low = max(at[3] for at in (*placed.values(), *taken))
            best = 0.0, (x, low + 1, x + w, low + 1 + h)
        placed[k] = best[1]
    return [placed[k] for k in range(len(circles))]


def _overlap(a: Rectangle, b: Rectangle) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def _in_ring(at: Rectangle, circle: tuple[float, float, float]) -> bool:
    x, y, r = circle
    return math.dist((x, y), (min(max(x, at[0]), at[2]), min(max(y, at[1]), at[3]))) < r


def _padded(values: Sequence[float], least: float) -> tuple[float, float]:
    """Range of the values with room for circles around."""
    low, high = min(values), max(values)
    pad = max(least, 0.14 * (high - low))
    return low - pad, high + pad


def _log_ticks(low: float, high: float) -> list[float]:
    factors = (1, 2, 5) if high - low < 2.5 else (1, 3) if high - low < 4 else (1,)
    inside = [m * 10.0**d for d in range(math.floor(low), math.ceil(high) + 1) for m in factors]
    return [v for v in inside if low <= math.log10(v) <= high]


def _size_legend(most: int) -> tuple[list[str], list[Rectangle]]:
    """Circles that say how many parameters their areas mean, at the lower right; and the room that they take."""
    step = 10.0 ** math.floor(math.log10(most))
    largest = next(m * step for m in (5, 2, 1) if m * step <= most)
    sizes = [largest, largest / 5, largest / 25]
    radii = [_LARGEST * math.sqrt(s / most) for s in sizes]
    bottom, right = _H - _BOTTOM - 8, _W - _RIGHT - 8
    cx = right - 58 - radii[0]
    out = [f'<text class="s e" x="{right:.0f}" y="{bottom - 2 * radii[0] - 14:.1f}">area: parameters</text>']
    last = -math.inf
    for size, r in zip(reversed(sizes), reversed(radii), strict=True):
        top = bottom - 2 * r
        out.append(f'<circle class="sz" cx="{cx:.1f}" cy="{bottom - r:.1f}" r="{r:.1f}"/>')
        text = min(top + 3, last - 11) if math.isfinite(last) else bottom
        last = text
        out.append(f'<path class="l" d="M{cx:.1f} {top:.1f}L{right - 46:.1f} {text - 3:.1f}"/>')
        out.append(f'<text class="s e" x="{right:.0f}" y="{text:.1f}">{short(size)}</text>')
    return out, [(cx - radii[0] - 4, min(last, bottom - 2 * radii[0]) - 26, right + 2, bottom + 4)]


def _style() -> str:
    """Style sheet; every rule is bound to the plot, because inline SVG shares the style of its page."""
    light = (
        "&{font:11px Helvetica,Arial,'Liberation Sans',sans-serif}& .bg{fill:#fff}& text{fill:#1f2328}"
        "& .t{font-size:15px;font-weight:700}& .b{font-weight:700}& .s{fill:#57606a}"
        "& .m{text-anchor:middle}& .e{text-anchor:end}& .g{stroke:#d9dee3;stroke-width:.7}"
        "& .ax{fill:none;stroke:#57606a}& .l{stroke:#8c959f;stroke-width:.8}"
        "& .sz{fill:none;stroke:#8c959f}& circle{fill-opacity:.28;stroke-width:1.3}& .dot{fill-opacity:1}"
    )
    dark = "& .bg{fill:#15181c}& text{fill:#e5e8eb}& .s{fill:#a4adb7}& .g{stroke:#343b43}& .ax{stroke:#a4adb7}"
    day, night = (
        "".join(f"& .c{k}{{fill:{c};stroke:{c}}}" for k, c in enumerate(colours)) for colours in (_COLOURS, _DARK)
    )
    return f"{light}{day}@media(prefers-color-scheme:dark){{{dark}{night}}}".replace("&", ".neocog-plot")


_STYLE = _style()
