"""Annotations out: COCO JSON, YOLO text files, mask pictures, from a source or from what a net answered.

    write_coco(folder, *of_source(source))     # annotations/instances_train.json ... and images/
    write_yolo(folder, *of_source(source))     # labels/train/*.txt, data.yaml and images/train/
    write_masks(folder, *of_source(source))    # masks/train/*.png (palette), classes.txt and images/train/

`open_source` reads each of these folders again.
"""

from __future__ import annotations

import io
import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from neocog.data.columns import PICTURE_ENDINGS
from neocog.data.decode import inspect
from neocog.data.kinds import NOT_LABELLED, BoxSet
from neocog.data.mask_files import GROUND, voc_colours
from neocog.data.shapes import Runs, ShapeMasks, to_text
from neocog.data.source import Source
from neocog.errors import DataError
from neocog.records import SPLITS

_GROUNDS = (GROUND, "ground", "_background_")


@dataclass
class Marked:
    """One picture with what is known, or was answered, of it; in pixels of the upright picture.

    Attributes:
        name: file name, with folders divided by "/".
        size: width and height.
        outlines: of each box its polygons and runs, or none.
        scores: of each box, where a net found them.
        read: gives the file's bytes, to be copied; None: the pictures stay where they are.
    """

    name: str
    size: tuple[int, int]
    split: str | None = None
    boxes: BoxSet | None = None
    outlines: Sequence[Sequence[np.ndarray | Runs]] = ()
    scores: np.ndarray | None = None
    mask: np.ndarray | None = None
    points: np.ndarray | None = None
    captions: tuple[str, ...] = ()
    read: Callable[[], bytes] | None = None


@dataclass(frozen=True)
class Names:
    """The names of classes and points, and the colours of masks."""

    boxes: tuple[str, ...] = ()
    mask: tuple[str, ...] = ()
    points: tuple[str, ...] = ()
    swap: tuple[int, ...] = ()
    colours: tuple[tuple[int, int, int], ...] = ()


def of_source(source: Source) -> tuple[Iterator[Marked], Names]:
    """The annotations of a source. Pictures that cannot be read are left out."""
    columns: dict[str, Any] = {
        role: column for role, column in source.columns.items() if role in ("boxes", "mask", "points", "captions")
    }
    mask, points = columns.get("mask"), columns.get("points")
    names = Names(
        getattr(columns.get("boxes"), "names", ()),
        getattr(mask, "names", ()),
        getattr(points, "names", ()),
        getattr(points, "swap", ()),
        getattr(mask, "colours", None) or (),
    )
    return (one for i in range(len(source)) if (one := _marked(source, i, columns))), names


def _marked(source: Source, i: int, columns: dict[str, Any]) -> Marked | None:
    try:
        data = _file(source.read(i))
        info = inspect(data)
        values = {role: column[i] for role, column in columns.items()}
    except DataError:
        return None
    mask = columns.get("mask")
    outlines: list[Any] = []
    if isinstance(mask, ShapeMasks) and values.get("boxes") is not None:
        ends = mask.boxes.ends
        outlines = [mask.shapes[j] for j in range(ends[i], ends[i + 1]) if mask.boxes.labels[j] >= 0]
    return Marked(
        _name(source.key(i), info.format),
        (info.width, info.height),
        SPLITS[source.splits[i]] if source.splits[i] >= 0 else None,
        values.get("boxes"),
        outlines,
        None,
        values.get("mask"),
        values.get("points"),
        tuple(values.get("captions") or ()),
        lambda: data,
    )


def _file(data: bytes | np.ndarray) -> bytes:
    if isinstance(data, bytes):
        return data
    file = io.BytesIO()
    Image.fromarray(data).save(file, "PNG")
    return file.getvalue()


def _name(key: str, kind: str) -> str:
    """A file name for a key such as train.parquet#17."""
    if os.path.splitext(key)[1].lower() in PICTURE_ENDINGS:
        return key
    endings = {"JPEG": ".jpg", "TIFF": ".tif"}
    return key.replace("#", "_").replace(".", "_") + endings.get(kind, f".{kind.lower()}")


# ---------------------------------------------------------------- COCO


