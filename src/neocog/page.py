"""Self-contained HTML pages: one file, inline style and pictures, readable in light, dark and on paper.

Every helper escapes the text that it is given and returns `Html`, a str that is already safe. A table cell that is
`Html` is put in as it is, so a thumbnail may stand in a cell. Charts are plain SVG with axes, ticks and a legend; each
mark has a <title>, which browsers show as a tooltip.
"""

from __future__ import annotations

import base64
import io
import math
import re
from collections.abc import Collection, Mapping, Sequence
from html import escape
from typing import Any

import numpy as np

from neocog.names import shown
from neocog.records import worded

_TINY = 64  # pictures up to this side are shown pixel by pixel, as PNG; larger ones as JPEG
_READABLE = 50  # classes that a confusion matrix can show with numbers


class Html(str):
    """Text that is HTML already; anything else is escaped before it enters a page."""

    __slots__ = ()


_STYLE = """
:root{color-scheme:light dark;--bg:#fff;--fg:#1c1f23;--soft:#5d6670;--line:#d9dee3;--panel:#f5f7f9;--accent:#0b62c4;
--c0:#0b62c4;--c1:#c2410c;--c2:#0a7d55;--c3:#a21caf;--c4:#8a6100;--c5:#0e7490;--c6:#be123c;--c7:#52525b;--heat:11,98,196}
@media(prefers-color-scheme:dark){:root{--bg:#15181c;--fg:#e5e8eb;--soft:#9aa4ae;--line:#343b43;--panel:#1d2126;
--accent:#6cb1ff;--c0:#6cb1ff;--c1:#fb9a5b;--c2:#4fd1a0;--c3:#e08cf0;--c4:#e0b94a;--c5:#5ccfe6;--c6:#ff8098;
--c7:#b4bac0;--heat:108,177,255}}
*{box-sizing:border-box}
body{margin:0 auto;max-width:68rem;padding:2rem 1.25rem 4rem;background:var(--bg);color:var(--fg);
font:16px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,"Helvetica Neue",Arial,sans-serif}
h1{font-size:1.8rem;line-height:1.2;margin:0 0 .3rem}h2{font-size:1.25rem;margin:2.6rem 0 .7rem;padding-top:.6rem;
border-top:1px solid var(--line)}h3{font-size:1rem;margin:1.4rem 0 .4rem}p{margin:.4rem 0 .8rem;max-width:48rem}
.subtitle{color:var(--soft)}a{color:var(--accent)}nav ul{list-style:none;padding:0;margin:1rem 0 0;display:flex;
flex-wrap:wrap;gap:.2rem 1.1rem}code,pre{font-family:ui-monospace,Menlo,Consolas,monospace;font-size:.9em}
pre{background:var(--panel);border:1px solid var(--line);border-radius:6px;padding:.7rem .9rem;overflow-x:auto}
.scroll{overflow-x:auto;max-width:100%}table{border-collapse:collapse;margin:.4rem 0 1rem;font-size:.92rem}
th,td{padding:.3rem .75rem;border-bottom:1px solid var(--line);text-align:left;vertical-align:top}
th{font-weight:600;color:var(--soft)}thead th{border-bottom:2px solid var(--line)}
.n{text-align:right;font-variant-numeric:tabular-nums;white-space:nowrap}
.gallery{display:flex;flex-wrap:wrap;gap:.8rem;align-items:flex-start;margin:.5rem 0 1rem}
.framed{border:1px solid var(--line);border-radius:6px;padding:.5rem;margin:0;gap:.5rem}
figure{margin:0}figure img{display:block;max-width:100%;border-radius:3px;outline:1px solid var(--line);
outline-offset:-1px}figure img.px{image-rendering:pixelated}figcaption{font-size:.78rem;line-height:1.3;
color:var(--soft);margin-top:.25rem;overflow-wrap:anywhere;white-space:pre-line}
svg.chart{display:block;width:100%;max-width:46rem;height:auto;margin:.4rem 0 1rem;font-size:12px}
svg.chart text{fill:var(--soft)}svg.chart .axis{stroke:var(--line);fill:none}svg.chart .name{fill:var(--fg)}
svg.chart .grid{stroke:var(--line);stroke-width:.6}svg.chart .line{fill:none;stroke-width:1.8;stroke-linejoin:round}
table.heat{font-size:.75rem;border-collapse:separate;border-spacing:1px}
table.heat th,table.heat td{border:0;padding:.12rem .3rem;white-space:nowrap}
table.heat td{text-align:right;font-variant-numeric:tabular-nums;min-width:1.9rem}
table.heat thead th{writing-mode:vertical-rl;transform:rotate(180deg);text-align:left;vertical-align:bottom}
table.heat thead th:first-child{writing-mode:horizontal-tb;transform:none}table.heat tbody th{text-align:right}
.good,.hint,.warning,.error,.warn,.bad{font-weight:600}.good{color:var(--c2)}.hint{color:var(--c0)}
.warning,.warn{color:var(--c4)}.error,.bad{color:var(--c6)}
@media print{body{max-width:none;padding:0;font-size:11pt}nav{display:none}figure,tr,svg{break-inside:avoid}
h2,h3{break-after:avoid}.scroll{overflow:visible}
table.heat td{print-color-adjust:exact;-webkit-print-color-adjust:exact}}
"""


