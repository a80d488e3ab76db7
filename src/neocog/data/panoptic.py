"""COCO's panoptic masks: a PNG for each picture whose colours are the numbers of segments (Kirillov et al. 2019).

A JSON names the category of each segment; R + 256 G + 65,536 B is the number, 0 and numbers that no segment has are not
labelled (cocodataset.org/#format-data, section 4).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from neocog.data.kinds import NOT_LABELLED, Masks, digest
from neocog.errors import DataError
from neocog.records import Problem


def is_panoptic(document: Mapping[str, Any]) -> bool:
    """Tell whether a COCO document describes panoptic masks."""
    return any("segments_info" in one for one in (document.get("annotations") or [])[:1])


def masks(
    documents: Sequence[tuple[Path, Mapping[str, Any], Mapping[Any, int]]],
    folders: Sequence[Path],
    keys: Sequence[str],
    problems: list[Problem],
) -> Masks | None:
    """The class of each pixel of the pictures `keys`; None where no mask is there.

    Args:
        documents: path, content, and the row of the picture of each image id.
        folders: where the PNG files may be, beside the folder that is named after the JSON.
        problems: what could not be used is added here.
    """
    categories: dict[str, tuple[int, ...]] = {}
    for _, document, _ in documents:
        for one in sorted(document.get("categories", ()), key=lambda one: one.get("id", 0)):
            categories.setdefault(str(one.get("name", one.get("id"))), tuple(one.get("color") or ()))
    names = tuple(categories)
    if not names or len(names) > NOT_LABELLED:
        return None
    files: dict[int, tuple[Path, np.ndarray, np.ndarray]] = {}  # of each row: the PNG, numbers of segments, classes
    for path, document, rows in documents:
        name_of = {one.get("id"): str(one.get("name", one.get("id"))) for one in document.get("categories", ())}
        for annotation in document.get("annotations", ()):
            row = rows.get(annotation.get("image_id"), -1)
            if row < 0:
                continue
            file = str(annotation.get("file_name"))
            places = [folder / file for folder in (path.with_suffix(""), *folders)]
            there = next((place for place in places if place.is_file()), None)
            segments = annotation.get("segments_info") or []
            if there is None or any(one.get("category_id") not in name_of for one in segments):
                why = "does not exist" if there is None else "has a segment of a category that is not declared"
                problems.append(Problem(keys[row], f"its panoptic mask {file} {why}"))
                continue
            numbers = np.array([one["id"] for one in segments], dtype=np.int64)
            classes = np.array([names.index(name_of[one["category_id"]]) for one in segments], dtype=np.uint8)
            order = np.argsort(numbers)
            files[row] = there, numbers[order], classes[order]
    if not files:
        return None

    def found(row: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Pixels as numbers of segments (H, W), the place of each among the segments, and whether it is one."""
        path, numbers, _ = files[row]
        pixels = _numbers(path)
        if not len(numbers):
            return pixels, np.zeros_like(pixels), np.zeros(pixels.shape, bool)
        place = np.searchsorted(numbers, pixels).clip(max=len(numbers) - 1)
        return pixels, place, numbers[place] == pixels

    def mask(row: int) -> np.ndarray:
        _, place, known = found(row)
        classes = files[row][2] if len(files[row][2]) else np.zeros(1, np.uint8)
        return np.where(known, classes[place], np.uint8(NOT_LABELLED))

    def odd(row: int) -> list[str]:
        pixels, _, known = found(row)
        return [f"segment {number}" for number in np.unique(pixels[~known & (pixels > 0)]).tolist()]

    present = np.zeros(len(keys), dtype=bool)
    present[list(files)] = True
    colours = [(one[0], one[1], one[2]) for one in categories.values() if len(one) == 3]
    marks = [part for row in sorted(files) for part in (str(files[row][0]), *files[row][1:])]
    column = Masks(
        mask, len(keys), names, colours if len(colours) == len(names) else None, present, digest(*marks, *names)
    )
    column.odd = odd
    return column


def _numbers(path: Path) -> np.ndarray:
    """int64 (H, W): the number of the segment of each pixel. Raises: DataError: the file cannot be read."""
    from PIL import Image

    try:
        with Image.open(path) as picture:
            pixels = np.asarray(picture.convert("RGB"), dtype=np.int64)
    except Exception as error:  # Pillow raises many kinds for damaged files
        raise DataError(f"the mask cannot be read: {error}") from error
    return pixels @ np.array([1, 256, 65_536])
