"""Folders of annotated pictures that are not folders of classes: YOLO, Pascal VOC, COCO, LabelMe, masks.

`recognise` looks at names and at the beginning of some files, never at all of them, so it is quick on any folder.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path

from neocog.data.columns import PICTURE_ENDINGS, is_picture

_DEPTH, _FOLDERS, _ENTRIES, _ALL = 3, 400, 20_000, 60_000  # how far a look at a tree goes; 60,000 names take 0.4 s
_LOOKED_AT = 12  # annotation files read in a folder
_BYTES = 1 << 16  # read from either end of a file
_PICTURES = frozenset("images image imgs img pictures photos jpegimages inputs input rgb leftimg8bit".split())
_TARGETS = frozenset(
    "masks mask labels label annotations annotation annot segmentations segmentation seg gt groundtruth ground_truth "
    "segmentationclass segmentationobject trimaps gtfine matte mattes labels_mask targets".split()
)
_SUFFIX = re.compile(
    r"(?:_gtfine|_gtcoarse)?[_\-. ]?(?:mask|masks|seg|segmentation|label|labels|labelids|gt|annotation|matte|trimap)$",
    re.IGNORECASE,
)
_GENERIC = re.compile(r"(train|training|val|valid|validation|test|testing|unlabeled|data|dataset)[_\-]?\d*", re.I)
_LINE = re.compile(r"\d+(?:\.0*)?(?:[ \t]+-?\d*\.?\d+(?:[eE][-+]?\d+)?){4,}")
NO_LABELS = frozenset(
    "classes.txt readme.txt readme.dataset.txt readme.roboflow.txt train.txt val.txt test.txt".split()
)

_KINDS = {
    "yolo": "a YOLO data set", "voc": "a Pascal VOC data set", "coco": "a COCO data set",
    "labelme": "LabelMe annotations", "masks": "pictures with masks",
}  # fmt: skip
_TASKS = {
    "detect": "object detection", "segment": "segmentation", "points": "keypoints", "caption": "captions",
}  # fmt: skip


@dataclass(frozen=True)
class Layout:
    """What a folder of annotated pictures looks like.

    Attributes:
        kind: "yolo", "voc", "coco", "labelme" or "masks".
        task: what it was made for: "detect", "segment", "points" or "caption".
        root: the folder that was looked at.
        pictures: the folders with the pictures.
        annotations: the folders with an annotation file for each picture, or the files that hold all of them.
        masks: the folders whose pictures are masks; for masks beside their pictures see `is_mask`.
    """

    kind: str
    task: str
    root: Path
    pictures: tuple[Path, ...] = ()
    annotations: tuple[Path, ...] = ()
    masks: tuple[Path, ...] = ()
    beside: bool = False  # masks lie beside their pictures, as X_mask.png

    def __str__(self) -> str:
        places = [os.path.relpath(one, self.root) for one in self.annotations or self.masks or self.pictures]
        places = ["beside the pictures" if one == "." else one for one in places]
        where = ", ".join(places[:3]) + (", ..." if len(places) > 3 else "")
        return f"{_KINDS[self.kind]} for {_TASKS[self.task]} ({where})"

    def is_mask(self, path: Path) -> bool:
        """Tell whether the picture at `path` is a mask."""
        if any(folder in path.parents for folder in self.masks):
            return True
        return self.beside and plain_stem(path.stem) != path.stem


def recognise(path: str | os.PathLike[str]) -> Layout | None:
    """Say what layout of annotated pictures a folder has (or the folder that a .json or .yaml file belongs to)."""
    path = Path(os.path.abspath(path))
    if path.is_file():
        if not (_in_json(path) if path.suffix.lower() == ".json" else _is_yolo_yaml(path)):
            return None
        path = path.parent.parent if path.parent.name.lower() in _TARGETS else path.parent
    folders = sorted(_look(path), key=lambda seen: seen.parts)
    masks = _masks(path, folders)
    for find in (_coco_or_labelme, _voc, _yolo):
        if found := find(path, folders):
            if masks:
                both = tuple(dict.fromkeys((*found.masks, *masks.masks)))
                found = replace(found, masks=both, beside=masks.beside)
            return found
    return masks


def is_generic(name: str) -> bool:
    """Tell whether a folder's name says what part of a data set it holds, so that it is no name of a class."""
    name = name.lower()
    return name in _PICTURES or name in _TARGETS or _GENERIC.fullmatch(name) is not None


def place_of(parts: Sequence[str]) -> tuple[str, ...]:
    """The folders that tell annotated pictures apart: without images, labels and the like; trainannot is train."""
    words = (re.sub(r"[_\-]?(annot|masks?|labels?|seg|gt)$", "", part, flags=re.IGNORECASE) for part in parts)
    return tuple(word for word in words if word and word.lower() not in _PICTURES | _TARGETS)


