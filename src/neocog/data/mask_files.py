"""Masks as picture files: palette, grey or coloured; what their values mean is found from some of them, and said.

They lie in folders of their own beside the pictures, or beside each picture as X_mask.png, or in a table.
"""

from __future__ import annotations

import io
import os
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from neocog.data.annotated import Found, Pictures
from neocog.data.columns import is_picture
from neocog.data.kinds import NOT_LABELLED, Masks, digest
from neocog.data.layouts import Layout
from neocog.data.text import first_lines
from neocog.errors import DataError
from neocog.records import Problem, counted

VOC_CLASSES = (
    "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable", "dog",
    "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)  # fmt: skip
_LOOKED_AT = 60  # masks read to find which values there are
_MOST_COLOURS = 64
_WHITE = 200
_VOID = (224, 224, 192)  # the border of VOC's coloured masks
_UNLABELLED = ("void", "unlabelled", "unlabeled", "ignore")
_NAME_FILES = (
    "label_colors.txt", "labelmap.txt", "class_dict.csv", "_classes.csv", "classes.txt", "labels.txt", "codes.txt",
    "class_names.txt", "names.txt", "obj.names",
)  # fmt: skip
GROUND = "background"
Coded = tuple[str, tuple[int, ...]]  # the name of a class, and its colour or its one value


Colour = tuple[int, int, int]


@dataclass(frozen=True)
class Values:
    """What the values of masks mean: of each class its name, its code (a grey value or index), its colour (RGB).

    Without codes the colours tell the classes apart; with codes they may be None.
    """

    names: tuple[str, ...]
    codes: tuple[int, ...] | None
    colours: tuple[Colour, ...] | None
    note: str = ""
    halved: bool = False  # lossy masks of two classes: split at 128
    void: tuple[Colour, ...] = (_VOID,)  # colours that mean: not labelled

    def odd(self, pixels: np.ndarray) -> list[str]:
        """The values or colours of a mask that are no class and do not mean "not labelled"."""
        if self.halved:
            return []
        if self.codes is None:
            known = set(_packed(np.array((*(self.colours or ()), *self.void), dtype=np.uint8)).tolist())
            return [f"#{code:06x}" for code in np.unique(_coded(pixels)).tolist() if code not in known]
        return [str(code) for code in np.unique(_grey_of(pixels)).tolist() if code not in (*self.codes, NOT_LABELLED)]

    def index(self, pixels: np.ndarray) -> np.ndarray:
        """Pixels as stored, uint8 (H, W) or (H, W, 3), as indices into `names`; others are not labelled."""
        if self.codes is None:
            coded = _coded(pixels)
            made = np.full(coded.shape, NOT_LABELLED, dtype=np.uint8)
            for k, code in enumerate(_packed(np.array(self.colours, dtype=np.uint8))):
                made[coded == code] = k
            return made
        if self.halved:
            return (_grey_of(pixels) >= 128).astype(np.uint8)
        table = np.full(256, NOT_LABELLED, dtype=np.uint8)
        table[list(self.codes)] = np.arange(len(self.codes))
        return np.asarray(table[_grey_of(pixels)])

    def column(self, read: Callable[[int], bytes | Path], count: int, present: np.ndarray, *marks: Any) -> Masks:
        """The masks of `count` samples: `read` gives the file of one; `marks` stand for all in the fingerprint."""
        return Masks(
            lambda i: self.index(stored(read(i))[0]), count, self.names, self.colours, present,
            digest(*marks, *self.names), lambda i: self.odd(stored(read(i))[0]),
        )  # fmt: skip


def stored(data: bytes | Path) -> tuple[np.ndarray, list[int] | None]:
    """The pixels of a mask as they are stored, uint8 (H, W) or (H, W, 3), and its palette (256 x RGB) if it has one.

    Raises: DataError: it cannot be read, or holds values above 255.
    """
    from PIL import Image

    try:
        with Image.open(io.BytesIO(data) if isinstance(data, bytes) else data) as picture:
            palette = picture.getpalette() if picture.mode == "P" else None
            if picture.mode in ("P", "L"):
                pixels = np.asarray(picture)
            elif picture.mode == "1":
                pixels = np.asarray(picture).astype(np.uint8)
            elif picture.mode.startswith("I") or picture.mode == "F":
                wide = np.asarray(picture)
                if wide.min() < 0 or wide.max() > 255:
                    raise DataError(f"the mask has values from {wide.min():g} to {wide.max():g}; expected 0 to 255")
                pixels = wide.astype(np.uint8)
            elif picture.mode == "LA":
                pixels = np.asarray(picture)[:, :, 0]
            else:
                pixels = np.asarray(picture.convert("RGB"))
    except DataError:
        raise
    except Exception as error:  # Pillow raises many kinds for damaged files
        raise DataError(f"the mask cannot be read: {error}") from error
    if pixels.ndim == 3 and (pixels[:, :, :1] == pixels).all():
        pixels = pixels[:, :, 0]
    return np.ascontiguousarray(pixels), palette


def _packed(pixels: np.ndarray) -> np.ndarray:
    wide = pixels.astype(np.int32)
    return np.asarray((wide[..., 0] << 16) | (wide[..., 1] << 8) | wide[..., 2])


def _coded(pixels: np.ndarray) -> np.ndarray:
    """Each pixel, grey or coloured, as the number of its colour."""
    return _packed(pixels) if pixels.ndim == 3 else pixels.astype(np.int32) * 0x010101


def _grey_of(pixels: np.ndarray) -> np.ndarray:
    return pixels if pixels.ndim == 2 else pixels[:, :, 0]


def meaning(
    read: Callable[[int], bytes | Path],
    rows: Sequence[int],
    *,
    names: Sequence[str] | None = None,
    named: Sequence[Coded] = (),
    lossy: bool = False,
) -> Values:
    """Find what the values of masks mean.

    Args:
        read: gives the file of a row.
        rows: which rows have a mask.
        names: class names by index, if they are known.
        named: names with their colour, or their one value, from a file of names.
        lossy: whether the masks are JPEG files.

    Raises: DataError: none of those looked at can be read, or they hold too many values to be masks.
    """
    greys, colours, palette, looked, last = set[int](), set[int](), None, 0, ""
    for row in np.asarray(rows)[np.linspace(0, len(rows) - 1, min(_LOOKED_AT, len(rows))).astype(int)]:
        try:
            pixels, own = stored(read(int(row)))
        except DataError as error:
            last = str(error)
            continue
        looked, palette = looked + 1, palette or own
        if pixels.ndim == 2:
            greys.update(np.flatnonzero(np.bincount(pixels.ravel())).tolist())
        else:
            colours.update(np.unique(_packed(pixels)).tolist())
    if not looked:
        raise DataError(f"no mask can be read: {last}")
    where = f"found in {looked:,} of {len(rows):,} masks" if looked < len(rows) else "found in the masks"
    if colours or any(len(code) == 3 for _, code in named):
        every = colours | {grey * 0x010101 for grey in greys}
        return _by_colour({(code >> 16, code >> 8 & 255, code & 255) for code in every}, named, where)
    if named and all(len(code) == 1 for _, code in named):
        codes = tuple(code[0] for _, code in named)
        return Values(tuple(name for name, _ in named), codes, _palette(palette, codes))
    if greys <= {0, 255} and palette is None and (names is None or len(names) <= 2):  # black and white
        first, second = names if names is not None and len(names) == 2 else (GROUND, (*(names or ()), GROUND)[0])
        second = "foreground" if first == second == GROUND else second
        return Values((first, second), (0, 255), None, f"black is {first!r}, white is {second!r}")
    if names is not None:
        return Values(tuple(names), tuple(range(len(names))), _palette(palette, range(len(names))))
    if lossy and len(greys) > 2:
        text = "lossy masks: values from 128 on are class 'foreground'; PNG keeps values exactly"
        return Values((GROUND, "foreground"), (0, 1), None, text, halved=True)
    return _by_value(sorted(greys), palette, where)


def _by_value(there: list[int], palette: list[int] | None, where: str) -> Values:
    inner = [v for v in there if v != NOT_LABELLED]
    # indices lie close together; the values of a photograph do, too, but go on to white
    close = bool(inner) and (max(inner) < _MOST_COLOURS or (max(inner) < _WHITE and 2 * len(inner) > max(inner)))
    if palette is not None or close:
        codes = tuple(range(max(inner, default=0) + 1)) if 0 in inner else tuple(inner)
        names = tuple(GROUND if code == 0 else f"class {code}" for code in codes)
        void = "; 255 is not labelled" if NOT_LABELLED in there else ""
        note = f"no class names: {len(names)} classes by the values {where}{void}"
        return Values(names, codes, _palette(palette, codes), note)
    if len(there) > _MOST_COLOURS:
        raise DataError(
            f"the masks hold {len(there)} different grey values, so they are not masks; expected a class index for "
            "each pixel"
        )
    names = tuple(GROUND if v == 0 else f"grey {v}" for v in there)
    return Values(names, tuple(there), None, f"no class names: a class for each grey value {where}")


def _by_colour(rgb: set[Colour], named: Sequence[Coded], where: str) -> Values:
    given = [(name, (code[0], code[1], code[2])) for name, code in named if len(code) == 3]
    if given:
        void = tuple(colour for name, colour in given if name.lower() in _UNLABELLED)
        given = [one for one in given if one[0].lower() not in _UNLABELLED]
        return Values(tuple(name for name, _ in given), None, tuple(one for _, one in given), void=(_VOID, *void))
    voc = voc_colours()[:21]
    if rgb <= {*voc, _VOID} and len(rgb) > 2:
        return Values((GROUND, *VOC_CLASSES), None, tuple(voc), "colours of Pascal VOC's classes")
    if len(rgb) > _MOST_COLOURS:
        raise DataError(
            f"the masks hold {len(rgb):,} different colours, so they are not masks (or were saved as JPEG); expected a "
            "colour for each class"
        )
    order = sorted(rgb, key=lambda colour: (colour != (0, 0, 0), colour))
    names = tuple(GROUND if colour == (0, 0, 0) else "#{:02x}{:02x}{:02x}".format(*colour) for colour in order)
    return Values(names, None, tuple(order), f"no class names: a class for each of {len(order)} colours {where}")


def _palette(palette: list[int] | None, codes: Iterable[int]) -> tuple[Colour, ...] | None:
    if palette is None:
        return None
    triples = [(*palette[3 * k : 3 * k + 3], 0, 0, 0) for k in codes]  # it may be short
    return tuple((t[0], t[1], t[2]) for t in triples)


def voc_colours() -> list[tuple[int, int, int]]:
    """The 256 colours of Pascal VOC's palette: the bits of the index, spread over red, green and blue."""
    return [
        (of[0], of[1], of[2])
        for index in range(256)
        if (of := [sum((index >> (3 * bit + c) & 1) << (7 - bit) for bit in range(8)) for c in range(3)])
    ]


def names_beside(root: Path, folders: Iterable[Path] = ()) -> tuple[list[str] | None, list[Coded]]:
    """Class names from a file such as label_colors.txt or classes.txt: (by index, with colours or values)."""
    plain: list[str] = []
    coded: list[Coded] = []
    for text in first_lines((root, *folders), _NAME_FILES)[1]:
        if text.startswith("#") or re.match(r"(name|pixel value|label|class)\b.*,", text, re.I):
            continue
        if match := re.match(r"(.+?)[:,\t ]+(\d+)[, \t]+(\d+)[, \t]+(\d+)\b", text):
            coded.append((match[1].strip(), (int(match[2]), int(match[3]), int(match[4]))))
        elif match := re.match(r"(\d+)[, \t]+(\d+)[, \t]+(\d+)[, \t]+(.+)", text):
            coded.append((match[4].strip(), (int(match[1]), int(match[2]), int(match[3]))))
        elif match := re.match(r"(\d+)\s*[:,\t ]\s*(.+)", text):
            coded.append((match[2].strip(), (int(match[1]),)))
        else:
            plain.append(text)
    return None if coded else plain or None, coded


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

    present = np.zeros(len(pictures), dtype=bool)
    present[list(files)] = True
    marks = []
    for row in sorted(files):
        marks += [os.fsencode(files[row]), str(files[row].stat().st_size)]
    found.columns["mask"] = values.column(files.__getitem__, len(pictures), present, *marks)
    if values.note:
        found.notes.append(values.note)
    if missing := int((~present).sum()):
        found.notes.append(f"{counted(missing)} without a mask: unknown, so they are not used")
    return found
