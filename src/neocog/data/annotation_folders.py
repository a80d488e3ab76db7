"""Folders of annotated pictures as a Source: the pictures of a layout, with its annotations as columns."""

from __future__ import annotations

import os
from collections.abc import Sequence

import numpy as np

from neocog.data import coco, labelme, mask_folders, voc, yolo
from neocog.data.annotated import Found, Pictures
from neocog.data.columns import Texts
from neocog.data.folder import Folder, open_folder
from neocog.data.layouts import Layout, is_generic
from neocog.data.source import ONE_LABEL, Source

_READERS = {"coco": coco, "voc": voc, "yolo": yolo, "labelme": labelme, "masks": mask_folders}


def open_layout(layout: Layout) -> Source:
    """Open the pictures of a layout, without its masks, with its annotations as columns.

    Labelled only where class folders hold the pictures.
    """
    listed = open_folder(layout.root)
    keys = [os.fsdecode(listed.keys.raw(i)) for i in range(len(listed))]
    rows = np.array([i for i, key in enumerate(keys) if not layout.is_mask(layout.root / key)], dtype=np.int64)
    pictures = Pictures(layout.root, [keys[i] for i in rows])
    found = _READERS[layout.kind].read(layout, pictures)
    if layout.kind != "masks" and "mask" not in found.columns and (layout.masks or layout.beside):
        more = mask_folders.read(layout, pictures)
        found.columns.update(more.columns)
        found.notes += more.notes
        found.problems += more.problems
    used, labelled = _class_folders(listed.classes, listed.labels[rows])
    labels = np.full(len(rows), -1, dtype=np.int32)
    splits = pictures.splits()
    if labelled:
        labels = np.searchsorted(used, listed.labels[rows]).astype(np.int32)
        labels[listed.labels[rows] < 0] = -1
        splits = listed.splits[rows]
    elif found.splits is not None:
        splits = np.where(found.splits >= 0, found.splits, splits)
    source = Folder(
        layout.root,
        Texts(listed.keys.raw(int(i)) for i in rows),
        listed.name,
        [listed.classes[i] for i in used] if labelled else (),
        labels,
        splits,
        notes=_notes(layout, listed, len(rows), labelled, found),
        problems=[*listed.problems, *found.problems],
        columns=found.columns,
        unfit="" if labelled else _unfit(listed.name, layout),
    )
    source.layout = layout
    return source


def _class_folders(classes: Sequence[str], labels: np.ndarray) -> tuple[list[int], bool]:
    used = sorted(set(labels.tolist()) - {-1})
    return used, sum(not is_generic(classes[i]) for i in used) >= 2


def _notes(layout: Layout, listed: Folder, n: int, labelled: bool, found: Found) -> list[str]:
    masks = [f"{len(listed) - n:,} masks were left out"] if n < len(listed) and "mask" not in found.columns else []
    if labelled:
        masks = [f"{len(listed) - n:,} masks were left out"] if n < len(listed) else []
        return [*listed.notes, *masks, f"the folders were taken as classes, but this looks like {layout}", *found.notes]
    what = ", ".join(role for role, column in found.columns.items() if column.known.any())
    return [f"{layout}" + (f": {what} read" if what else ""), *masks, *found.notes]


def _unfit(name: str, layout: Layout) -> str:
    return (
        f"{name} looks like {layout}. {ONE_LABEL} To classify whole pictures, put each into a folder named "
        "after its class, or write a table with the columns path and label and open that."
    )