@dataclass
class _Seen:
    """The names in one folder. `parts` are the names of the folders that lead to it from the root."""

    path: Path
    parts: tuple[str, ...]
    pictures: list[str] = field(default_factory=list)
    others: dict[str, list[str]] = field(default_factory=dict)  # by ending, small letters

    def stems(self) -> set[str]:
        return {os.path.splitext(name)[0] for name in self.pictures}

    def has(self, stem: str) -> bool:
        """Tell whether there is a picture of this stem, also where the listing was cut short."""
        return any(
            os.path.isfile(self.path / (stem + case(ending))) for ending in PICTURE_ENDINGS for case in (str, str.upper)
        )


def _look(root: Path) -> Iterator[_Seen]:
    """Yield the folders in a tree, the upper ones first."""
    waiting: list[tuple[str, ...]] = [()]
    left = _ALL
    for parts in waiting:  # grows while it is walked
        seen = _Seen(root.joinpath(*parts), parts)
        try:
            with os.scandir(seen.path) as entries:
                for entry in islice(entries, min(_ENTRIES, max(left, 500))):
                    left -= 1
                    if entry.name.startswith("."):
                        continue
                    ending = os.path.splitext(entry.name)[1].lower()
                    if is_picture(entry.name):
                        seen.pictures.append(entry.name)
                    elif ending in (".txt", ".xml", ".json", ".yaml", ".yml"):
                        seen.others.setdefault(ending, []).append(entry.name)
                    elif len(parts) < _DEPTH and len(waiting) < _FOLDERS and entry.is_dir():
                        waiting.append((*parts, entry.name))
        except OSError:
            continue  # listing the pictures says what is wrong
        yield seen


def _coco_or_labelme(root: Path, folders: list[_Seen]) -> Layout | None:
    tables: dict[str, list[Path]] = {}
    beside: list[Path] = []
    for seen in folders:
        for name in sorted(seen.others.get(".json", ()))[:_LOOKED_AT]:
            what = _in_json(seen.path / name)
            if what == "labelme":
                beside.append(seen.path)
                break
            if what:
                tables.setdefault(what, []).append(seen.path / name)
    stems = {path.stem for path in tables.get("segment", ())}
    masks = tuple(
        seen.path
        for seen in folders
        if stems and seen.parts and seen.pictures and ({seen.parts[-1]} & stems or "panoptic" in seen.parts[-1].lower())
    )
    pictures = tuple(seen.path for seen in folders if seen.pictures and seen.path not in masks)
    for task in ("detect", "points", "segment", "caption"):
        if task in tables and pictures:
            files = tuple(one for found in tables.values() for one in found)
            return Layout("coco", task, root, pictures, files, masks)
    return Layout("labelme", "segment", root, pictures, tuple(beside)) if beside and pictures else None


def _in_json(path: Path) -> str:
    """Return the task of a COCO file, "labelme", or "" for any other JSON."""
    text = _ends(path)
    if '"shapes"' in text and ('"imagePath"' in text or '"points"' in text):
        return "labelme"
    if not re.match(r"\s*\{", text) or '"images"' not in text:
        return ""
    if '"segments_info"' in text:
        return "segment"
    for task, words in (("points", ("keypoints",)), ("detect", ("bbox",)), ("caption", ("caption",))):
        if any(f'"{word}"' in text for word in words):
            return task
    return "detect" if '"annotations"' in text and '"categories"' in text else ""


def _voc(root: Path, folders: list[_Seen]) -> Layout | None:
    found = []
    for seen in folders:
        names = sorted(seen.others.get(".xml", ()))[:_LOOKED_AT]
        texts = [_ends(seen.path / name) for name in names]
        if any("<annotation" in text and ("<bndbox>" in text or "<filename>" in text) for text in texts):
            found.append(seen.path)
    pictures = [seen for seen in folders if seen.pictures]
    pictures = [seen for seen in pictures if not set(map(str.lower, seen.parts)) & _TARGETS] or pictures
    return (
        Layout("voc", "detect", root, tuple(one.path for one in pictures), tuple(found)) if found and pictures else None
    )


def _yolo(root: Path, folders: list[_Seen]) -> Layout | None:
    by_parts = {seen.parts: seen for seen in folders}
    labels, pictures, counts, damaged = [], [], set(), []
    for seen in folders:
        names = [name for name in sorted(seen.others.get(".txt", ())) if name.lower() not in NO_LABELS]
        where = next((one for one in _partners(seen.parts, by_parts) if one.pictures), None)
        if where is None or not names:
            continue
        stems = where.stems()
        names = [name for name in names if (stem := name[:-4]) in stems or where.has(stem)][:_LOOKED_AT]
        found = [_boxes(seen.path / name) for name in names]
        if any(found) and _mostly([one is not None for one in found]):
            labels.append(seen.path)
            pictures.append(where.path)
            counts |= {n for one in found if one for n in one}
        elif seen.parts and set(map(str.lower, seen.parts)) & _TARGETS:
            damaged.append((seen.path, where.path))
    files = [
        seen.path / name for seen in folders for ending in (".yaml", ".yml") for name in seen.others.get(ending, ())
    ]
    files = list(filter(_is_yolo_yaml, files))
    if not labels and not (damaged and files):
        return None
    for folder, of in damaged:  # what is wrong with them is said when they are read
        labels.append(folder)
        pictures.append(of)
    task = "detect" if counts <= {4, 5} else "segment" if all(n % 2 == 0 for n in counts) else "points"
    return Layout("yolo", task, root, tuple(pictures), (*labels, *files))


