"""A sheet: rows of pictures with captions, as one PNG or as a page of HTML; and how numbers become pictures."""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from textwrap import wrap
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from neocog.errors import UsageError
from neocog.files import write_atomically
from neocog.page import Html, gallery, page, paragraph, thumbnail

INK, SOFT, PAPER, LINE = (24, 24, 27), (113, 113, 122), (255, 255, 255), (217, 222, 227)
COLOURS = ((11, 98, 196), (194, 65, 12), (10, 125, 85), (162, 28, 175), (138, 97, 0), (14, 116, 144), (190, 18, 60))
_WARM = np.array([(0, 0, 4), (87, 16, 110), (188, 55, 84), (249, 142, 9), (252, 255, 164)], np.float32)  # inferno
_GAP, _WIDTH, _LARGEST = 14, 1180, 60_000


@dataclass(frozen=True, slots=True)
class Tile:
    """A picture uint8 (H, W, 3) and what stands under it."""

    picture: np.ndarray
    caption: str = ""


@dataclass(frozen=True, slots=True)
class Row:
    """Tiles beside each other, `side` pixels high, wrapped where the sheet ends; a sentence may stand above them."""

    title: str
    tiles: Sequence[Tile] = ()
    side: int = 220
    text: str = ""


@dataclass(slots=True)
class Sheet:
    """Rows under a title. `save` writes them, ``_repr_html_`` shows them in a notebook."""

    title: str
    subtitle: str = ""
    rows: list[Row] = field(default_factory=list)

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write a picture (.png, .jpg) or a page (.html) and return where it is.

        Raises: UsageError: another ending, or a sheet too long for one picture.
        """
        return saved(path, self.to_html, self.draw)

    def to_html(self) -> str:
        """A page that needs nothing else."""
        made = []
        for row in self.rows:
            tiles = [
                thumbnail(t.picture, size=row.side * max(1, t.picture.shape[1] / t.picture.shape[0]), caption=t.caption,
                          alt=t.caption or row.title)
                for t in row.tiles
            ]  # fmt: skip
            made.append((row.title, Html((paragraph(row.text) if row.text else "") + gallery(tiles))))
        return page(self.title, made, subtitle=self.subtitle)

    def _repr_html_(self) -> str:
        return self.to_html()

    def draw(self, width: int = _WIDTH) -> np.ndarray:
        """The sheet as one picture uint8 (H, W, 3). Raises: UsageError: it would be too high."""
        large, middle, small = (ImageFont.load_default(n) for n in (22, 16, 12))
        todo: list[tuple[int, int, Any]] = []
        y = _GAP

        def write(text: str, font: Any, ink: tuple[int, int, int], line: int) -> None:
            nonlocal y
            for part in _lines(text, width - 2 * _GAP, font):
                todo.append((_GAP, y, (part, font, ink)))
                y += line

        write(self.title, large, INK, 28)
        if self.subtitle:
            write(self.subtitle, small, SOFT, 17)
        for row in self.rows:
            y += _GAP
            if row.title:
                todo.append((_GAP, y, None))
                y += 6
                write(row.title, middle, INK, 22)
            if row.text:
                write(row.text, small, SOFT, 16)
                y += 5
            x, deepest = _GAP, 0
            for tile in row.tiles:
                shown = _fitted(tile.picture, row.side, width - 2 * _GAP)
                if x > _GAP and x + shown.width > width - _GAP:
                    x, y, deepest = _GAP, y + deepest + _GAP, 0
                todo.append((x, y, shown))
                lines = [one for part in tile.caption.split("\n") for one in _lines(part, max(shown.width, 60), small)]
                for i, text in enumerate(lines):
                    todo.append((x, y + shown.height + 3 + 15 * i, (text, small, SOFT)))
                deepest = max(deepest, shown.height + 3 + 15 * len(lines))
                x += max(shown.width, 60 if tile.caption else 0) + _GAP
            y += deepest
        height = y + _GAP
        if height > _LARGEST:
            raise UsageError(
                f"the sheet would be {height:,} pixels high, {_LARGEST:,} are accepted; write .html instead"
            )
        canvas = Image.new("RGB", (width, height), PAPER)
        pen = ImageDraw.Draw(canvas)
        for x, top, what in todo:
            if what is None:
                pen.line((x, top, width - _GAP, top), LINE)
            elif isinstance(what, Image.Image):
                canvas.paste(what, (x, top))
            else:
                text, font, ink = what
                pen.text((x, top), text, ink, font)
        return np.asarray(canvas)


def saved(path: str | os.PathLike[str], to_html: Callable[[], str], draw: Callable[[], np.ndarray]) -> Path:
    """Write what two functions make, a page or a picture by the ending, and return where it is.

    Raises: UsageError: another ending.
    """
    out, kinds = Path(os.path.abspath(path)), Image.registered_extensions()
    ending = out.suffix.lower()
    if ending in (".html", ".htm"):
        write_atomically(out, to_html().encode("utf-8", "surrogateescape"))
    elif ending in kinds:
        buffer = io.BytesIO()
        Image.fromarray(draw()).save(buffer, kinds[ending])
        write_atomically(out, buffer.getvalue())
    else:
        raise UsageError(f"expected a file that ends in .png, .jpg or .html, got {out.name!r}")
    return out


def _lines(text: str, width: int, font: Any) -> list[str]:
    """Text broken into lines that fit, without what cannot be drawn."""
    text = "".join(c if c.isprintable() else "?" for c in text)
    if not text or font.getlength(text) <= width:
        return [text] if text else []
    return wrap(text, max(4, int(width / (font.getlength(text) / len(text)))))


def _fitted(picture: np.ndarray, side: int, widest: int) -> Image.Image:
    """Enlarged or reduced to a height; small pictures are enlarged pixel by pixel."""
    image = Image.fromarray(np.ascontiguousarray(picture)).convert("RGB")
    scale = min(side / image.height, widest / image.width)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    how = Image.Resampling.NEAREST if scale > 2 else Image.Resampling.LANCZOS
    return image if size == image.size else image.resize(size, how)


# ---------------------------------------------------------------- numbers as pictures


def warm(values: np.ndarray) -> np.ndarray:
    """Numbers 0 to 1 (...) as colours from black over red to light yellow, uint8 (..., 3)."""
    at = np.clip(values, 0, 1) * (len(_WARM) - 1)
    low = np.minimum(at.astype(int), len(_WARM) - 2)
    return np.asarray((_WARM[low] + (at - low)[..., None] * (_WARM[low + 1] - _WARM[low])).round(), np.uint8)


def scaled(values: np.ndarray, most: float = 99.5) -> np.ndarray:
    """Numbers, 0 or more, as shares of their `most`-th percentile, cut at 1; zeros stay zeros."""
    top = float(np.percentile(values, most)) or float(values.max())
    return np.clip(values / top, 0, 1) if top > 0 else np.zeros_like(values)


def over(picture: np.ndarray, values: np.ndarray) -> np.ndarray:
    """A map (H, W) over its picture: what is for it red to yellow, what is against it blue."""
    pale = 0.55 * picture + 0.25 * picture.mean(2, keepdims=True) + 45
    top = float(np.abs(values).max()) or 1.0
    share = np.clip(values / top, -1, 1)[..., None]
    hot, cold = warm(0.3 + 0.7 * share[..., 0].clip(0)).astype(np.float32), np.array([40, 90, 220], np.float32)
    mixed = np.where(share >= 0, pale + 0.8 * share * (hot - pale), pale - 0.6 * share * (cold - pale))
    return np.asarray(mixed.clip(0, 255).round(), np.uint8)


def signed(values: np.ndarray) -> np.ndarray:
    """Numbers of either sign, (H, W, 3) or (H, W), as colours around grey, uint8 (H, W, 3)."""
    values = np.repeat(values[..., None], 3, 2) if values.ndim == 2 else values
    top = float(np.percentile(np.abs(values), 99.8)) or float(np.abs(values).max()) or 1.0
    return np.asarray((127.5 + 127.5 * np.clip(values / top, -1, 1)).round(), np.uint8)


def enlarged(picture: np.ndarray, times: int) -> np.ndarray:
    """A picture (h, w, 3) with squares for its pixels."""
    return np.kron(picture, np.ones((times, times, 1), np.uint8))


def tiled(pictures: Sequence[np.ndarray], columns: int, gap: int = 1) -> np.ndarray:
    """Pictures uint8 (h, w, 3) of one size in rows of `columns`, uint8 (H, W, 3)."""
    h, w = pictures[0].shape[:2]
    rows = -(-len(pictures) // columns)
    made = np.full((rows * (h + gap) - gap, columns * (w + gap) - gap, 3), 255, np.uint8)
    for i, one in enumerate(pictures):
        y, x = i // columns * (h + gap), i % columns * (w + gap)
        made[y : y + h, x : x + w] = one
    return made


def chart(
    curves: Mapping[str, Sequence[tuple[float, float]]], *, x: str, y: str, top: float | None = None
) -> np.ndarray:
    """Curves from 0 on the vertical axis with their names beside them, uint8 (300, 520, 3)."""
    width, height = 520, 300
    canvas, small = Image.new("RGB", (2 * width, 2 * height), PAPER), ImageFont.load_default(24)
    pen = ImageDraw.Draw(canvas)
    points = [p for line in curves.values() for p in line]
    low, high = min(p[0] for p in points), max(p[0] for p in points)
    top = top or max(max(p[1] for p in points), 1e-9)
    names = max((small.getlength(name) for name in curves), default=0)
    left, right, up, down = 96, int(2 * width - 40 - names), 36, 2 * height - 84

    def at(px: float, py: float) -> tuple[float, float]:
        return left + (px - low) / ((high - low) or 1) * (right - left), down - py / top * (down - up)

    for i in range(5):
        _, level = at(low, top * i / 4)
        pen.line((left, level, right, level), LINE, 2)
        pen.text((left - 12, level), f"{top * i / 4:.2g}", SOFT, small, anchor="rm")
    for i in range(5):
        value = low + (high - low) * i / 4
        pen.text((at(value, 0)[0], down + 10), f"{value:.3g}", SOFT, small, anchor="ma")
    pen.text(((left + right) / 2, down + 44), x, SOFT, small, anchor="ma")
    pen.text((left, 4), y, SOFT, small)
    ends: list[float] = []
    for name, line in sorted(curves.items(), key=lambda c: c[1][-1][1], reverse=True):
        colour = COLOURS[list(curves).index(name) % len(COLOURS)]
        pen.line([at(*p) for p in line], colour, 4, joint="curve")
        where = max(at(*line[-1])[1], ends[-1] + 28 if ends else 0)
        ends.append(where)
        pen.text((right + 14, where), name, colour, small, anchor="lm")
    return np.asarray(canvas.resize((width, height), Image.Resampling.LANCZOS))