def text(value: object) -> Html:
    """Return `value` as safe HTML: `Html` unchanged, floats with four digits, everything else escaped."""
    if isinstance(value, Html):
        return value
    if isinstance(value, float | np.floating):
        return Html("-" if math.isnan(value) else _number(float(value)))
    return Html("" if value is None else escape(str(value)))


def paragraph(value: object, *, kind: str = "") -> Html:
    """Return a <p>; `kind` is a class: "good", "hint", "warning", "error" colour it."""
    said = text(worded(value) if type(value) is str else value)
    return Html(f'<p class="{escape(kind)}">{said}</p>' if kind else f"<p>{said}</p>")


def anchor(heading: str) -> str:
    """Return the id of the section with this heading (the first of that name on a page)."""
    return re.sub(r"[^a-z0-9]+", "-", heading.lower()).strip("-") or "section"


def page(title: str, sections: Sequence[tuple[str, str]], *, subtitle: str = "") -> str:
    """Return a whole HTML document without any external resource.

    `sections` are (heading, body): headings are escaped, bodies are HTML made by the helpers of this file. A contents
    list links to them when there are more than two.
    """
    used: set[str] = set()
    body, links = [], []
    for heading, inner in sections:
        name, n = anchor(heading), 2
        while name in used:
            name, n = f"{anchor(heading)}-{n}", n + 1
        used.add(name)
        links.append(f'<li><a href="#{name}">{escape(heading)}</a></li>')
        body.append(f'<section id="{name}"><h2>{escape(heading)}</h2>\n{inner}</section>')
    contents = f'<nav aria-label="Contents"><ul>{"".join(links)}</ul></nav>' if len(links) > 2 else ""
    under = f'<p class="subtitle">{text(subtitle)}</p>' if subtitle else ""
    return shown(
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>{escape(title)}</title><style>{_STYLE}</style></head>\n"
        f"<body><header><h1>{escape(title)}</h1>{under}{contents}</header>\n<main>\n"
        + "\n".join(body)
        + "\n</main></body></html>\n"
    )


def table(rows: Sequence[Mapping[str, object]], *, numeric: Collection[str] = ()) -> Html:
    """Return a table; columns are the keys of all rows in order of appearance, those in `numeric` right-aligned."""
    columns = list(dict.fromkeys(name for row in rows for name in row))
    if not columns:
        return Html("<p>Nothing to show.</p>")
    css = {name: ' class="n"' if name in numeric else "" for name in columns}
    head = "".join(f'<th scope="col"{css[name]}>{escape(worded(name))}</th>' for name in columns)
    lines = ("".join(f"<td{css[name]}>{text(row.get(name))}</td>" for name in columns) for row in rows)
    inner = "\n".join(f"<tr>{line}</tr>" for line in lines)
    return Html(f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>\n{inner}\n</tbody></table></div>\n')


def data_uri(picture: np.ndarray, *, lossless: bool) -> str:
    from PIL import Image

    buffer, kind = io.BytesIO(), "png" if lossless else "jpeg"
    Image.fromarray(picture).save(buffer, kind, **({} if lossless else {"quality": 82}))
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}"


