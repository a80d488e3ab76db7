"""YOLO text files: a line for each thing, "class cx cy w h" in shares of the picture's sides, or a polygon, or points.

"class x1 y1 x2 y2 x3 y3 ..." is a polygon; with `kpt_shape: [P, 2 or 3]` in data.yaml, "class cx cy w h" is followed by
P points. A picture without a file is empty, as YOLO's tools have it, if others in its folder have one.
"""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import Any

import numpy as np

from neocog.data.annotated import Found, Marks, Pictures, places, split_in
from neocog.data.columns import split_code
from neocog.data.layouts import NO_LABELS, Layout
from neocog.data.text import first_lines, lines_of
from neocog.records import Problem, counted

_NAME_FILES = ("classes.txt", "obj.names", "_darknet.labels", "data.names")


def read(layout: Layout, pictures: Pictures) -> Found:
    """What the text files of a layout say."""
    found = Found()
    said = _yaml([path for path in layout.annotations if path.is_file()])
    homes = (layout.root, layout.root / "data", *layout.annotations)
    names = said.get("names") or first_lines(homes, _NAME_FILES)[1] or None
    files: dict[int, Path] = {}
    for folder in (one for one in layout.annotations if one.is_dir()):
        for path in sorted(folder.glob("*.txt")):
            if path.name.lower() in NO_LABELS or path.name == "obj.names":
                continue
            if (row := pictures.beside(path)) >= 0:
                files[row] = path
    annotated = {pictures.keys[row].rpartition("/")[0] for row in files}
    rows = [row for row, key in enumerate(pictures.keys) if key.rpartition("/")[0] in annotated]
    lines: list[tuple[int, int, np.ndarray]] = []
    marks = Marks(pictures, names)
    bare = 0
    for row, size in zip(rows, pictures.sizes(rows), strict=True):
        if not size.all():
            found.problems.append(Problem(pictures.keys[row], "its size is not known, so its boxes are not"))
            continue
        marks.looked[row], marks.sizes[row] = True, size
        bare += row not in files
        try:
            lines += [(row, label, numbers) for label, numbers in _lines(files[row])] if row in files else []
        except (OSError, ValueError) as error:
            marks.looked[row] = False
            found.problems.append(Problem(pictures.keys[row], f"{files[row].name} cannot be used: {error}"))
    most = max((label for _, label, _ in lines), default=-1)
    known = len(marks.names)
    if most >= known:
        if names:
            found.notes.append(f"classes up to {most} are used, but names are given for {known}")
        for k in range(known, most + 1):
            marks.names.setdefault(str(k), k)
    marks.given = True
    shape = said.get("kpt_shape") or (_point_shape(lines) if layout.task == "points" else None)
    for row, label, numbers in lines:
        if marks.looked[row]:
            _thing(marks, row, label, numbers, shape)
    point_names = tuple(f"point {k + 1}" for k in range(int(shape[0]))) if shape else ()
    swap = said.get("flip_idx")
    swap = swap if isinstance(swap, list) and len(swap) == len(point_names) else None
    if bare:
        found.notes.append(f"{counted(bare)} without a text file among annotated ones")
    marks.finish(found, point_names, swap)
    found.splits = _splits(layout, pictures, said)
    return found


def _lines(path: Path) -> list[tuple[int, np.ndarray]]:
    out = []
    for line in path.read_text("utf-8", "replace").splitlines():
        words = line.split()
        if not words:
            continue
        numbers = places([float(word) for word in words[1:]])
        if len(numbers) < 4 or float(words[0]) < 0:
            raise ValueError(f"expected a class and at least four numbers, got {line[:60]!r}")
        out.append((int(float(words[0])), numbers))
    return out


