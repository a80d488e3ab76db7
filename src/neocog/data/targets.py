"""What the cells of a table say beside a label: boxes, masks, points, numbers, tags with gaps; as columns."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from neocog.data.annotated import swapped, tags_of
from neocog.data.columns import LabelColumn, LabelSets, ends_of
from neocog.data.guess import CORNERS, Guess, bare, label_is_number, named_classes, why_unfit
from neocog.data.kinds import Boxes, BoxSet, Categories, Category, Column, Masks, Numbers, Points
from neocog.data.mask_files import meaning
from neocog.errors import DataError
from neocog.records import counted

Row = Mapping[str, Any]
_LABELS = ("label", "category", "class", "name", "class_name", "category_id", "class_id", "category_name")
_ANGLE = re.compile(r"angle|degree|tilt|heading|azimuth|bearing|rotation|orientation|yaw|direction|hue", re.IGNORECASE)
_ONE = "object"  # the class of boxes that have none

# the mirror partners of 68 points on a face (Gross et al. 2010, Multi-PIE): outline, brows, nose, eyes, mouth
_FACE = (
    *range(16, -1, -1), *range(26, 16, -1), 27, 28, 29, 30, 35, 34, 33, 32, 31, 45, 44, 43, 42, 47, 46, 39, 38, 37, 36,
    41, 40, 54, 53, 52, 51, 50, 49, 48, 59, 58, 57, 56, 55, 64, 63, 62, 61, 60, 67, 66, 65,
)  # fmt: skip


def described(
    name: str,
    guess: Guess,
    labels: LabelColumn,
    rows: Sequence[Sequence[Row]],
    notes: list[str],
    *,
    numbers: Callable[[], Iterable[float]],
    known: np.ndarray,
    names: Mapping[object, Collection[str]],
    several: bool,
    repeated: int = 0,
    classes: Sequence[str] | None = None,
    box_classes: Sequence[str] | None = None,
    size: Callable[[int], tuple[int, int]],
    mask: Callable[[int], bytes | Path] | None = None,
    point_names: Sequence[str] | None = None,
) -> dict[str, Any]:
    """What a table says of its pictures, as arguments of a `Source`: classes, labels, columns; adds notes.

    Args:
        labels: what the column of labels holds; `numbers` gives its cells as numbers, `known` says which are not empty,
            `names` what a second column calls each, and `several` whether there can be more than one.
        rows: of each picture, the rows of the table that name it, with the columns of `guess.targets`.
        repeated: rows that name a picture again.
        classes, box_classes: names of classes, where the table or the user says them.
        size: width and height of a picture, for boxes in shares of it.
        mask: the mask file of a picture.
    """
    unfit = "" if classes else why_unfit(name, guess, labels, repeated)
    more: dict[str, Column | None] = {}
    if unfit:
        if label_is_number(guess, labels, notes):
            more["numbers"] = Numbers(np.array(list(numbers())), (guess.label or "",))
        labels, several = LabelColumn([None] * len(labels)), False
    found, codes, sets = labels.finish(classes, several=several)
    if guess.label_name and classes is None:
        found = named_classes(found, names, guess.label_name, notes)
    firsts = [of[0] for of in rows]
    if any(map(any, rows)):
        if guess.boxes and (boxes := _boxes(guess, rows, box_classes, size, notes)) is not None:
            more["boxes"], more["tags"] = boxes, tags_of(boxes)
        if guess.points:
            more["points"] = _points(guess, firsts, point_names, notes)
        if guess.numbers:
            values = np.array([[number(row.get(one)) for one in guess.numbers] for row in firsts], dtype=np.float64)
            more["numbers"] = column = Numbers(values, guess.numbers, guess.periods)
            notes += _angles(column)
        if guess.group:
            cells = (row.get(guess.group) for row in firsts)
            more["group"] = Category.of(None if cell is None else str(cell) for cell in cells)
        if mask is not None and guess.masks:
            more["mask"] = _masks(guess.masks[0], firsts, box_classes, mask, notes)
    if sets is not None:
        # an empty cell says nothing; an empty list says that there is none
        flags = guess.flags if set(found) == set(guess.flags) else ()
        more["tags"] = flag_sets(flags, firsts, found) if flags else Categories(sets, found, None, known)
    columns = {role: column for role, column in more.items() if column is not None}
    return {"name": name, "classes": found, "labels": codes, "label_sets": sets, "columns": columns, "unfit": unfit}


def flag_sets(flags: Sequence[str], rows: Sequence[Row], classes: Sequence[str]) -> Categories:
    """Tags from columns of 0 and 1, one for each class: an empty cell is not known.

    -1 is "has not" where the columns hold -1 and 1, and "not known" where they hold 0 as well.
    """
    codes = np.array([[_flag(row.get(one)) for one in flags] for row in rows], dtype=np.int8).reshape(-1, len(flags))
    if (codes == 0).any():
        codes[codes == -1] = -2
    place = np.array([list(classes).index(one) for one in flags], dtype=np.int32)
    return Categories(_sets(codes == 1, place), classes, _sets(codes == -2, place), (codes != -2).any(1))


def _flag(cell: object) -> int:
    text = str(cell).strip().lower()
    if text in ("1", "1.0", "true"):
        return 1
    if text in ("0", "0.0", "false"):
        return 0
    return -1 if text in ("-1", "-1.0") else -2


def _sets(there: np.ndarray, place: np.ndarray) -> LabelSets:
    return LabelSets(ends_of(there.sum(1)), place[np.nonzero(there)[1]].astype(np.int32))


# ---------------------------------------------------------------- boxes


def _boxes(
    guess: Guess,
    rows: Sequence[Sequence[Row]],
    classes: Sequence[str] | None,
    size: Callable[[int], tuple[int, int]],
    notes: list[str],
) -> Boxes | None:
    found: list[list[tuple[list[float], str]] | None] = []
    form, bad = "", 0
    for of in rows:
        own: list[tuple[list[float], str]] | None = None
        for row in of:
            try:
                said, made = (_from_corners if len(guess.boxes) > 1 else _from_cell)(guess, row)
            except (TypeError, ValueError, KeyError, IndexError):
                said, made, bad = "", None, bad + 1
            form = form or said
            if made is not None:
                own = [*(own or []), *made]
        found.append(own)
    every = np.array([corners for own in found for corners, _ in own or ()], dtype=np.float64).reshape(-1, 4)
    where = f"{guess.boxes[0]!r}" if len(guess.boxes) == 1 else f"{guess.boxes[0]!r} to {guess.boxes[-1]!r}"
    if bad:
        notes.append(f"{where} hold no readable box in {counted(bad, 'row')}: unknown, so they are not used")
    if not len(every):
        return None
    form = form or ("corners" if (every[:, 2:] > every[:, :2]).mean() > 0.99 else "size")
    shares = bool(every.max() <= 1.0 and (every % 1).any())
    names = _names({name for own in found for _, name in own or ()}, classes)
    place = {name: k for k, name in enumerate(names)} | {str(k): k for k in range(len(names)) if str(k) not in names}
    sets: list[BoxSet | None] = []
    for i, own in enumerate(found):
        if own is None:
            sets.append(None)
            continue
        corners = np.array([corners for corners, _ in own], dtype=np.float64).reshape(-1, 4)
        if form == "size":
            corners[:, 2:] += corners[:, :2]
        elif form == "centre":
            corners = np.concatenate((corners[:, :2] - corners[:, 2:] / 2, corners[:, :2] + corners[:, 2:] / 2), 1)
        if shares:
            width, height = size(i)
            corners *= (width, height, width, height)
        labels = np.array([place[name] for _, name in own], dtype=np.int32)
        sets.append(BoxSet(corners.astype(np.float32), labels, np.zeros(len(own), dtype=bool)))
    ways = {"corners": "x0, y0, x1, y1", "size": "x, y, width, height", "centre": "centre x, centre y, width, height"}
    notes.append(f"boxes taken as {ways[form]}{' in shares of the picture' if shares else ' in pixels'}")
    if empty := sum(own is not None and not own for own in found):
        notes.append(f"{counted(empty)} without a box: taken as empty")
    return Boxes.of(sets, names)


def _from_corners(guess: Guess, row: Row) -> tuple[str, list[tuple[list[float], str]] | None]:
    """The box of a row with a column for each side; none where all cells are empty: the picture is empty.

    Raises: ValueError: a cell is no number, or some are empty.
    """
    by_name = {bare(name): row.get(name) for name in guess.boxes}
    form, order = next((form, order) for form, order in CORNERS if set(order) <= by_name.keys())
    numbers = [_number(by_name[name]) for name in order]
    if all(by_name[name] is None or not str(by_name[name]).strip() for name in order):
        return form, []
    if any(one is None for one in numbers):
        raise ValueError("not a box")
    label = row.get(guess.label) if guess.label else None
    return form, [([float(one) for one in numbers if one is not None], _text(label))]


def _from_cell(guess: Guess, row: Row) -> tuple[str, list[tuple[list[float], str]] | None]:
    """The boxes of one cell: a list of records, of lists of four numbers, four numbers, or a record of lists."""
    cell = row.get(guess.boxes[0])
    if isinstance(cell, str):
        cell = _parsed(cell)
    if cell is None:
        return "", None
    label = _text(row.get(guess.label)) if guess.label else _ONE
    if isinstance(cell, Mapping):  # {"bbox": [[...]], "category": [...]}
        boxes = next((cell[key] for key in ("bbox", "bboxes", "boxes", "box") if key in cell), None)
        labels = next((cell[key] for key in _LABELS if isinstance(cell.get(key), (list, tuple))), None)
        if boxes is None:
            return "", None
        cell = [{"bbox": one, "label": labels[k] if labels else label} for k, one in enumerate(boxes)]
    if len(cell) == 4 and all(_number(one) is not None for one in cell):
        return "", [([float(one) for one in cell], label)]
    made, form = [], ""
    for one in cell:
        if isinstance(one, Mapping):
            name = next((one[key] for key in _LABELS if one.get(key) is not None), label)
            numbers = next((one[key] for key in ("bbox", "box") if one.get(key) is not None), None)
            if numbers is None:
                by_name = {bare(key): value for key, value in one.items()}
                form, order = next(((f, o) for f, o in CORNERS if set(o) <= by_name.keys()), ("", ()))
                numbers = [by_name[key] for key in order]
            else:
                form = "size" if "bbox" in one else form  # as COCO has it
        else:
            name, numbers = label, list(one)[:4]
        values = [_number(value) for value in numbers]
        if len(values) == 4 and None not in values:
            made.append(([float(v) for v in values if v is not None], _text(name)))
    return form, made


def _names(seen: set[str], classes: Sequence[str] | None) -> tuple[str, ...]:
    if classes and all(name in classes or (name.isdigit() and int(name) < len(classes)) for name in seen):
        return tuple(classes)
    numeric = all(name.isdigit() for name in seen)
    return tuple(sorted(seen, key=int) if numeric else sorted(seen))


# ---------------------------------------------------------------- points, numbers, masks


def _points(guess: Guess, rows: Sequence[Row], given: Sequence[str] | None, notes: list[str]) -> Points | None:
    if len(guess.points) > 1:  # left_eye_x, left_eye_y, ...
        names = tuple(dict.fromkeys(re.sub(r"[_\-. ]?[xy]$", "", name, flags=re.IGNORECASE) for name in guess.points))
        values = np.zeros((len(rows), len(names), 3), dtype=np.float32)
        for i, row in enumerate(rows):
            xy = np.array([number(row.get(name)) for name in guess.points]).reshape(-1, 2)
            seen = ~np.isnan(xy).any(1)
            values[i, seen] = np.concatenate((xy[seen], np.full((int(seen.sum()), 1), 2.0)), 1)
        return Points(values, names, swapped(names))
    flat: list[np.ndarray] = []
    for row in rows:
        cell = row.get(guess.points[0])
        cell = _parsed(cell) if isinstance(cell, str) else cell
        flat.append(np.array([] if cell is None else _flat(cell), dtype=np.float32))
    length = max((len(one) for one in flat), default=0)
    if not length or any(len(one) not in (0, length) for one in flat):
        notes.append(f"the points in {guess.points[0]!r} were not used: pictures have different numbers of them")
        return None
    full = np.stack([one for one in flat if len(one)])
    three = length % 3 == 0 and (length % 2 == 1 or bool(np.isin(full[:, 2::3], (0, 1, 2)).all()))
    if not three and length % 2:
        notes.append(f"the points in {guess.points[0]!r} were not used: {length} numbers are not x, y pairs")
        return None
    count = length // (3 if three else 2)
    values = np.zeros((len(rows), count, 3), dtype=np.float32)
    for i, one in enumerate(flat):
        if len(one):
            made = one.reshape(count, -1)
            seen = made[:, 2] if three else np.where(np.isnan(made).any(1), 0.0, 2.0)
            values[i] = np.nan_to_num(np.concatenate((made[:, :2], seen[:, None]), 1))
    names = tuple(given) if given and len(given) == count else tuple(f"point {k + 1}" for k in range(count))
    if count == 68 and swapped(names) is None:
        notes.append("68 points: taken as those of a face, for mirror images")
        return Points(values, names, _FACE)
    return Points(values, names, swapped(names))


def _angles(column: Numbers) -> list[str]:
    """What to type if numbers that look like angles begin anew after 360."""
    names = []
    for name, period, values in zip(column.names, column.periods, column.values.T, strict=True):
        known = values[np.isfinite(values)]
        turn = len(known) and known.min() >= -180 and known.max() <= 360 and 180 < np.ptp(known) <= 360
        names.append(f"{name}:360" if turn and not period and _ANGLE.search(name) else "")
    if not any(names):
        return []
    asked = ",".join(new or name for name, new in zip(column.names, names, strict=True))
    which = " and ".join(repr(name) for name, new in zip(column.names, names, strict=True) if new)
    return [f"{which} may be an angle that begins anew at 360: then type --column numbers={asked}"]


def _masks(
    name: str,
    rows: Sequence[Row],
    classes: Sequence[str] | None,
    read: Callable[[int], bytes | Path],
    notes: list[str],
) -> Masks | None:
    present = np.array([row.get(name) not in (None, "") for row in rows], dtype=bool)
    try:
        values = meaning(read, np.flatnonzero(present).tolist(), names=classes)
    except (DataError, ValueError) as error:
        notes.append(f"the masks in {name!r} were not used: {error}")
        return None
    notes += [values.note] if values.note else []
    return values.column(read, len(rows), present, *(str(row.get(name)) for row in rows))


# ---------------------------------------------------------------- cells


def _number(cell: object) -> float | None:
    if isinstance(cell, bool) or cell is None:
        return None
    try:
        value = float(cell)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return None
    return value if np.isfinite(value) else None


def number(cell: object) -> float:
    """A cell as a number; nan if it is none."""
    if isinstance(cell, str):
        cell = cell.strip().replace(",", ".")
    value = _number(cell)
    return float("nan") if value is None else value


def _text(cell: object) -> str:
    if cell is None or str(cell).strip() == "":
        return _ONE
    return str(int(cell)) if isinstance(cell, float) and cell.is_integer() else str(cell).strip()


def _parsed(text: str) -> Any:
    """A cell of text with numbers: JSON or Python lists, or numbers with spaces, commas or semicolons between."""
    text = text.strip()
    if not text:
        return None
    try:
        return json.loads(text.replace("'", '"'))
    except ValueError:
        numbers = re.findall(r"-?\d+(?:\.\d+)?(?:[eE][-+]?\d+)?", text)
        return [float(one) for one in numbers] or None


def _flat(cell: Iterable[Any]) -> list[float]:
    out: list[float] = []
    for one in cell:
        if isinstance(one, Mapping):
            out += [number(one.get("x")), number(one.get("y"))]
        elif isinstance(one, (list, tuple, np.ndarray)):
            out += _flat(one)
        else:
            out.append(number(one))
    return out