def gif(frames: np.ndarray) -> bytes:
    """Frames uint8 (T, H, W) or (T, H, W, 3) as a GIF without end, about 4 seconds long or longer.

    A frame stays for 60 to 300 ms, the last one for a second.
    """
    from PIL import Image

    first, *others = (Image.fromarray(frame) for frame in frames)
    each = min(max(4000 // len(frames), 60), 300)
    out, pace = io.BytesIO(), [each] * (len(frames) - 1) + [1000]
    first.save(out, "GIF", save_all=True, append_images=others, duration=pace, loop=0)
    return out.getvalue()


def animation(frames: np.ndarray, caption: str) -> Html:
    """Return a <figure> with frames uint8 (T, H, W[, 3]) that move."""
    height, width = frames.shape[1:3]
    uri = f"data:image/gif;base64,{base64.b64encode(gif(frames)).decode()}"
    return Html(
        f'<figure style="width:{width}px;max-width:100%"><img class="px" src="{uri}" alt="{escape(caption)}" '
        f'width="{width}" height="{height}"><figcaption>{text(caption)}</figcaption></figure>\n'
    )


def thumbnail(picture: np.ndarray | Html, *, size: int = 96, caption: str = "", alt: str = "") -> Html:
    """Return a <figure> with the picture, uint8 (H, W[, 1 or 3]), whose long side is shown with `size` pixels.

    A picture of up to 64 pixels is enlarged pixel by pixel. The alternative text is `alt`, else the caption. What is
    HTML already (an input that is not a picture) is shown as it is.
    """
    from PIL import Image

    if isinstance(picture, Html):
        return Html(f"<figure>{picture}<figcaption>{text(caption)}</figcaption></figure>\n")

    if picture.ndim == 3 and picture.shape[2] == 1:
        picture = picture[:, :, 0]
    height, width = picture.shape[:2]
    scale = size / max(height, width)
    shown_w, shown_h = max(1, round(width * scale)), max(1, round(height * scale))
    tiny = max(height, width) <= _TINY
    if not tiny:
        # twice the shown size stays sharp on screens with two pixels per point
        w, h = min(width, 2 * shown_w), min(height, 2 * shown_h)
        picture = np.asarray(Image.fromarray(picture).resize((w, h), Image.Resampling.BILINEAR))
    uri = data_uri(np.ascontiguousarray(picture), lossless=tiny)
    under = f"<figcaption>{text(caption)}</figcaption>" if caption else ""
    described = escape(alt or re.sub(r"<[^>]*>", "", caption) or "picture")
    css = ' class="px"' if tiny else ""
    return Html(
        f'<figure style="width:{max(shown_w, min(size, 96))}px"><img{css} src="{uri}" alt="{described}" '
        f'width="{shown_w}" height="{shown_h}">{under}</figure>\n'
    )


def marked(words: Sequence[tuple[str, float]], *, width: int = 24) -> Html:
    """Return a paragraph of words on colour: blue where a number is above 0, orange where below, by its size.

    `width`: of the paragraph, in rem.
    """
    most = max((abs(part) for _, part in words), default=0.0) or 1.0

    def one(word: str, part: float) -> str:
        share, colour = round(70 * abs(part) / most), "--c0" if part > 0 else "--c1"
        css = f"background:color-mix(in srgb,var({colour}) {share}%,transparent)"
        return f'<span style="{css}" title="{part:+.3f}">{escape(word)}</span>'

    return Html(f'<p style="max-width:{width}rem">{" ".join(one(*word) for word in words)}</p>')


def picture_file(jpeg: bytes, caption: str, *, width: int = 320) -> Html:
    """Return a <figure> with a picture that is a JPEG already, shown up to `width` pixels wide."""
    uri = f"data:image/jpeg;base64,{base64.b64encode(jpeg).decode()}"
    return Html(
        f'<figure style="width:{width}px;max-width:100%"><img src="{uri}" alt="{escape(caption)}" '
        f'style="width:100%;height:auto"><figcaption>{text(caption)}</figcaption></figure>\n'
    )


def gallery(figures: Sequence[str], *, framed: bool = False) -> Html:
    """Return thumbnails (or other galleries) side by side, wrapping; `framed` shows that they belong together."""
    return Html(f'<div class="gallery{" framed" if framed else ""}">{"".join(figures)}</div>\n')


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


def _number(value: float) -> str:
    return f"{value:,.0f}" if 1e4 <= abs(value) < 1e9 else f"{value:.4g}"


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
        out.append(f'<text x="{_LEFT - 8}" y="{at + 4:.1f}" text-anchor="end">{_number(v)}</text>')
    for v in x_axis.ticks if x_axis else ():
        at = x_axis(v)  # type: ignore[misc]
        out.append(f'<line class="axis" x1="{at:.1f}" x2="{at:.1f}" y1="{_H - _BOTTOM}" y2="{_H - _BOTTOM + 4}"/>')
        out.append(f'<text x="{at:.1f}" y="{_H - _BOTTOM + 18}" text-anchor="middle">{_number(v)}</text>')
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
                f"<title>{escape(name)}: {_number(py)} at {escape(x)} {_number(px)}</title></circle>"
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
        f"<title>{escape(y)} {_number(py)}, {escape(x)} {_number(px)}</title></circle>"
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
                f"<title>{escape(name)}: {_number(v)}</title></rect>"
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
            f'fill="var(--c0)"><title>{escape(name)}: {_number(v)}</title></rect>'
            f'<text x="{left + max(0.0, v / top * room) + 6:.1f}" y="{k * row + 14}">{_number(v)}</text>'
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
            shown = _number(m[r, c]) if m[r, c] else ""
            told = f"true {row_names[r]}, predicted {column_names[c]}: {_number(m[r, c])} ({share[r, c]:.1%})"
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
        {"true": rows[r], "predicted": columns[c], "pictures": _number(m[r, c]), "share of row": f"{share[r, c]:.1%}"}
        for r, c in worst
    ]
    if not listed:
        return Html(image)
    return Html(image + "<h3>Most frequent confusions</h3>\n" + table(listed, numeric=("pictures", "share of row")))


def pairs(values: Mapping[str, object]) -> Html:
    """Return a table of names and values without a header."""
    if not values:
        return Html("")
    rows = "".join(
        f'<tr><th scope="row">{text(key.replace("_", " "))}</th><td>{text(_plain(value))}</td></tr>'
        for key, value in values.items()
    )
    return Html(f'<div class="scroll"><table><tbody>{rows}</tbody></table></div>')


def _plain(value: object) -> object:
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_plain(inner)}" for key, inner in value.items() if inner is not None)
    if isinstance(value, list | tuple):
        more = f" and {len(value) - 20} more" if len(value) > 20 else ""
        return ", ".join(str(_plain(inner)) for inner in value[:20]) + more
    return value