def _thing(marks: Marks, row: int, label: int, numbers: np.ndarray, shape: Any) -> None:
    width, height = marks.sizes[row].tolist()
    if len(numbers) in (4, 5) or shape:  # a fifth number is a confidence
        cx, cy, w, h = numbers[:4] * (width, height, width, height)
        box = [cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2]
        marks.add(row, label, box)
        if shape and len(numbers) >= 4 + shape[0] * shape[1]:
            given = numbers[4 : 4 + shape[0] * shape[1]].reshape(shape[0], shape[1])
            seen = given[:, 2] if shape[1] == 3 else np.where((given > 0).all(1), 2.0, 0.0)
            marks.add_points(row, np.stack((given[:, 0] * width, given[:, 1] * height, seen), 1), box)
        return
    ring = numbers[: len(numbers) // 2 * 2].reshape(-1, 2) * (width, height)
    marks.add(row, label, [*ring.min(0), *ring.max(0)], [ring])


def _point_shape(lines: list[tuple[int, int, np.ndarray]]) -> tuple[int, int] | None:
    count = min((len(numbers) - 4 for _, _, numbers in lines if len(numbers) > 5), default=0)
    if not count:
        return None
    return (count // 3, 3) if count % 3 == 0 else (count // 2, 2)


def _yaml(paths: list[Path]) -> dict[str, Any]:
    """What data.yaml says: names (a list, or numbered lines), kpt_shape, flip_idx, and where the splits are."""
    said: dict[str, Any] = {}
    for path in paths:
        lines = [re.sub(r"\s+#.*$", "", line) for line in path.read_text("utf-8", "replace").splitlines()]
        blocks: dict[str, list[str]] = {}
        key = ""
        for line in lines:
            if match := re.match(r"(\w+)\s*:\s*(.*)$", line):
                key = match.group(1)
                blocks[key] = [match.group(2)] if match.group(2) else []
            elif key and line.strip():
                blocks[key].append(line.strip())
        for key, block in blocks.items():
            value = " ".join(block).strip()
            if value.startswith(("[", "{")):
                parts = [one.strip() for one in value.strip("[]{}").split(",") if one.strip()]
            else:
                parts = [one.lstrip("-").strip() for one in block]
            if key == "names":
                numbered = [re.match(r"(\d+)\s*:\s*(.+)$", one) for one in parts]
                if parts and all(numbered):
                    by_number = {int(m.group(1)): _bare(m.group(2)) for m in numbered if m}
                    said[key] = [by_number.get(k, str(k)) for k in range(max(by_number) + 1)]
                else:
                    said[key] = [_bare(one) for one in parts]
            elif key in ("kpt_shape", "flip_idx"):
                said[key] = [int(one) for one in parts]
            elif key in ("path", "train", "val", "valid", "test"):
                said[key] = [_bare(one) for one in parts]
    return said


def _bare(text: str) -> str:
    try:
        return str(ast.literal_eval(text)) if text[:1] in "'\"" else text
    except (ValueError, SyntaxError):
        return text.strip("'\"")


def _splits(layout: Layout, pictures: Pictures, said: dict[str, Any]) -> np.ndarray:
    """The splits of data.yaml: folders, or text files that list pictures; else of train.txt and the like."""
    splits = np.full(len(pictures), -1, dtype=np.int8)
    wanted = [(split_code(key), place) for key in ("train", "val", "valid", "test") for place in said.get(key, ())]
    wanted += [(split_in([path.stem]), path.name) for path in sorted(layout.root.glob("*.txt"))]
    for code, place in wanted:
        if code < 0:
            continue
        path = layout.root / place
        if path.suffix == ".txt" and path.is_file():
            for line in lines_of(path):
                if (row := pictures.named(line)) >= 0:
                    splits[row] = code
            continue
        parts = [part for part in place.replace("\\", "/").split("/") if part not in ("", ".", "..")]
        for row, key in enumerate(pictures.keys):
            if parts and splits[row] < 0 and _inside(key.split("/")[:-1], parts):
                splits[row] = code
    return splits


def _inside(folders: list[str], parts: list[str]) -> bool:
    return any(folders[k : k + len(parts)] == parts for k in range(len(folders)))
