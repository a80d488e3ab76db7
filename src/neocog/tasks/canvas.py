"""Answers on pictures: lines of text below a picture, and boxes with names over it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from neocog.names import shown

LEAST = 256  # side to which smaller pictures are enlarged, so that words can be read
RIGHT, WRONG, MISSED, PLAIN = (70, 170, 80), (220, 60, 60), (235, 150, 40), (235, 235, 235)
# of boxes: what they are, or which class
_MEANING = {"right": (40, 200, 80), "wrong": (235, 50, 50), "missed": (255, 150, 20), "truth": (70, 150, 240),
            "": (170, 170, 170)}  # fmt: skip
_COLOURS = ((60, 130, 246), (230, 60, 60), (70, 180, 80), (240, 170, 40), (150, 80, 200), (60, 200, 200))
_NAMED = 320  # pixels of the longer side, so that the names of boxes can be read
Word = tuple[str, tuple[int, int, int]]


def in_colour(picture: np.ndarray) -> np.ndarray:
    """A grey or coloured picture, (H, W) or (H, W, 1 or 3 or more), as (H, W, 3)."""
    return np.broadcast_to(np.atleast_3d(picture)[:, :, :3], (*picture.shape[:2], 3))


def enlarged(picture: np.ndarray, least: int = LEAST) -> tuple[np.ndarray, int]:
    """A picture as uint8 (H, W, 3), small ones enlarged by a whole factor, and that factor."""
    wide = in_colour(picture)
    factor = max(1, round(least / max(1, *wide.shape[:2])))
    return wide.repeat(factor, 0).repeat(factor, 1), factor


def captioned(picture: np.ndarray, words: Sequence[Word]) -> np.ndarray:
    """A picture with coloured words below it, in as many lines as they need; long ones are broken at spaces."""
    wide, _ = enlarged(picture)
    height, width = wide.shape[:2]
    size = max(13, round(min(height, width) / 24))
    font, gap = ImageFont.load_default(size), size // 2
    lines: list[list[tuple[float, Word]]] = [[]]
    at = float(gap)
    for word in [(part, colour) for text, colour in words for part in _broken(text, font, width - 2 * gap)]:
        length = font.getlength(shown(word[0]))
        if at + length > width - gap and lines[-1]:
            lines.append([])
            at = float(gap)
        lines[-1].append((at, word))
        at += length + size
    step = round(1.4 * size)
    image = Image.new("RGB", (width, height + step * len(lines) + gap), (24, 26, 30))
    image.paste(Image.fromarray(wide))
    pen = ImageDraw.Draw(image)
    for number, line in enumerate(lines):
        for left, (text, colour) in line:
            pen.text((left, height + gap // 2 + step * number), shown(text), fill=colour, font=font)
    return np.asarray(image)


def _broken(text: str, font: Any, width: float) -> list[str]:
    """A text in parts that are at most so wide, if spaces allow it."""
    parts = [""]
    for piece in text.split(" "):
        longer = f"{parts[-1]} {piece}" if parts[-1] else piece
        if parts[-1] and font.getlength(shown(longer)) > width:
            parts.append(piece)
        else:
            parts[-1] = longer
    return parts


def boxed(picture: np.ndarray, corners: np.ndarray, names: Sequence[str], marks: Iterable[int | str]) -> np.ndarray:
    """Boxes with names over a picture, uint8 (H, W, 3) (small pictures enlarged).

    Args:
        corners: (D, 4) in pixels of `picture`.
        marks: of each box the number of its class, or right | wrong | missed (dashed) | truth | "" for none of these.
    """
    wide, times = enlarged(picture, _NAMED)
    image = Image.fromarray(np.ascontiguousarray(wide))
    side = max(image.size)
    thick, height = max(2, side // 300), max(11, side // 45)
    pen, font, tall = ImageDraw.Draw(image), ImageFont.load_default(height), height + 4
    plates: list[tuple[float, float, float, str, tuple[int, int, int]]] = []
    for box, name, mark in zip(corners * times, names, marks, strict=True):
        colour = _MEANING[mark] if isinstance(mark, str) else _COLOURS[int(mark) % len(_COLOURS)]
        x0, y0, x1, y1 = (float(v) for v in box)
        x1, y1 = max(x0 + thick, x1), max(y0 + thick, y1)
        if mark == "missed":
            _dashed(pen, (x0, y0, x1, y1), colour, thick)
        else:
            pen.rectangle((x0, y0, x1, y1), outline=colour, width=thick)
        width = pen.textlength(name, font=font) + 4
        x = max(0.0, min(x0, image.width - width))
        # above the box, or within it where there is no room; missed ones are named below; never over another name
        y = y0 - tall if y0 >= tall else y0
        if mark == "missed":
            y = y1 if y1 + tall <= image.height else y1 - tall
        while any(x < u + w and u < x + width and y < v + tall and v < y + tall for u, v, w, *_ in plates):
            y += tall
        plates.append((x, y, width, name, colour))
    for x, y, width, name, colour in plates:
        pen.rectangle((x, y, x + width, y + tall), fill=colour)
        pen.text((x + 2, y + 1), name, fill=(0, 0, 0) if sum(colour) > 360 else (255, 255, 255), font=font)
    return np.asarray(image)


def _dashed(
    pen: ImageDraw.ImageDraw, box: tuple[float, float, float, float], colour: tuple[int, int, int], thick: int
) -> None:
    x0, y0, x1, y1 = box
    step = 4 * thick
    for (ax, ay), (bx, by) in (((x0, y0), (x1, y0)), ((x1, y0), (x1, y1)), ((x0, y1), (x1, y1)), ((x0, y0), (x0, y1))):
        length = abs(bx - ax) + abs(by - ay)
        for start in np.arange(0, max(length, 1e-6), 2 * step):
            a, b = start / max(length, 1e-6), min(start + step, length) / max(length, 1e-6)
            pen.line((ax + a * (bx - ax), ay + a * (by - ay), ax + b * (bx - ax), ay + b * (by - ay)), colour, thick)
