"""Masks in folders of their own beside the pictures, or beside each picture as X_mask.png."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from neocog.data.annotated import Found, Pictures
from neocog.data.columns import is_picture
from neocog.data.kinds import Masks, digest
from neocog.data.layouts import Layout
from neocog.data.mask_files import GROUND, VOC_CLASSES, meaning, names_beside, stored
from neocog.errors import DataError
from neocog.records import Problem, counted


def read(layout: Layout, pictures: Pictures) -> Found:
    """The masks of a layout, each found by the name of its picture."""
    found = Found()
    folders = [one for one in layout.masks if one.name != "SegmentationObject"]
    files: dict[int, Path] = {}
    beside = [layout.root / os.path.dirname(key) for key in pictures.keys] if layout.beside else []
    for folder in dict.fromkeys((*folders, *beside)):
        for path in sorted(folder.iterdir()):
            if is_picture(path.name) and layout.is_mask(path) and path.is_file():
                row = pictures.beside(path)
                if row >= 0:
                    files.setdefault(row, path)
                else:
                    reason = "a mask without a picture of its name"
                    found.problems.append(Problem(path.relative_to(layout.root).as_posix(), reason))
    if not files:
        return found
    names, named = names_beside(layout.root, [*(one.parent for one in folders), *folders])
    if names is None and not named and any(one.name == "SegmentationClass" for one in folders):
        names = [GROUND, *VOC_CLASSES]
    try:
        values = meaning(
            files.__getitem__,
            sorted(files),
            names=names,
            named=named,
            lossy=any(path.suffix.lower() in (".jpg", ".jpeg") for path in files.values()),
        )
    except DataError as error:
        found.notes.append(f"masks were not used: {error}")
        return found

    def mask(row: int) -> np.ndarray:
        return values.index(stored(files[row])[0])

    present = np.zeros(len(pictures), dtype=bool)
    present[list(files)] = True
    marks = []
    for row in sorted(files):
        marks += [os.fsencode(files[row]), str(files[row].stat().st_size)]
    column = Masks(mask, len(pictures), values.names, values.colours, present, digest(*marks, *values.names))
    column.odd = lambda row: values.odd(stored(files[row])[0])
    found.columns["mask"] = column
    if values.note:
        found.notes.append(values.note)
    if missing := int((~present).sum()):
        found.notes.append(f"{counted(missing)} without a mask: unknown, so they are not used")
    return found
