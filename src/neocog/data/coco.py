"""COCO JSON: boxes, outlines, keypoints, captions, panoptic masks (Lin et al. 2014; cocodataset.org/#format-data).

Boxes are x, y, width, height from the corner of the first pixel. Pictures in the list "images" without an annotation
are empty; those that stand in no list are unknown. Panoptic masks (Kirillov et al. 2019) are a PNG for each picture
whose colours are the numbers of segments, R + 256 G + 65,536 B; the JSON names the category of each; 0 and numbers that
no segment has are not labelled.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from neocog.data.annotated import Found, Marks, Pictures, places, split_in, swapped
from neocog.data.kinds import NOT_LABELLED, Masks, TextLists, digest
from neocog.data.layouts import Layout
from neocog.data.shapes import Runs
from neocog.errors import DataError
from neocog.records import Problem, counted


def read(layout: Layout, pictures: Pictures) -> Found:
    """What the COCO files of a layout say."""
    found = Found()
    loaded = [(path, document) for path in layout.annotations if (document := _load(path, found))]
    documents = [one for one in loaded if not _coloured(one[1])]
    boxed = [one for one in documents if _has(one[1], "bbox") and not _has(one[1], "keypoints")]
    pointed = [one for one in documents if _has(one[1], "keypoints")]
    names = _names([document for _, document in boxed or pointed])
    marks = Marks(pictures, names)
    points, swap = _point_names(pointed)
    splits = np.full(len(pictures), -1, dtype=np.int8)
    captions: dict[int, list[str]] = {}
    unknown: set[str] = set()
    skipped: set[int] = set()  # pictures of which not all annotations could be used
    for path, document in documents:
        rows = _rows(path, document, pictures, splits, found)
        categories = {one.get("id"): str(one.get("name", one.get("id"))) for one in document.get("categories", ())}
        boxes = any(document is one for _, one in boxed or pointed)
        for image in document["images"] if boxes else ():
            if (row := rows.get(image.get("id"), -1)) >= 0:
                marks.looked[row] = True
                if image.get("width") and image.get("height"):
                    marks.sizes[row] = image["width"], image["height"]
        for number, one in enumerate(document.get("annotations", ())):
            row = rows.get(one.get("image_id"), -1)
            if row < 0:
                continue
            if "caption" in one:
                captions.setdefault(row, []).append(str(one["caption"]).strip())
            try:
                corners = _corners(one)
                if boxes and corners is not None:
                    name = categories.get(one.get("category_id"))
                    if name is None:
                        unknown.add(str(one.get("category_id")))
                        skipped.add(row)
                    else:
                        marks.add(row, name, corners, _pieces(one), ignored=bool(one.get("iscrowd")))
                if points and one.get("keypoints"):
                    if len(one["keypoints"]) != 3 * len(points):
                        raise DataError(f"{len(one['keypoints'])} numbers as keypoints, expected {3 * len(points)}")
                    given = places(one["keypoints"]).astype(np.float32).reshape(-1, 3)
                    marks.add_points(row, given, corners if corners is not None else _hull(given[given[:, 2] > 0]))
            except (DataError, ValueError, TypeError) as error:
                reason = f"annotation {one.get('id', number)} of {path.name} is skipped: {error}"
                found.problems.append(Problem(pictures.keys[row], reason))
                skipped.add(row)
    marks.unknown_without_things(skipped)
    if unknown:
        found.notes.append(
            f"annotations of categories that are not declared were skipped: {', '.join(sorted(unknown))}"
        )
    marks.finish(found, points, swap)
    coloured = [
        (path, document, _rows(path, document, pictures, splits, found))
        for path, document in loaded
        if _coloured(document)
    ]
    mask = _panoptic(coloured, layout.masks, pictures.keys, found.problems) if coloured else None
    if mask is not None:
        if "mask" in found.columns:
            found.notes.append("the panoptic masks are used, not the outlines of objects")
        found.columns["mask"] = mask
    if captions:
        found.columns["captions"] = TextLists(captions.get(i, []) for i in range(len(pictures)))
    found.splits = splits
    return found


def _load(path: Path, found: Found) -> dict[str, Any] | None:
    try:
        document = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        found.problems.append(Problem(path.name, f"cannot be read: {error}"))
        return None
    if not isinstance(document, dict) or not isinstance(document.get("images"), list):
        return None
    return document


def _has(document: dict[str, Any], key: str) -> bool:
    if key == "keypoints" and any(one.get("keypoints") for one in document.get("categories", ())):
        return True
    annotations = document.get("annotations") or []
    return any(one.get(key) for one in annotations[:100]) or (key == "bbox" and not annotations)


def _names(documents: list[dict[str, Any]]) -> list[str]:
    """Class names by their number; without those that only stand above others (as exports of Roboflow have one)."""
    names: dict[str, None] = {}
    above: set[str] = set()
    used: set[str] = set()
    for document in documents:
        categories = sorted(document.get("categories", ()), key=lambda one: one.get("id", 0))
        by_id = {one.get("id"): str(one.get("name", one.get("id"))) for one in categories}
        names.update(dict.fromkeys(by_id.values()))
        above |= {str(one.get("supercategory")) for one in categories if one.get("supercategory") != one.get("name")}
        used |= {by_id.get(one.get("category_id"), "") for one in document.get("annotations", ())}
    return [name for name in names if name in used or name not in above]


def _point_names(documents: list[tuple[Path, dict[str, Any]]]) -> tuple[tuple[str, ...], tuple[int, ...] | None]:
    for _, document in documents:
        for one in document.get("categories", ()):
            if one.get("keypoints"):
                names = tuple(map(str, one["keypoints"]))
                return names, swapped(names)
        for one in document.get("annotations", ()):
            if one.get("keypoints"):
                return tuple(f"point {k + 1}" for k in range(len(one["keypoints"]) // 3)), None
    return (), None


def _rows(path: Path, document: dict[str, Any], pictures: Pictures, splits: np.ndarray, found: Found) -> dict[Any, int]:
    """The row of the picture of each image id."""
    words = path.stem.replace(".", "_").replace("-", "_").split("_")
    split = split_in([*words, *path.relative_to(pictures.root).parts[:-1]])
    rows, missing = {}, []
    for image in document["images"]:
        name = str(image.get("file_name") or image.get("id"))
        row = pictures.named(name, path.parent, split)
        if row < 0:
            missing.append(name)
            continue
        rows[image.get("id")] = row
        if split >= 0:
            splits[row] = split
    found.problems += [Problem(name, f"listed in {path.name}, but the picture does not exist") for name in missing]
    if missing:
        found.notes.append(f"{path.name} lists {counted(len(missing))} that cannot be found")
    return rows


def _corners(one: dict[str, Any]) -> list[float] | None:
    box = one.get("bbox")
    if box:
        if len(box) != 4:
            raise DataError(f"{len(box)} numbers as a box, expected x, y, width, height")
        x, y, width, height = places([float(v) for v in box]).tolist()
        return [x, y, x + width, y + height]
    if rings := [piece for piece in _pieces(one) if isinstance(piece, np.ndarray)]:
        return _hull(np.concatenate(rings))
    return None


def _hull(points: np.ndarray) -> list[float]:
    if not len(points):
        return [0.0, 0.0, 0.0, 0.0]
    return [*map(float, points[:, :2].min(0)), *map(float, points[:, :2].max(0))]


def _pieces(one: dict[str, Any]) -> list[np.ndarray | Runs]:
    shape = one.get("segmentation")
    if isinstance(shape, dict):
        return [Runs(shape["counts"], tuple(shape["size"]))]
    rings = shape if isinstance(shape, list) else []
    if rings and not isinstance(rings[0], list):
        rings = [rings]
    return [places(ring).astype(np.float32).reshape(-1, 2) for ring in rings if len(ring) >= 6]


def _coloured(document: Mapping[str, Any]) -> bool:
    """Whether a document describes panoptic masks."""
    return any("segments_info" in one for one in (document.get("annotations") or [])[:1])


def _panoptic(
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
            there = next((p for home in (path.with_suffix(""), *folders) if (p := home / file).is_file()), None)
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
    return Masks(
        mask, len(keys), names, colours if len(colours) == len(names) else None, present, digest(*marks, *names), odd
    )


def _numbers(path: Path) -> np.ndarray:
    """int64 (H, W): the number of the segment of each pixel. Raises: DataError: the file cannot be read."""
    from PIL import Image

    try:
        with Image.open(path) as picture:
            pixels = np.asarray(picture.convert("RGB"), dtype=np.int64)
    except Exception as error:  # Pillow raises many kinds for damaged files
        raise DataError(f"the mask cannot be read: {error}") from error
    return pixels @ np.array([1, 256, 65_536])
