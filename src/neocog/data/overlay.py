"""The annotations of a picture drawn over it: boxes, points, the colours of a mask."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from neocog.data.kinds import NOT_LABELLED, BoxSet
from neocog.data.mask_files import voc_colours

SIDE = 200  # of a thumbnail on which things are to be seen
_MARGIN = 0.25  # share of a side, up to which a box outside of the picture is shown
_WRONG = (235, 30, 30)
_CLASSES = (
    (60, 150, 255), (255, 190, 40), (70, 210, 110), (240, 110, 220), (110, 230, 240), (250, 140, 70), (170, 130, 255),
    (200, 220, 70),
)  # fmt: skip


def overlay(picture: np.ndarray, known: Mapping[str, Any], size: tuple[int, int]) -> np.ndarray:
    """The picture, uint8 (H, W, 3), made small, with its annotations.

    Args:
        known: role -> value of the columns boxes, mask, points.
        size: width and height of the file, in whose pixels the values are.
    """
    from PIL import Image, ImageDraw

    image = Image.fromarray(picture).convert("RGB")
    image.thumbnail((2 * SIDE, 2 * SIDE))
    if (grown := 2 * SIDE // max(image.size)) > 2:  # lines and points would hide a tiny picture
        image = image.resize((grown * image.width, grown * image.height), Image.Resampling.NEAREST)
    mask = known.get("mask")
    if mask is not None:
        image = _coloured(image, mask)
    across, down = image.width / size[0], image.height / size[1]
    boxes: BoxSet | None = known.get("boxes")
    corners = np.zeros((0, 4)) if boxes is None else boxes.corners * (across, down, across, down)
    left, top, right, bottom = _margins(corners, image.width, image.height)
    canvas = Image.new("RGB", (image.width + left + right, image.height + top + bottom), (225, 225, 225))
    canvas.paste(image, (left, top))
    draw = ImageDraw.Draw(canvas)
    for (x0, y0, x1, y1), label in zip(corners.tolist(), () if boxes is None else boxes.labels.tolist(), strict=True):
        wrong = x1 <= x0 or y1 <= y0 or x0 < -across or y0 < -down or x1 > image.width + 1 or y1 > image.height + 1
        colour = _WRONG if wrong else _CLASSES[label % len(_CLASSES)]
        low, high = (min(x0, x1) + left, min(y0, y1) + top), (max(x0, x1) + left, max(y0, y1) + top)
        draw.rectangle((*low, *high), outline=colour, width=3)
    points = known.get("points")
    radius = max(1.5, min(canvas.size) / 90)
    for x, y, seen in [] if points is None else points.tolist():
        if seen > 0:
            x, y = x * across + left, y * down + top
            colour = (70, 210, 110) if seen > 1 else (255, 190, 40)
            draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=colour, outline=(0, 0, 0))
    return np.asarray(canvas)


def _coloured(image: Any, mask: np.ndarray) -> Any:
    from PIL import Image

    small = np.asarray(Image.fromarray(mask).resize(image.size, Image.Resampling.NEAREST))
    table = np.array(voc_colours(), dtype=np.float32)
    table[0] = 40
    mixed = 0.45 * np.asarray(image, dtype=np.float32) + 0.55 * table[small]
    return Image.fromarray(
        np.where((small == NOT_LABELLED)[:, :, None], np.asarray(image), mixed.astype(np.uint8)).astype(np.uint8)
    )


def _margins(corners: np.ndarray, width: int, height: int) -> tuple[int, int, int, int]:
    """How much grey is laid around a picture so that boxes outside of it can be seen: left, top, right, bottom."""
    if not len(corners):
        return 0, 0, 0, 0
    low, high = corners.reshape(-1, 2, 2).min((0, 1)), corners.reshape(-1, 2, 2).max((0, 1))
    out = [-low[0], -low[1], high[0] - width, high[1] - height]
    most = [_MARGIN * side for side in (width, height, width, height)]
    left, top, right, bottom = (int(min(max(0.0, o), m)) + (3 if o > 1 else 0) for o, m in zip(out, most, strict=True))
    return left, top, right, bottom