def write_coco(folder: str | os.PathLike[str], pictures: Iterable[Marked], names: Names) -> list[Path]:
    """Write ``annotations/instances_SPLIT.json`` (and person_keypoints, captions); pictures into ``images/``.

    A mask without outlines becomes one annotation for each class in it, with run lengths; its background is left out.
    Things with a score (answers) keep it as "score". Returns the JSON files.
    """
    folder = Path(folder)
    documents: dict[str, dict[str, Any]] = {}
    for k, one in enumerate(pictures, 1):
        split = one.split or "all"
        image = {"id": k, "file_name": one.name, "width": one.size[0], "height": one.size[1]}
        parts: dict[str, list[dict[str, Any]] | None] = {
            "instances": _instances(one, names),
            "person_keypoints": _keypoints(one, names) if names.points else None,
            "captions": [{"caption": text} for text in one.captions] if one.captions else None,
        }
        for kind, things in parts.items():
            if things is None:
                continue
            document = documents.setdefault(f"{kind}_{split}", _document(kind, names))
            document["images"].append(image)
            for annotation in things:
                document["annotations"].append({"id": len(document["annotations"]) + 1, "image_id": k, **annotation})
        _copy(folder / "images", one)
    made = []
    for name, document in documents.items():
        path = folder / "annotations" / f"{name}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(document), "utf-8")
        made.append(path)
    return made


def _document(kind: str, names: Names) -> dict[str, Any]:
    if kind == "captions":
        return {"images": [], "annotations": []}
    if kind == "person_keypoints":
        categories: list[dict[str, Any]] = [{"id": 1, "name": "person", "keypoints": list(names.points)}]
    else:
        categories = [{"id": k + 1, "name": name} for k, name in enumerate(_classes(names))]
    return {"images": [], "annotations": [], "categories": categories}


def _classes(names: Names) -> tuple[str, ...]:
    return names.boxes or tuple(name for name in names.mask if name not in _GROUNDS)


def _instances(one: Marked, names: Names) -> list[dict[str, Any]] | None:
    """COCO's annotations of the things in a picture; None if nobody looked."""
    if one.boxes is None and (one.mask is None or names.boxes):
        return None
    out = []
    if one.boxes is not None:
        for j, ((x0, y0, x1, y1), label, ignored) in enumerate(zip(*map(np.ndarray.tolist, one.boxes), strict=True)):
            pieces = one.outlines[j] if j < len(one.outlines) else ()
            shape = _segmentation(pieces)
            annotation = {
                "category_id": label + 1, "bbox": [x0, y0, x1 - x0, y1 - y0], "area": (x1 - x0) * (y1 - y0),
                "iscrowd": int(ignored),
            }  # fmt: skip
            annotation |= {"segmentation": shape} if shape else {}
            annotation |= {} if one.scores is None else {"score": float(one.scores[j])}
            out.append(annotation)
        return out
    assert one.mask is not None
    for number, name in enumerate(_classes(names), 1):
        there = one.mask == names.mask.index(name)
        if there.any():
            rows, columns = np.flatnonzero(there.any(1)), np.flatnonzero(there.any(0))
            x, y = int(columns[0]), int(rows[0])
            out.append(
                {
                    "category_id": number, "iscrowd": 0, "area": int(there.sum()),
                    "bbox": [x, y, int(columns[-1]) + 1 - x, int(rows[-1]) + 1 - y],
                    "segmentation": _segmentation([Runs.of(there)]),
                }
            )  # fmt: skip
    return out


def _segmentation(pieces: Sequence[np.ndarray | Runs]) -> Any:
    for piece in pieces:
        if isinstance(piece, Runs):
            return {"size": list(piece.size), "counts": to_text(piece.counts)}
    return [np.asarray(piece).ravel().tolist() for piece in pieces]


def _keypoints(one: Marked, names: Names) -> list[dict[str, Any]] | None:
    if one.points is None:
        return None
    seen = one.points[one.points[:, 2] > 0]
    (x0, y0), (x1, y1) = seen[:, :2].min(0).tolist(), seen[:, :2].max(0).tolist()
    values = [v for x, y, flag in one.points.tolist() for v in (x, y, int(flag))]
    box = {"bbox": [x0, y0, x1 - x0, y1 - y0], "area": (x1 - x0) * (y1 - y0), "iscrowd": 0}
    return [{"category_id": 1, "keypoints": values, "num_keypoints": len(seen), **box}]


