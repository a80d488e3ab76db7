"""Answers on pictures: lines of text below a picture, and boxes over it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from neocog.names import shown

LEAST = 256  # side to which smaller pictures are enlarged, so that words can be read
RIGHT, WRONG, MISSED, PLAIN = (70, 170, 80), (220, 60, 60), (235, 150, 40), (235, 235, 235)
Word = tuple[str, tuple[int, int, int]]


def enlarged(picture: np.ndarray) -> tuple[np.ndarray, int]:
    """A picture as uint8 (H, W, 3), small ones enlarged by a whole factor, and that factor."""
    wide = np.repeat(picture[:, :, None], 3, 2) if picture.ndim == 2 else picture
    factor = max(1, round(LEAST / max(1, *wide.shape[:2])))
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


def boxed(picture: np.ndarray, boxes: Sequence[tuple[Sequence[float], tuple[int, int, int]]]) -> np.ndarray:
    """A picture (enlarged if it is small) with boxes x0, y0, x1, y1 in its own pixels, each in its colour."""
    wide, factor = enlarged(picture)
    image = Image.fromarray(wide)
    pen = ImageDraw.Draw(image)
    line = max(2, round(min(wide.shape[:2]) / 160))
    for corners, colour in boxes:
        x0, y0, x1, y1 = (factor * float(v) for v in corners)
        pen.rectangle((x0, y0, max(x0, x1 - 1), max(y0, y1 - 1)), outline=colour, width=line)
    return np.asarray(image)
