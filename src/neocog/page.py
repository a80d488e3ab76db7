"""Self-contained HTML pages: one file, inline style and pictures, readable in light, dark and on paper.

Every helper escapes the text that it is given and returns `Html`, a str that is already safe. A table cell that is
`Html` is put in as it is, so a thumbnail may stand in a cell. Charts are in charts.py.
"""

from __future__ import annotations

import base64
import io
import math
import re
from collections.abc import Collection, Mapping, Sequence
from html import escape

import numpy as np

from neocog.names import shown
from neocog.records import worded

_TINY = 64  # pictures up to this side are shown pixel by pixel, as PNG; larger ones as JPEG


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
        return Html("-" if math.isnan(value) else number(float(value)))
    return Html("" if value is None else escape(str(value)))


def number(value: float) -> str:
    """Return a number with four digits, or without decimals from 10,000 on."""
    return f"{value:,.0f}" if 1e4 <= abs(value) < 1e9 else f"{value:.4g}"


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
