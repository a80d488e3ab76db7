"""Annotated folders: the pictures of a layout, and what its annotation files say of them, as columns of a source."""

from __future__ import annotations

import os
import re
from array import array
from collections import defaultdict
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from neocog.data.columns import LabelSets, ends_of, split_code
from neocog.data.decode import inspect
from neocog.data.kinds import Boxes, Categories, Column, Points
from neocog.data.layouts import picture_stem, place_of, plain_stem
from neocog.data.shapes import Runs, ShapeMasks, Shapes
from neocog.errors import DecodeError
from neocog.records import Problem, counted

_HEADER = 1 << 18  # bytes in which the size of nearly every picture stands
_MOST_CLASSES = 254  # of a mask: one more is the background, 255 means not labelled

_FAR = 1e9  # pixels


@dataclass
class Found:
    """What annotation files say of the pictures of a folder."""

    columns: dict[str, Column] = field(default_factory=dict)
    splits: np.ndarray | None = None  # int8 (N,), -1 = not said
    notes: list[str] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    sizes: np.ndarray | None = None  # int32 (N, 2), width and height that annotations say, 0 = not said


class Pictures:
    """The pictures of a folder, found again by the names that annotations give them."""

    def __init__(self, root: Path, keys: Sequence[str]) -> None:
        self.root, self.keys = root, list(keys)
        self._names: dict[str, list[int]] = defaultdict(list)
        self._stems: dict[str, list[int]] = defaultdict(list)
        for row, key in enumerate(self.keys):
            name = key.rsplit("/", 1)[-1]
            self._names[name].append(row)
            self._stems[picture_stem(os.path.splitext(name)[0])].append(row)

    def __len__(self) -> int:
        return len(self.keys)

    def named(self, name: str, folder: Path | None = None, split: int = -1) -> int:
        """The picture that a file name or path in an annotation means, or -1.

        Of several pictures of that name the one whose folders fit the path best, then one in `folder` or of `split`.
        """
        parts = str(name).replace("\\", "/").split("/")
        rows = self._names.get(parts[-1], [])
        if len(rows) < 2:
            return rows[0] if rows else -1

        def fit(row: int) -> tuple[int, bool, bool]:
            own = self.keys[row].split("/")
            same = next((k for k, (a, b) in enumerate(zip(own[::-1], parts[::-1], strict=False)) if a != b), 99)
            inside = folder is not None and folder in (self.root / self.keys[row]).parents
            return same, split >= 0 and split_in(own[:-1]) == split, inside

        return _only(rows, [fit(row) for row in rows])

    def beside(self, path: Path) -> int:
        """The picture that an annotation file of its own (or a mask) belongs to, or -1."""
        rows = self._stems.get(path.stem) or self._stems.get(plain_stem(path.stem)) or []
        if len(rows) < 2:
            return rows[0] if rows else -1
        place = place_of(path.parent.relative_to(self.root).parts)

        def fit(row: int) -> tuple[bool, int]:
            own = place_of(self.keys[row].split("/")[:-1])
            return own == place, sum(a == b for a, b in zip(own, place, strict=False))

        return _only(rows, [fit(row) for row in rows])

    def sizes(self, rows: Sequence[int]) -> np.ndarray:
        """Width and height of some pictures, upright, from their headers, (R, 2); 0 where they cannot be read."""
        with ThreadPoolExecutor(8) as pool:
            found = list(pool.map(lambda row: header_size(self.root / self.keys[row]), rows))
        return np.array(found, dtype=np.int32).reshape(-1, 2)

    def splits(self) -> np.ndarray:
        """int8 (N,): the split that a picture's folders name, -1 = none."""
        return np.array([split_in(key.split("/")[:-1]) for key in self.keys], dtype=np.int8)


def header_size(path: Path) -> tuple[int, int]:
    """Width and height of a picture file, upright; (0, 0) if it cannot be read."""
    try:
        with open(path, "rb") as file:
            data = file.read(_HEADER)
            try:
                info = inspect(data)
            except DecodeError:
                info = inspect(data + file.read())
    except (DecodeError, OSError):
        return 0, 0
    return info.width, info.height


def places(numbers: Any) -> np.ndarray:
    """The numbers of a place in a picture, float64. Raises: ValueError: one is none, infinite, or absurdly large."""
    made = np.asarray(numbers, dtype=np.float64)
    if not (np.abs(made) < _FAR).all():
        raise ValueError(f"{float(made[~(np.abs(made) < _FAR)][0])} is not a place in a picture")
    return made


def split_in(words: Sequence[str]) -> int:
    """The split that one of these words names, also with a year behind it (train2017); -1 if none does."""
    for word in words:
        if (code := split_code(re.sub(r"[_\-]?\d+$", "", word))) >= 0:
            return code
    return -1


def _only(rows: list[int], fits: list[Any]) -> int:
    best = max(fits)
    return rows[fits.index(best)] if fits.count(best) == 1 else -1


