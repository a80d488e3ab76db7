"""Answers in the form of COCO: run lengths of masks, and boxes by corner and size."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from neocog.data.shapes import Runs


def rle(mask: np.ndarray) -> dict[str, Any]:
    """Run lengths of a mask, bool (H, W), uncompressed."""
    return {"size": list(mask.shape), "counts": Runs.of(mask).counts.tolist()}


def box(corners: Sequence[float] | np.ndarray) -> list[float]:
    """x0, y0, x1, y1 (exclusive) as x, y, width, height."""
    x0, y0, x1, y1 = (float(v) for v in corners)
    return [round(v, 2) for v in (x0, y0, x1 - x0, y1 - y0)]


def region(mask: np.ndarray, category: int, image_id: int, score: float) -> dict[str, Any]:
    """One annotation for a mask, bool (H, W), of which at least one pixel is set; `category`: its index, from 0."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return {
        "image_id": image_id,
        "category_id": category + 1,
        "segmentation": rle(mask),
        "bbox": box((columns[0], rows[0], columns[-1] + 1, rows[-1] + 1)),
        "area": int(mask.sum()),
        "score": round(score, 4),
    }
