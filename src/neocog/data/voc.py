"""Pascal VOC: an XML file for each picture, split files, class masks (Everingham et al. 2010).

VOC counts pixels from 1 and includes both corners, so xmin - 1, ymin - 1, xmax, ymax are the box. Where a box begins at
0, the files were written by a tool that counts from 0, and are taken as they are.
"""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

import numpy as np

from neocog.data.annotated import Found, Marks, Pictures, places, split_in
from neocog.data.layouts import Layout
from neocog.data.text import lines_of
from neocog.records import Problem


def read(layout: Layout, pictures: Pictures) -> Found:
    """What the XML files of a layout say."""
    found = Found()
    things: list[tuple[int, str, list[float], bool]] = []
    marks = Marks(pictures)
    for path in sorted(one for folder in layout.annotations for one in folder.glob("*.xml")):
        row = pictures.beside(path)
        if row < 0:
            reason = "no picture, or more than one, has this name"
            found.problems.append(Problem(path.relative_to(layout.root).as_posix(), reason))
            continue
        try:
            tree = ElementTree.fromstring(path.read_bytes())
            marks.looked[row] = True
            size = [int(float(tree.findtext(f"size/{side}") or 0)) for side in ("width", "height")]
            if all(size):
                marks.sizes[row] = size
            for one in tree.iter("object"):
                box = one.find("bndbox")
                if box is None:
                    continue
                corners = [float(box.findtext(side) or "nan") for side in ("xmin", "ymin", "xmax", "ymax")]
                if np.isnan(corners).any():
                    raise ValueError("a box lacks one of xmin, ymin, xmax, ymax")
                places(corners)
                name = (one.findtext("name") or "").strip()
                things.append((row, name, corners, (one.findtext("difficult") or "0").strip() in ("1", "true")))
        except (OSError, ValueError, ElementTree.ParseError) as error:
            marks.looked[row] = False
            found.problems.append(Problem(pictures.keys[row], f"{path.name} cannot be used: {error}"))
    # a negative corner is a mistake in either way of counting, and says nothing
    from_one = not any(0 <= corner < 1 for _, _, corners, _ in things for corner in corners[:2])
    for row, name, corners, difficult in things:
        if marks.looked[row]:
            marks.add(row, name, [corners[0] - from_one, corners[1] - from_one, *corners[2:]], ignored=difficult)
    if things and not from_one:
        found.notes.append("boxes begin at 0: taken as counted from 0 with x1 and y1 exclusive, not as VOC counts")
    marks.finish(found)
    found.splits = _splits(layout.root, pictures)
    return found


def _splits(root: Path, pictures: Pictures) -> np.ndarray:
    """The splits of ImageSets/Main (or Segmentation, where Main says nothing of a picture)."""
    splits = np.full(len(pictures), -1, dtype=np.int8)
    stems: dict[str, list[int]] = {}
    for row, key in enumerate(pictures.keys):
        stems.setdefault(key.rsplit("/", 1)[-1].rpartition(".")[0], []).append(row)
    for kind in ("Main", "Segmentation", "Layout"):
        said = np.full(len(pictures), -1, dtype=np.int8)
        for path in sorted(root.glob(f"**/ImageSets/{kind}/*.txt")):
            code = split_in([path.stem])
            if code < 0:
                continue
            home = path.parents[2]
            for line in lines_of(path):
                for row in stems.get(line.split()[0], ()):
                    if home in (root / pictures.keys[row]).parents:
                        said[row] = code
        splits = np.where(splits < 0, said, splits)
    return splits
