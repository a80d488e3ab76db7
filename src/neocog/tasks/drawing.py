"""Boxes drawn over pictures."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

_MEANING = {"right": (40, 200, 80), "wrong": (235, 50, 50), "missed": (255, 150, 20), "": (170, 170, 170)}
# of classes
_COLOURS = ((60, 130, 246), (230, 60, 60), (70, 180, 80), (240, 170, 40), (150, 80, 200), (60, 200, 200))  # of classes
_LEAST = 320  # pixels of the longer side: smaller pictures are enlarged, so that names can be read


def boxed(picture: np.ndarray, corners: np.ndarray, names: Sequence[str], marks: Iterable[int | str]) -> np.ndarray:
    """Boxes with names over a picture, uint8 (H, W, 3) (small pictures enlarged).

    Args:
        corners: (D, 4) in pixels of `picture`.
        marks: of each box the number of its class, or right | wrong | missed (dashed) | "" for neither.
    """
    wide = np.repeat(picture[:, :, None], 3, 2) if picture.ndim == 2 else picture[:, :, :3]
    image = Image.fromarray(np.ascontiguousarray(wide))
    times = max(1, round(_LEAST / max(image.size)))
    if times > 1:
        image = image.resize((image.width * times, image.height * times), Image.Resampling.NEAREST)
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