def _partners(parts: tuple[str, ...], by_parts: dict[tuple[str, ...], _Seen]) -> Iterator[_Seen]:
    """Yield the folders that may hold the pictures of the annotations in the folder `parts`, itself first."""
    yield by_parts[parts]
    for i, part in enumerate(parts):
        for word in ("", *sorted(_PICTURES)) if part.lower() in _TARGETS else ():
            for name in (word, word.capitalize(), "JPEGImages", "leftImg8bit") if word else ("",):
                other = (*parts[:i], *([name] if name else []), *parts[i + 1 :])
                if other in by_parts:
                    yield by_parts[other]
        # CamVid: train/ and trainannot/
        stripped = re.sub(r"[_\-]?(annot|masks?|labels?|seg|gt)$", "", part, flags=re.IGNORECASE)
        if stripped and stripped != part and (other := (*parts[:i], stripped, *parts[i + 1 :])) in by_parts:
            yield by_parts[other]
    if parts and any(part.lower() in _TARGETS for part in parts):  # annotations/trimaps and images
        yield from (seen for seen in by_parts.values() if seen.parts and seen.parts[-1].lower() in _PICTURES)


def _boxes(path: Path) -> list[int] | None:
    """Return how many numbers follow the class in each line of a YOLO label file, or None if it is something else."""
    lines = [line.strip() for line in _ends(path).splitlines()[:50] if line.strip()]
    if not all(map(_LINE.fullmatch, lines)):
        return None
    rows = [[float(one) for one in line.split()[1:]] for line in lines]
    if any(abs(one) > 2 for row in rows for one in row):  # shares of the picture's sides
        return None
    return [len(row) for row in rows]


def _is_yolo_yaml(path: Path) -> bool:
    if path.suffix.lower() not in (".yaml", ".yml"):
        return False
    keys = set(re.findall(r"^(\w+)\s*:", _ends(path), re.MULTILINE))
    return "names" in keys and bool(keys & {"train", "val", "test", "nc", "path", "kpt_shape"})


def _masks(root: Path, folders: list[_Seen]) -> Layout | None:
    by_parts = {seen.parts: seen for seen in folders}
    masks, pictures, beside = [], [], False
    for seen in folders:
        names = sorted(seen.pictures)[:50]
        stems = [os.path.splitext(name)[0] for name in names]
        for other in islice(_partners(seen.parts, by_parts), 1, None) if names else ():
            if other is seen or not other.pictures or _mostly(_paired(stems, other)) is False:
                continue
            masks.append(seen.path)
            pictures.append(other.path)
            break
        stems = sorted(stem for stem in seen.stems() if plain_stem(stem) != stem)[:50]
        if len(stems) >= 2 and _mostly(_paired(map(plain_stem, stems), seen)):
            beside = True
            pictures.append(seen.path)
    if not pictures:
        return None
    return Layout("masks", "segment", root, tuple(dict.fromkeys(pictures)), (), tuple(masks), beside)


def _paired(stems: Iterable[str], other: _Seen) -> list[bool]:
    """For each mask: does a picture of its name stand in `other`?"""
    there = set(map(picture_stem, other.stems()))
    return [stem in there or (short := plain_stem(stem)) in there or other.has(short) for stem in stems]


def picture_stem(stem: str) -> str:
    """The stem of a picture, without what Cityscapes puts behind it."""
    return stem.removesuffix("_leftImg8bit")


def plain_stem(stem: str) -> str:
    """The stem of the picture that a mask of this stem belongs to: without _mask, _seg and the like."""
    return _SUFFIX.sub("", stem) or stem


def _mostly(found: list[bool]) -> bool:
    return bool(found) and sum(found) >= 0.8 * len(found)


def _ends(path: Path) -> str:
    """Return the beginning of a text file and, where it is long, its end."""
    try:
        with open(path, "rb") as file:
            data = file.read(_BYTES)
            if (size := os.fstat(file.fileno()).st_size) > _BYTES:
                file.seek(max(_BYTES, size - _BYTES))
                data += b"\n" + file.read(_BYTES)
    except OSError:
        return ""
    return data.decode("utf-8", "replace")