# ---------------------------------------------------------------- YOLO


def write_yolo(folder: str | os.PathLike[str], pictures: Iterable[Marked], names: Names) -> Path:
    """Write ``labels/SPLIT/*.txt`` and data.yaml, and the pictures into ``images/SPLIT/``; returns data.yaml.

    Things with one polygon are written as polygons if all have one, points as poses. Ignored boxes (crowds) are left
    out: YOLO cannot express them. Pictures without annotations are left out, because YOLO takes them as empty.
    """
    folder = Path(folder)
    splits: set[str] = set()
    for one in pictures:
        if one.boxes is None:
            continue
        split = one.split or "train"
        splits.add(split)
        name = _flat(one)
        _copy(folder / "images" / split, one, name)
        path = (folder / "labels" / split / name).with_suffix(".txt")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(f"{line}\n" for line in _yolo_lines(one, names)), "utf-8")
    text = ["path: ."] + [f"{split}: images/{split}" for split in SPLITS if split in splits]
    text += ["names:"] + [f"  {k}: {json.dumps(name, ensure_ascii=False)}" for k, name in enumerate(names.boxes)]
    if names.points:
        text += [f"kpt_shape: [{len(names.points)}, 3]", f"flip_idx: {list(names.swap)}"]
    path = folder / "data.yaml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(text) + "\n", "utf-8")
    return path


def _yolo_lines(one: Marked, names: Names) -> Iterator[str]:
    assert one.boxes is not None
    width, height = one.size
    polygons = bool(one.outlines) and all(
        len(pieces) == 1 and not isinstance(pieces[0], Runs) for pieces in one.outlines
    )
    for j, (corners, label, ignored) in enumerate(zip(*one.boxes, strict=True)):
        if ignored:
            continue
        if polygons and not names.points:
            numbers = (np.asarray(one.outlines[j][0], dtype=np.float64) / (width, height)).ravel()
        else:
            x0, y0, x1, y1 = corners.astype(np.float64) / (width, height, width, height)
            numbers = np.array([(x0 + x1) / 2, (y0 + y1) / 2, x1 - x0, y1 - y0])
            if names.points and one.points is not None:
                share = one.points.astype(np.float64) / (width, height, 1)
                numbers = np.concatenate((numbers, share.ravel()))
        yield f"{label} " + " ".join(f"{v:.9g}" for v in numbers)


# ---------------------------------------------------------------- masks


def write_masks(folder: str | os.PathLike[str], pictures: Iterable[Marked], names: Names) -> list[Path]:
    """Write ``masks/SPLIT/*.png`` with a palette, classes.txt, and the pictures into ``images/SPLIT/``.

    The value of a pixel is the index of its class, 255 where it is not labelled. Returns the masks.
    """
    folder, made = Path(folder), []
    colours = [*names.colours, *voc_colours()[len(names.colours) :]]
    colours[NOT_LABELLED] = (224, 224, 192)
    palette = [v for colour in colours for v in colour]
    for one in pictures:
        if one.mask is None:
            continue
        name = _flat(one)
        _copy(folder / "images" / (one.split or ""), one, name)
        path = (folder / "masks" / (one.split or "") / name).with_suffix(".png")
        path.parent.mkdir(parents=True, exist_ok=True)
        picture = Image.fromarray(np.asarray(one.mask, dtype=np.uint8), "L").convert("L")
        picture.putpalette(palette)
        picture.save(path)
        made.append(path)
    if names.mask:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "classes.txt").write_text("".join(f"{name}\n" for name in names.mask), "utf-8")
    return made


def _flat(one: Marked) -> str:
    """The name of a picture in the one folder of its split: its folders are joined by "_"."""
    return one.name.strip("/").replace("/", "_")


def _copy(folder: Path, one: Marked, name: str | None = None) -> None:
    if one.read is None:
        return
    path = folder / (name or one.name)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(one.read())