class Marks:
    """Boxes, outlines and points of pictures, collected in any order.

    Args:
        names: class names in their order; others are added as they come, and then all are sorted.
    """

    def __init__(self, pictures: Pictures, names: Sequence[str] | None = None) -> None:
        self.pictures = pictures
        self.given = names is not None
        self.names: dict[str, int] = {name: k for k, name in enumerate(names or ())}
        self.looked = np.zeros(len(pictures), dtype=bool)
        self.sizes = np.zeros((len(pictures), 2), dtype=np.int32)  # where annotations say them
        self._rows, self._labels, self._ignored = array("q"), array("i"), array("b")
        self._corners = array("f")
        self._pieces: list[Sequence[np.ndarray | Runs]] = []
        self._points: dict[int, tuple[float, np.ndarray]] = {}
        self._many: set[int] = set()  # pictures with points of more than one thing

    def add(
        self,
        row: int,
        label: str | int | None,
        box: Sequence[float],
        pieces: Sequence[np.ndarray | Runs] = (),
        *,
        ignored: bool = False,
    ) -> None:
        """One thing in picture `row`: its class (a name or an index into `names`), its box x0 y0 x1 y1, its outline.

        None for the class: the pixels are not labelled, and there is no box.
        """
        self.looked[row] = True
        self._rows.append(row)
        label = -1 if label is None else label
        self._labels.append(self.names.setdefault(label, len(self.names)) if isinstance(label, str) else label)
        self._ignored.append(ignored)
        self._corners.extend(box)
        self._pieces.append(pieces)

    def add_points(self, row: int, points: np.ndarray, box: Sequence[float]) -> None:
        """The points (P, 3) of one thing; those of the largest thing in a picture are kept."""
        if not (points[:, 2] > 0).any():
            return
        self.looked[row] = True
        area = (box[2] - box[0]) * (box[3] - box[1])
        if row in self._points:
            self._many.add(row)
        if row not in self._points or area > self._points[row][0]:
            self._points[row] = (area, points)

    def unknown_without_things(self, rows: Iterable[int]) -> None:
        """Of these pictures annotations were left out: those that have no other are unknown, not empty."""
        kept = set(self._rows)
        self.looked[[row for row in rows if row not in kept]] = False

    def finish(self, found: Found, point_names: Sequence[str] = (), swap: Sequence[int] | None = None) -> None:
        """Add the columns boxes, mask (where there are outlines), tags, points; sizes, and notes."""
        n, made, notes = len(self.pictures), found.columns, found.notes
        found.sizes = self.sizes.copy()
        names = tuple(self.names) if self.given else tuple(sorted(self.names))
        number = np.array([names.index(name) for name in self.names] or [0], dtype=np.int32)
        rows = np.frombuffer(self._rows, dtype=np.int64)
        order = np.argsort(rows, kind="stable")
        ends = ends_of(np.bincount(rows, minlength=n))
        labels = np.frombuffer(self._labels, dtype=np.int32)[order]
        labels = np.where(labels < 0, -1, number[labels])
        corners = np.frombuffer(self._corners, dtype=np.float32).reshape(-1, 4)[order]
        ignored = np.frombuffer(self._ignored, dtype=np.int8)[order].astype(bool)
        column = Boxes(ends, corners, labels, names, ignored, self.looked)
        if names and len(rows):
            kept = np.flatnonzero(labels >= 0)
            ends = ends_of(np.bincount(rows[order][kept], minlength=n))
            public = Boxes(ends, corners[kept], labels[kept], names, ignored[kept], self.looked)
            made["boxes"], made["tags"] = public, tags_of(public)
            notes += _empty(public)
            if count := int(ignored.sum()):
                notes.append(
                    f"{counted(count, 'box')} marked as crowd or difficult: ignored in training and evaluation"
                )
        if any(self._pieces) and len(names) <= _MOST_CLASSES:
            unsized = np.flatnonzero(self.looked & (self.sizes == 0).any(1)).tolist()
            self.sizes[unsized] = self.pictures.sizes(unsized)
            made["mask"] = ShapeMasks(column, Shapes.of(self._pieces[j] for j in order), self.sizes)
        if self._points and point_names:
            values = np.zeros((n, len(point_names), 3), dtype=np.float32)
            for row, (_, points) in self._points.items():
                values[row] = points
            made["points"] = Points(values, point_names, swap)
            if self._many:
                notes.append(
                    f"{counted(len(self._many))} with points of several objects: those of the largest one are used"
                )


def tags_of(boxes: Boxes) -> Categories:
    """Which classes are in each picture."""
    rows = np.repeat(np.arange(len(boxes)), np.diff(boxes.ends))
    pairs = np.unique(np.stack((rows, boxes.labels), 1), axis=0) if len(rows) else np.zeros((0, 2), np.int64)
    ends = ends_of(np.bincount(pairs[:, 0], minlength=len(boxes)))
    return Categories(LabelSets(ends, pairs[:, 1].astype(np.int32)), boxes.names, None, boxes.known)


def _empty(boxes: Boxes) -> list[str]:
    """What is said of pictures without a box, and without an annotation."""
    notes, known = [], boxes.known
    if empty := int((known & (np.diff(boxes.ends) == 0)).sum()):
        notes.append(f"{counted(empty)} without a box: taken as empty")
    if unknown := int((~known).sum()):
        notes.append(f"{counted(unknown)} without an annotation: unknown, so they are not used")
    return notes


def swapped(names: Sequence[str]) -> tuple[int, ...] | None:
    """For each point the index of its mirror partner by name (left_eye, right_eye); None if no name has one."""
    for pattern in _SIDES:
        small = [name.lower() for name in names]
        others = [re.sub(pattern, lambda m: _OTHER[m.group().lower()], name).lower() for name in names]
        partner = [small.index(other) if other in small else k for k, other in enumerate(others)]
        if partner != list(range(len(names))) and all(partner[j] == k for k, j in enumerate(partner)):
            return tuple(partner)
    return None


_SIDES = (r"(?i)(?<![a-z])(left|right|l|r)(?![a-z])", r"(?i)left|right", r"^[LRlr](?=[A-Z])")  # left_eye, lefteye, LEye
_OTHER = {"left": "right", "right": "left", "l": "r", "r": "l"}
