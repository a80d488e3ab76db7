"""Charts of self-contained pages: plain SVG with axes, ticks and a legend, and confusion matrices.

Each mark has a <title>, which browsers show as a tooltip.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import numpy as np

from neocog.page import Html, data_uri, number, table

_READABLE = 50  # classes that a confusion matrix can show with numbers
_W, _H, _LEFT, _RIGHT, _TOP, _BOTTOM = 720, 320, 64, 16, 14, 44
_POINTS = 600  # marks per series: more cannot be told apart on 640 pixels
_DASHES = ("", "7 3", "2 3", "9 3 2 3")  # so that series differ without colour


def ticks(low: float, high: float, count: int = 6) -> list[float]:
    """Return round numbers (1, 2 or 5 times a power of ten apart) inside [low, high], about `count` of them."""
    if not high > low:
        return [low]
    raw = (high - low) / max(1, count)
    power = 10.0 ** math.floor(math.log10(raw))
    step = power * next(m for m in (1, 2, 5, 10) if m * power >= raw * 0.999)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [round(i * step, 12) + 0.0 for i in range(first, last + 1)]


def _log_ticks(low: float, high: float) -> list[float]:
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    factors = (1, 2, 5) if len(decades) <= 4 else (1,)
    stride = max(1, len(decades) // 8)
    inside = [m * 10.0**d for d in decades if d % stride == 0 for m in factors]
    return [v for v in inside if low * 0.999 <= v <= high * 1.001] or [low, high]


class _Axis:
    """Maps values to pixels, linear or logarithmic, and knows its ticks."""

    def __init__(self, values: Sequence[float], start: float, end: float, *, log: bool) -> None:
        low, high = (min(values), max(values)) if values else (0.0, 1.0)
        if log and low == high:
            low, high = low / 2, high * 2
        elif low == high:
            pad = abs(low) * 0.1 or 0.5
            low, high = low - pad, high + pad
        self.log, self.start, self.end, self.low, self.high = log, start, end, low, high
        self.ticks = _log_ticks(low, high) if log else ticks(low, high)

    def __call__(self, value: float) -> float:
        f = math.log10 if self.log else float
        share = (f(value) - f(self.low)) / (f(self.high) - f(self.low))
        return self.start + share * (self.end - self.start)


def _frame(x_axis: _Axis | None, y_axis: _Axis, x: str, y: str) -> list[str]:
    out = []
    for v in y_axis.ticks:
        at = y_axis(v)
        out.append(f'<line class="grid" x1="{_LEFT}" x2="{_W - _RIGHT}" y1="{at:.1f}" y2="{at:.1f}"/>')
        out.append(f'<text x="{_LEFT - 8}" y="{at + 4:.1f}" text-anchor="end">{number(v)}</text>')
    for v in x_axis.ticks if x_axis else ():
        at = x_axis(v)  # type: ignore[misc]
        out.append(f'<line class="axis" x1="{at:.1f}" x2="{at:.1f}" y1="{_H - _BOTTOM}" y2="{_H - _BOTTOM + 4}"/>')
        out.append(f'<text x="{at:.1f}" y="{_H - _BOTTOM + 18}" text-anchor="middle">{number(v)}</text>')
    middle = (_TOP + _H - _BOTTOM) / 2
    out.append(f'<path class="axis" d="M{_LEFT} {_TOP}V{_H - _BOTTOM}H{_W - _RIGHT}"/>')
    out.append(f'<text x="{(_LEFT + _W - _RIGHT) / 2}" y="{_H - 6}" text-anchor="middle">{escape(x)}</text>')
    out.append(f'<text transform="translate(14 {middle}) rotate(-90)" text-anchor="middle">{escape(y)}</text>')
    return out


def _svg(parts: Sequence[str], height: float, label: str) -> Html:
    head = f'<svg class="chart" viewBox="0 0 {_W} {height:.0f}" role="img" aria-label="{escape(label)}">'
    return Html(head + "".join(parts) + "</svg>\n")


def line_chart(
    series: Mapping[str, Sequence[tuple[float, float]]], *, x: str, y: str, log_y: bool = False, log_x: bool = False
) -> Html:
    """Return an inline SVG with one line for each series of (x, y) points, axis labels, ticks and a legend.

    A point that is not finite (or not positive on a logarithmic axis) breaks the line. A series of more than 600
    points is thinned evenly.
    """

    def drawable(px: float, py: float) -> bool:
        return math.isfinite(px) and math.isfinite(py) and (px > 0 or not log_x) and (py > 0 or not log_y)

    thinned = {name: _thin(points) for name, points in series.items()}
    good = [(px, py) for points in thinned.values() for px, py in points if drawable(px, py)]
    if not good:
        return Html("<p>Nothing to draw yet.</p>\n")
    x_axis = _Axis([p[0] for p in good], _LEFT, _W - _RIGHT, log=log_x)
    y_axis = _Axis([p[1] for p in good], _H - _BOTTOM, _TOP, log=log_y)
    parts = _frame(x_axis, y_axis, x, y)
    for k, (name, points) in enumerate(thinned.items()):
        colour, dash = f"var(--c{k % 8})", _DASHES[k // 8 % len(_DASHES)] if len(thinned) > 8 else ""
        # many points: the mark is there for its tooltip only
        radius = 'r="2.5"' if len(points) <= 60 else 'r="4" opacity="0"'
        path, marks, pen = [], [], "M"
        for px, py in points:
            if not drawable(px, py):
                pen = "M"
                continue
            sx, sy = x_axis(px), y_axis(py)
            path.append(f"{pen}{sx:.1f} {sy:.1f}")
            pen = "L"
            marks.append(
                f'<circle cx="{sx:.1f}" cy="{sy:.1f}" {radius} fill="{colour}">'
                f"<title>{escape(name)}: {number(py)} at {escape(x)} {number(px)}</title></circle>"
            )
        parts.append(
            f'<path class="line" stroke="{colour}" stroke-dasharray="{dash}" d="{"".join(path)}">'
            f"<title>{escape(name)}</title></path>" + "".join(marks)
        )
    legend, height = _legend(list(thinned))
    return _svg(parts + legend, height, f"{y} against {x}: {', '.join(thinned)}")


def scatter_chart(points: Sequence[tuple[float, float]], *, x: str, y: str) -> Html:
    """Return an inline SVG of points whose x and y are the same quantity, with the line on which they are equal.

    Points that are not finite are left out.
    """
    good = [(float(px), float(py)) for px, py in points if math.isfinite(px) and math.isfinite(py)]
    if not good:
        return Html("<p>Nothing to draw yet.</p>\n")
    both = [value for point in good for value in point]
    x_axis = _Axis(both, _LEFT, _W - _RIGHT, log=False)
    y_axis = _Axis(both, _H - _BOTTOM, _TOP, log=False)
    parts = _frame(x_axis, y_axis, x, y)
    low, high = x_axis.low, x_axis.high
    line = f"M{x_axis(low):.1f} {y_axis(low):.1f}L{x_axis(high):.1f} {y_axis(high):.1f}"
    parts.append(f'<path class="line" stroke="var(--line)" d="{line}"><title>{escape(y)} = {escape(x)}</title></path>')
    parts += (
        f'<circle cx="{x_axis(px):.1f}" cy="{y_axis(py):.1f}" r="3" fill="var(--c0)" fill-opacity=".55">'
        f"<title>{escape(y)} {number(py)}, {escape(x)} {number(px)}</title></circle>"
        for px, py in good
    )
    return _svg(parts, _H, f"{y} against {x}")


def _thin(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    if len(points) <= _POINTS:
        return [(float(a), float(b)) for a, b in points]
    chosen = np.unique(np.linspace(0, len(points) - 1, _POINTS).round().astype(int))
    return [(float(points[i][0]), float(points[i][1])) for i in chosen]


def _legend(names: Sequence[str]) -> tuple[list[str], float]:
    """Return the legend below the frame, wrapped, and the height of the whole chart."""
    parts, at, row = [], float(_LEFT), 0
    for k, name in enumerate(names):
        width = 34 + 6.6 * len(name)
        if at + width > _W - _RIGHT and at > _LEFT:
            at, row = float(_LEFT), row + 1
        top = _H + 12 + 18 * row
        dash = _DASHES[k // 8 % len(_DASHES)] if len(names) > 8 else ""
        parts.append(
            f'<line x1="{at}" x2="{at + 18}" y1="{top - 4}" y2="{top - 4}" stroke="var(--c{k % 8})" stroke-width="3" '
            f'stroke-dasharray="{dash}"/><text class="name" x="{at + 24}" y="{top}">{escape(name)}</text>'
        )
        at += width
    return parts, _H + 20 + 18 * row


def bar_chart(values: Mapping[str, float], *, x: str, y: str, upright: bool = False) -> Html:
    """Return bars: lying, one row for each name (`upright=False`, for classes), or standing (for histograms).

    `x` names the categories and `y` the values. Each bar carries its value as a tooltip, and lying bars as text.
    """
    if not values:
        return Html("<p>Nothing to draw yet.</p>\n")
    top = max([v for v in values.values() if math.isfinite(v)] + [0.0]) or 1.0
    if upright:
        y_axis = _Axis([0.0, top], _H - _BOTTOM, _TOP, log=False)
        parts = _frame(None, y_axis, x, y)
        step = (_W - _LEFT - _RIGHT) / len(values)
        every = math.ceil(len(values) / 12)
        for k, (name, v) in enumerate(values.items()):
            left, high = _LEFT + k * step, y_axis(v)
            parts.append(
                f'<rect x="{left + 1:.1f}" y="{high:.1f}" width="{max(1.0, step - 2):.1f}" '
                f'height="{_H - _BOTTOM - high:.1f}" fill="var(--c0)">'
                f"<title>{escape(name)}: {number(v)}</title></rect>"
            )
            if k % every == 0:
                at, under = left + step / 2, _H - _BOTTOM + 18
                parts.append(f'<text x="{at:.1f}" y="{under}" text-anchor="middle">{escape(name)}</text>')
        return _svg(parts, _H, f"{y} for each {x}")
    longest = min(28, max(len(name) for name in values))
    left, row = 14 + 7.6 * longest, 20
    room = _W - left - 70
    parts = []
    for k, (name, v) in enumerate(values.items()):
        shown = name if len(name) <= 28 else name[:27] + "…"
        parts.append(
            f'<text class="name" x="{left - 8:.0f}" y="{k * row + 14}" text-anchor="end">{escape(shown)}</text>'
            f'<rect x="{left:.0f}" y="{k * row + 3}" width="{max(0.0, v / top * room):.1f}" height="14" rx="2" '
            f'fill="var(--c0)"><title>{escape(name)}: {number(v)}</title></rect>'
            f'<text x="{left + max(0.0, v / top * room) + 6:.1f}" y="{k * row + 14}">{number(v)}</text>'
        )
    parts.append(f'<text x="{left:.0f}" y="{len(values) * row + 16}">{escape(y)} for each {escape(x)}</text>')
    return _svg(parts, len(values) * row + 24, f"{y} for each {x}")


def heatmap(matrix: Any, row_names: Sequence[str], column_names: Sequence[str]) -> Html:
    """Return a confusion matrix (rows: true, columns: predicted), shaded by the share of its row.

    Up to 50 classes it is a table with every number. Beyond, it is a picture of the whole matrix and a table of the
    30 largest entries off the diagonal.
    """
    m = np.asarray(matrix, dtype=np.float64)
    if m.shape != (len(row_names), len(column_names)):
        raise ValueError(f"matrix has shape {m.shape}, names give {(len(row_names), len(column_names))}")
    total = m.sum(1, keepdims=True)
    share = np.divide(m, total, out=np.zeros_like(m), where=total > 0)
    if max(m.shape) > _READABLE:
        return _large_heatmap(m, share, row_names, column_names)
    head = "".join(f'<th scope="col">{escape(str(n))}</th>' for n in column_names)
    rows = []
    for r, name in enumerate(row_names):
        cells = []
        for c in range(m.shape[1]):
            shown = number(m[r, c]) if m[r, c] else ""
            told = f"true {row_names[r]}, predicted {column_names[c]}: {number(m[r, c])} ({share[r, c]:.1%})"
            ink = ";color:var(--bg)" if share[r, c] > 0.55 else ""
            style = f"background:rgba(var(--heat),{0.04 + 0.9 * share[r, c]:.2f}){ink}"
            cells.append(f'<td style="{style}" title="{escape(told)}">{shown}</td>')
        rows.append(f'<tr><th scope="row">{escape(str(name))}</th>{"".join(cells)}</tr>')
    return Html(
        '<div class="scroll"><table class="heat"><caption class="subtitle">rows: true, columns: predicted'
        f'</caption><thead><tr><th scope="col">true</th>{head}</tr></thead><tbody>\n{"".join(rows)}</tbody></table>'
        "</div>"
    )


def _large_heatmap(m: np.ndarray, share: np.ndarray, rows: Sequence[str], columns: Sequence[str]) -> Html:
    # square root: an entry of 1 % of its row must still be visible beside a diagonal of 90 %
    grey = (255 - 255 * np.sqrt(share)).astype(np.uint8)
    if max(grey.shape) > 1000:  # a page must not carry megabytes: darkest of each block
        f = math.ceil(max(grey.shape) / 1000)
        grey = np.pad(grey, [(0, -s % f) for s in grey.shape], constant_values=255)
        grey = grey.reshape(grey.shape[0] // f, f, grey.shape[1] // f, f).min(axis=(1, 3))
    side = 640
    image = (
        f'<figure style="width:{side}px;max-width:100%"><img class="px" width="{side}" '
        f'src="{data_uri(grey, lossless=True)}" alt="confusion matrix of {len(rows)} classes, shaded by share of row">'
        "<figcaption>rows: true class, columns: predicted class; dark is frequent</figcaption></figure>\n"
    )
    off = m.copy()
    if m.shape[0] == m.shape[1]:
        np.fill_diagonal(off, 0)
    order = np.argsort(-off, axis=None, kind="stable")[:30]
    worst = [(int(k) // m.shape[1], int(k) % m.shape[1]) for k in order if off.flat[k] > 0]
    listed = [
        {"true": rows[r], "predicted": columns[c], "pictures": number(m[r, c]), "share of row": f"{share[r, c]:.1%}"}
        for r, c in worst
    ]
    if not listed:
        return Html(image)
    return Html(image + "<h3>Most frequent confusions</h3>\n" + table(listed, numeric=("pictures", "share of row")))
