"""Marks of a drawing: lines around corners, texts, numbers, colours; and how much room a text takes."""

from __future__ import annotations

import math
from html import escape

_COLOURS = {
    "in": (200, 207, 215), "co": (244, 184, 92), "up": (112, 193, 160), "po": (229, 118, 98),
    "fc": (150, 138, 220), "ca": (116, 172, 224), "ot": (214, 160, 200),
}  # fmt: skip
_WIDTHS = {**dict.fromkeys("iljtfI.,:;'|!()[]/ ", 0.32), **dict.fromkeys("mwMW", 0.88), "×": 0.62, "_": 0.58}

Point = tuple[float, float]
Wire = tuple[Point, ...]


def text_width(text: str, size: float) -> float:
    """Pixels that a text takes at a font size; a little more than it needs in common fonts."""
    return size * sum(_WIDTHS.get(c, 0.72 if c.isupper() else 0.6) for c in text)


def short(number: float) -> str:
    """A number with three or four digits and a unit: "25.6 M"."""
    for unit, factor in (("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if number >= factor:
            return f"{number / factor:.3g} {unit}" if number < 999.5 * factor else f"{number / factor:,.0f} {unit}"
    return f"{number:,.0f}"


def safe(text: str) -> str:
    """Text as XML, also within quotes; characters that XML forbids become a question mark."""
    return escape("".join(c if c in "\t\n" or (c >= " " and c.isprintable()) else "?" for c in text))


class Ink:
    """What has been drawn, in layers: frames behind, then boxes, lines and texts."""

    def __init__(self) -> None:
        self.frames: list[str] = []
        self.boxes: list[str] = []
        self.wires: list[str] = []
        self.texts: list[str] = []

    def __str__(self) -> str:
        return "\n".join([*self.frames, *self.boxes, *self.wires, *self.texts])

    def text(self, x: float, y: float, text: str, css: str) -> None:
        named = f' class="{css}"' if css else ""
        self.texts.append(f'<text{named} x="{n(x)}" y="{n(y)}">{safe(text)}</text>')

    def wire(self, points: Wire, head: bool = True) -> None:
        """A line around rounded corners, with or without an arrowhead."""
        points = _straight(points)
        d = f"M{crisp(points[0][0])} {crisp(points[0][1])}"
        for k, (x, y) in enumerate(points[1:], start=1):
            if k == len(points) - 1:
                d += f"L{crisp(x)} {crisp(y)}"
                break
            (px, py), (nx, ny) = points[k - 1], points[k + 1]
            r = min(5.0, math.dist((px, py), (x, y)) / 2, math.dist((nx, ny), (x, y)) / 2)
            a = _towards((x, y), (px, py), r)
            b = _towards((x, y), (nx, ny), r)
            d += f"L{crisp(a[0])} {crisp(a[1])}Q{crisp(x)} {crisp(y)} {crisp(b[0])} {crisp(b[1])}"
        (px, py), (x, y) = points[-2], points[-1]
        x, y, px, py = (math.floor(v) + 0.5 for v in (x, y, px, py))
        length = math.dist((px, py), (x, y)) or 1.0
        ux, uy = (x - px) / length, (y - py) / length
        barbs = [(x - 6 * ux + s * 2.6 * uy, y - 6 * uy - s * 2.6 * ux) for s in (1, -1)]
        tip = "L".join(f"{n(a)} {n(b)}" for a, b in (barbs[0], (x, y), barbs[1]))
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


def n(value: float) -> str:
    """A coordinate with one decimal, as short as it can be written."""
    text = f"{value:.1f}"
    text = text[:-2] if text.endswith(".0") else text
    return "0" if text == "-0" else text


def crisp(value: float) -> str:
    """A coordinate in the middle of a pixel: lines that lie on each other look like one."""
    return f"{math.floor(value)}.5" if value >= 0 else n(value)


def tails(path: str) -> list[str]:
    """The path, and shorter and shorter ends of it that do not begin with a number."""
    parts = path.split(".")
    ends = [".".join(parts[k:]) for k in range(len(parts)) if k == 0 or not parts[k].isdigit()]
    return ends or [path]


def clipped(text: str, size: float, width: float) -> str:
    if text_width(text, size) <= width:
        return text
    while text and text_width(text + "…", size) > width:
        text = text[:-1]
    return text.rstrip() + "…" if text else ""


def wrapped(text: str, size: float, width: float) -> list[str]:
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
    light = (
        "&{font:10px Helvetica,Arial,'Liberation Sans',sans-serif}"
        "& .bg{fill:#fff}& text{fill:#1f2328}& .m{text-anchor:middle}& .e{text-anchor:end}"
        "& .s,& .k{font-size:9px;fill:#57606a}& .b{font-weight:700;font-size:11px}"
        "& .h{font-size:16px;font-weight:700}& .w{fill:none;stroke:#444c56}& .a{fill:#444c56}"
        "& g path,& g rect{stroke:#32383f;stroke-width:.6;stroke-linejoin:round}& .z{fill:none}"
        "& .fr{fill:#8c959f;fill-opacity:.1;stroke:#8c959f;stroke-dasharray:4 3}"
        "& .br{fill:none;stroke:#8c959f}"
        "& .op circle{fill:#fff;stroke:#444c56}& .op path{stroke:#444c56;stroke-width:1.4;fill:none}"
    )
    dark = (
        "& .bg{fill:#15181c}& text{fill:#e5e8eb}& .s,& .k{fill:#a4adb7}"
        "& .op circle{fill:#15181c;stroke:#b6bec7}& .op path{stroke:#b6bec7}& .w{stroke:#b6bec7}"
        "& .a{fill:#b6bec7}& g path,& g rect{stroke:#0b0d10}"
    )
    day, night = (
        "".join(
            f"& .{name}{{fill:{_shade(c, 0, face)}}}& .{name} .t{{fill:{_shade(c, 255, top)}}}"
            f"& .{name} .d{{fill:{_shade(c, 0, side)}}}"
            for name, c in _COLOURS.items()
        )
        for face, top, side in ((0, 0.45, 0.22), (0.14, 0.2, 0.4))
    )
    return f"{light}{day}@media(prefers-color-scheme:dark){{{dark}{night}}}".replace("&", ".neocog-net")


STYLE = _style()
