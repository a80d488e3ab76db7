"""LabelMe: a JSON file for each picture with polygons, rectangles, circles, lines, points (labelmeai.github.io)."""

from __future__ import annotations

import base64
import io
import json
import math
from collections import Counter
from typing import Any

import numpy as np

from neocog.data.annotated import Found, Marks, Pictures, places, swapped
from neocog.data.layouts import Layout
from neocog.data.shapes import Runs
from neocog.records import Problem

_GROUND = ("_background_", "__background__", "background")
_IGNORED = ("__ignore__", "_ignore_")


def read(layout: Layout, pictures: Pictures) -> Found:
    """What the JSON files of a layout say."""
    found = Found()
    marks = Marks(pictures)
    dots: dict[int, dict[str, tuple[float, float]]] = {}
    for path in sorted(one for folder in layout.annotations for one in folder.glob("*.json")):
        try:
            document = json.loads(path.read_bytes())
        except (OSError, ValueError, RecursionError) as error:
            found.problems.append(Problem(path.relative_to(layout.root).as_posix(), f"cannot be read: {error}"))
            continue
        if not isinstance(document, dict) or not isinstance(document.get("shapes"), list):
            continue
        row = pictures.named(str(document.get("imagePath") or ""), path.parent)
        row = row if row >= 0 else pictures.beside(path)
        if row < 0:
            found.problems.append(Problem(path.name, "no picture, or more than one, has this name"))
            continue
        marks.looked[row] = True
        if document.get("imageWidth") and document.get("imageHeight"):
            marks.sizes[row] = document["imageWidth"], document["imageHeight"]
        for one in document["shapes"]:
            try:
                _add(marks, dots, row, one)
            except (ValueError, TypeError, KeyError, OSError) as error:
                found.problems.append(Problem(pictures.keys[row], f"a shape of {path.name} is skipped: {error}"))
    counts = Counter(name for marked in dots.values() for name in marked)
    names = tuple(sorted(counts))
    for row, marked in dots.items():
        points = np.array([(*marked[name], 2.0) if name in marked else (0.0, 0.0, 0.0) for name in names])
        marks.add_points(row, points, [0.0, 0.0, 1.0, 1.0])
    marks.finish(found, names, swapped(names))
    return found


def _add(marks: Marks, dots: dict[int, dict[str, tuple[float, float]]], row: int, one: dict[str, Any]) -> None:
    label, kind = str(one["label"]), one.get("shape_type") or "polygon"
    if label in _GROUND:
        return
    points = places(one["points"]).reshape(-1, 2)
    if kind == "point":
        dots.setdefault(row, {}).setdefault(label, (float(points[0, 0]), float(points[0, 1])))
        return
    if not len(points):
        raise ValueError("it has no points")
    pieces: list[np.ndarray | Runs] = [points]
    if kind == "rectangle":
        (x0, y0), (x1, y1) = points.min(0), points.max(0)
        points = np.array([(x0, y0), (x1, y0), (x1, y1), (x0, y1)])
        pieces = [points]
    elif kind == "circle":
        radius = math.dist(points[0], points[1])
        turn = np.linspace(0, 2 * math.pi, 65)[:-1]
        points = points[0] + radius * np.stack((np.cos(turn), np.sin(turn)), 1)
        pieces = [points]
    elif kind == "mask":
        from PIL import Image

        with Image.open(io.BytesIO(base64.b64decode(one["mask"]))) as picture:
            part = np.asarray(picture.convert("L")) > 0
        width, height = marks.sizes[row].tolist()
        whole = np.zeros((height, width), dtype=bool)
        x0, y0 = (int(v) for v in points.min(0))
        there = whole[y0 : y0 + part.shape[0], x0 : x0 + part.shape[1]]
        there[:] = part[: there.shape[0], : there.shape[1]]
        pieces = [Runs.of(whole)]
        points = np.array([(x0, y0), (x0 + part.shape[1], y0 + part.shape[0])])
    elif kind != "polygon" or len(points) < 3:
        raise ValueError(f"a {kind} of {len(points)} points covers nothing")
    box = [*points.min(0), *points.max(0)]
    marks.add(row, None if label in _IGNORED else label, box, pieces)
