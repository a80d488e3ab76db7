"""Which column of a table is the picture, the label, the caption, the split: guessed, and said in the notes."""

from __future__ import annotations

import ast
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from neocog.data.columns import LabelColumn, listed
from neocog.data.source import ONE_LABEL
from neocog.errors import DataError, UsageError, closest

_NAMES: dict[str, tuple[str, ...]] = {
    "path": (
        "path", "filepath", "file_path", "image_path", "img_path", "imagepath", "picture_path", "photo_path", "file",
        "filename", "file_name", "fname", "image_file", "image_filename", "imagefile", "image_name", "img_name",
        "image", "img", "picture", "photo", "image_id", "uri", "key", "jpg", "png",
    ),
    "label": (
        "label", "class", "category", "target", "class_name", "label_name", "classname", "class_label", "fine_label",
        "y", "species", "breed",
    ),
    "labels": ("labels", "tags", "classes", "categories", "targets", "keywords", "attributes"),
    "caption": (
        "caption", "captions", "text", "texts", "sentence", "sentences", "description", "title", "alt", "raw",
    ),
    "split": ("split", "set", "subset", "partition", "phase", "usage", "fold", "dataset"),
}  # fmt: skip
_TARGETS = ("boxes", "mask", "points", "numbers", "group")  # roles that are never told by a name alone
_NAME_COLUMNS = ("name", "class_name", "label_name", "classname", "label_text", "category_name", "species")
ROLES = (*_NAMES, *_TARGETS)
# columns of boxes, and what they say; the first that are all there
CORNERS = (
    ("corners", ("xmin", "ymin", "xmax", "ymax")), ("corners", ("x1", "y1", "x2", "y2")),
    ("corners", ("x0", "y0", "x1", "y1")), ("corners", ("left", "top", "right", "bottom")),
    ("size", ("left", "top", "width", "height")), ("centre", ("xcenter", "ycenter", "width", "height")),
    ("size", ("bboxx", "bboxy", "bboxwidth", "bboxheight")), ("size", ("x", "y", "width", "height")),
    ("size", ("x", "y", "w", "h")),
)  # fmt: skip
_BOXES = frozenset("bbox bboxes boxes box objects annotations regions polygon polygons".split())
_POINTS = frozenset("points keypoints landmarks".split())
_NO_QUANTITY = frozenset("id index idx width height size bytes filesize row number no nr".split())
_MASKS = frozenset("mask masks maskpath segmentation segmentationmask encodedpixels rle maskrle".split())
_NUMBER = re.compile(r"-?(0|[1-9]\d*)([.,]\d+)?([eE][+-]?\d+)?")
_MOST_NUMBERS = 0.75  # share of the cells of a quantity that are numbers; the others are remarks and typing errors
_NOTHING = frozenset("nan inf +inf -inf infinity none null na n/a ? - unknown".split())  # cells that say no number
_BINARY = frozenset("0 1 -1 0.0 1.0 true false".split())
_FEW_NUMBERS = 20  # different whole numbers, up to which a column holds classes whatever its name


class NoPaths(DataError):
    """A table has no column that could name files."""


@dataclass(frozen=True)
class Guess:
    """The columns of a table by role. `label_name` names the classes of an integer label column."""

    path: str
    label: str | None
    several: bool
    captions: tuple[str, ...]
    split: str | None
    label_name: str | None
    notes: tuple[str, ...]
    flags: tuple[str, ...] = ()  # columns of 0 and 1, one for each class
    boxes: tuple[str, ...] = ()
    masks: tuple[str, ...] = ()
    points: tuple[str, ...] = ()  # one column of lists, or pairs of columns for x and y
    numbers: tuple[str, ...] = ()
    periods: tuple[float | None, ...] = ()
    declared: bool = False  # the user named the column of the label
    group: str | None = None  # rows with one value stay in one split, such as those of one speaker

    @property
    def wanted(self) -> list[str]:
        """The columns that are read, without the path."""
        plain = (self.label, self.split, self.label_name, *self.captions, *self.flags, *self.targets)
        return list(dict.fromkeys(filter(None, plain)))

    @property
    def targets(self) -> tuple[str, ...]:
        """The columns that say more than a label, without masks that are pictures."""
        label = self.label if self.boxes else None
        more = (*self.boxes, label, *self.points, *self.numbers, *self.flags, self.group)
        return tuple(dict.fromkeys(filter(None, more)))

    def labels(self, row: Mapping[str, object]) -> object:
        """Return the label of a row, or a list of labels where there can be several."""
        if self.flags:
            return [one for one in self.flags if str(row.get(one)).strip().lower() in ("1", "1.0", "true")]
        return self.split_labels(row.get(self.label)) if self.label else None

    def split_labels(self, value: object) -> object:
        """Return the cell of a label column as a label, or as a list of labels where there can be several."""
        if not self.several or not isinstance(value, str):
            return value
        text = value.strip()
        if text[:1] == "[" and text[-1:] == "]":
            try:
                return list(ast.literal_eval(text))
            except (ValueError, SyntaxError):
                text = text[1:-1]
        mark = next((one for one in ";|" if one in text), "," if _is("labels", self.label or "") else "|")
        return [one for part in text.split(mark) if (one := part.strip())]

    def caption_list(self, cells: Sequence[object]) -> list[str]:
        """Return the captions in one row's caption cells: texts, or lists of texts."""
        out: list[str] = []
        for cell in cells:
            if isinstance(cell, (list, tuple)):
                out += [str(one.get("raw", one) if isinstance(one, dict) else one) for one in cell if one]
            elif cell is not None and str(cell).strip():
                out.append(str(cell).strip())
        return out


def guess_columns(
    cells: Mapping[str, Sequence[object]],
    given: Mapping[str, str] | None = None,
    *,
    where: str,
    pictures: Sequence[str] = (),
    looks_like_path: Collection[str] = (),
) -> Guess:
    """Find the role of each column.

    Args:
        cells: all columns by name, with the cells of some rows that are not empty.
        given: roles that the user declared, such as ``{"path": "photo", "label": "kind"}``; they win.
        where: the table's name for messages.
        pictures: columns with embedded pictures, if the table has any; then one of them is the path column.
        looks_like_path: columns whose cells lead to files, or end like pictures, or are pictures.

    Raises:
        DataError: no column, or several as likely as each other, for a role; the message names them.
        UsageError: a declared role or column does not exist.
    """
    names = list(cells)
    lists = [name for name, of in cells.items() if any(isinstance(one, list) for one in of)]
    integers = [name for name, of in cells.items() if of and all(map(_integer, of))]
    given = dict(given or {})
    for role, name in given.items():
        if role not in ROLES:
            raise UsageError(f"unknown column role {role!r}{closest(role, ROLES)}; the roles are {', '.join(ROLES)}")
        for one in _listed(name) if role == "numbers" and name not in names else (name,):
            if one not in names:
                raise UsageError(f"{where} has no column {one!r}{closest(one, names)}; it has {', '.join(names)}")
    if "label" in given and "labels" in given:
        raise UsageError("give either the column of one label or the column of several labels, not both")
    asked = given.pop("numbers", None)
    numbers: tuple[str, ...] = () if asked is None else (asked,) if asked in names else tuple(_listed(asked))
    taken = {*given.values(), *numbers}

    path = given.get("path") or _path(names, pictures, looks_like_path, taken, where)
    taken.add(path)
    boxes = tuple(n for n in names if bare(n) in _BOXES and n not in taken)
    short = {bare(n): n for n in names if n not in taken}
    four = next((set(names) for _, names in CORNERS if set(names) <= short.keys()), None)
    boxes = boxes if four is None else tuple(short[b] for b in short if b in four)
    masks = tuple(n for n in names if (bare(n) in _MASKS or n in looks_like_path) and n not in taken)
    boxes, masks = ((given[role],) if role in given else of for role, of in (("boxes", boxes), ("mask", masks)))
    points = (given["points"],) if "points" in given else _points([n for n in names if n not in {*taken, *boxes}])
    split = given.get("split") or _only("split", [n for n in names if _is("split", n) and n not in taken], where)
    taken.update([split] if split else [])

    label, label_name, several = given.get("label") or given.get("labels"), None, "labels" in given
    if label is None:
        label, several = _label(names, integers, lists, taken | {*boxes, *masks, *points}, where)
        taken.update([label] if label else [])
    if label in integers and not several and not given:
        found = [n for n in names if n.lower() in _NAME_COLUMNS and n not in taken and n not in integers]
        label_name = found[0] if len(found) == 1 else None
        taken.update(found if label_name else [])
    if "caption" in given:
        captions: tuple[str, ...] = (given["caption"],)
    else:
        # caption_0, caption_1, ... are one role
        captions = tuple(n for n in names if _is("caption", n.rstrip("0123456789").rstrip("_-")) and n not in taken)
        if len({n.rstrip("0123456789").rstrip("_-") for n in captions}) > 1:
            captions = (_only("caption", list(captions), where) or "",)
    taken.update(captions)
    rest = [n for n in names if n not in {*taken, *boxes, *masks, *points}]
    flags: tuple[str, ...] = ()
    if label is None and not captions and not boxes and not masks and not points and not numbers:
        flags = tuple(n for n in rest if _is_binary(cells[n]))
        flags = flags if len(flags) > 1 else ()
        rest = [n for n in rest if n not in flags]
        telling = [n for n in rest if n != names[0] or not _counts_rows(cells[n])]
        if len(telling) == 1 and not flags and not pictures and len(names) <= 3:
            label = telling[0]  # a table of files and one thing more: that thing is the label
            rest.remove(label)
        elif not flags and not label:
            numbers = tuple(n for n in telling if bare(n) not in _NO_QUANTITY and _quantity(n, LabelColumn(cells[n])))
            rest = [n for n in rest if n not in numbers]

    role = "labels" if several else "label"
    kind = "picture" if pictures else "path"
    roles = {kind: path, role: label, "name of the label": label_name, "split": split}
    guessed = [f"{name!r} as {role}" for role, name in roles.items() if name and name not in given.values()]
    guessed += [f"{name!r} as caption" for name in captions if name not in given.values()]
    for name, those in (("boxes", boxes), ("mask", masks), ("points", points), ("numbers", numbers)):
        if those and name not in given and not (name == "numbers" and asked):
            guessed.append(f"{listed(those)} as {name}")
    guessed += [f"the columns of 0 and 1 as labels ({listed(flags)})"] if flags else []
    if label and not several:
        several = label in lists or any(isinstance(one, str) and (";" in one or "|" in one) for one in cells[label])
    notes = [f"columns guessed: {', '.join(guessed)}" + (f"; not used: {listed(rest)}" if rest else "")]
    return Guess(
        path, label, several, captions, split, label_name, tuple(notes if guessed else ()),
        flags, boxes, masks, points, numbers, _periods(asked, numbers),
        declared=bool({"label", "labels"} & given.keys()), group=given.get("group"),
    )  # fmt: skip


def why_unfit(name: str, guess: Guess, labels: LabelColumn, repeated: int) -> str:
    """Say why a table cannot be trained with one label for each picture, or return "".

    Args:
        name: the table's name for messages.
        labels: what its label column holds.
        repeated: rows that name a picture again, as tables with a row for each box do.
    """
    choose = "Choose a column with one label for each picture: --column label=NAME."
    alone = guess.label is None and not guess.flags
    for what, columns, meant, made_for in (
        ("boxes", guess.boxes, alone or (repeated and not guess.declared), ": data for object detection"),
        ("masks", guess.masks, alone and not guess.captions, ": data for segmentation"),
        ("points", guess.points, alone, ": data for keypoints"),
        ("numbers", guess.numbers, alone, ""),
    ):
        if columns and meant:
            return f"{name} holds {what} ({listed(columns)}){made_for}. {ONE_LABEL} {choose}"
    if not guess.label or guess.several or not (found := _quantity(guess.label, labels, guess.declared)):
        return ""
    whole = "" if "decimal" in found else f" If each number is a class, type --column label={guess.label}."
    return (
        f"{name}: column {guess.label!r} holds {found}, which looks like a quantity, not like classes. {ONE_LABEL} "
        f"Group the numbers into classes in a new column, and choose it: --column label=NAME.{whole}"
    )


def label_is_number(guess: Guess, labels: LabelColumn, notes: list[str]) -> bool:
    """Whether the column that was taken as label holds amounts; sets right what `notes` say of it."""
    if not guess.label or guess.several or not _quantity(guess.label, labels):
        return False
    notes[:] = [note.replace(f"{guess.label!r} as label", f"{guess.label!r} as numbers") for note in notes]
    if odd := [repr(one) for one in map(str, labels.counted()) if not _NUMBER.fullmatch(one)]:
        more = ", ..." if len(odd) > 3 else ""
        notes.append(f"cells of {guess.label!r} that are no number are not used: {', '.join(odd[:3])}{more}")
    return True


def _quantity(name: str, labels: LabelColumn, declared: bool = False) -> str:
    """Describe the numbers of a column if they are a quantity (ages, prices) and not the numbers of classes."""
    times = {str(one): n for one, n in labels.counted().items() if str(one).lower() not in _NOTHING}
    texts, count = list(filter(_NUMBER.fullmatch, times)), sum(times.values())
    if not texts or sum(times[one] for one in texts) < (1.0 if declared else _MOST_NUMBERS) * count:
        return ""
    values = np.array([float(one.replace(",", ".")) for one in texts])
    fractions = bool((values != np.floor(values)).any())
    if len(values) <= (_FEW_NUMBERS // 2 if fractions else _FEW_NUMBERS) or (declared and not fractions):
        return ""
    # whole numbers of a column with a class's name are classes; those of a "target" if they count on or come again
    counted_on = values.min() in (0, 1) and values.max() - values.min() + 1 == len(values)
    open_name = bare(name) in ("target", "y")
    class_like = _is("label", name) or bare(name).endswith(("class", "label", "category", "id", "idx", "index", "code"))
    if not fractions and class_like and (not open_name or counted_on or 5 * len(values) <= count):
        return ""
    kind = "decimal" if fractions else "whole"
    return f"{len(values):,} different {kind} numbers from {values.min():g} to {values.max():g}"


def bare(name: str) -> str:
    """A column's name in small letters, without spaces, dashes and dots."""
    return re.sub(r"[\s_\-.]", "", name).lower()


def named_classes(
    numbers: Sequence[str], names: Mapping[object, Collection[str]], column: str, notes: list[str]
) -> tuple[str, ...]:
    """Return class names for numbered classes from the names that a second column gives to each number.

    Where that gives a number several names, the numbers stay, and a note is added. Two classes of one name (ImageNet
    has two cranes) keep their numbers behind it.
    """
    if any(len(names.get(one, ())) != 1 for one in numbers):
        notes.append(f"column {column!r} does not give each label one name: the classes are called by their numbers")
        return tuple(numbers)
    named = [next(iter(names[one])) for one in numbers]
    return tuple(
        f"{name} ({number})" if named.count(name) > 1 else name for name, number in zip(named, numbers, strict=True)
    )


def _points(names: Sequence[str]) -> tuple[str, ...]:
    """A column of lists of points, or pairs of columns such as left_eye_x and left_eye_y, x before y."""
    if single := [n for n in names if bare(n) in _POINTS]:
        return (single[0],)
    there = set(names)
    pairs = [(n, n[:-1] + ("y" if n[-1] == "x" else "Y")) for n in names if re.fullmatch(r".+[_\-. ]?[xX]", n)]
    pairs = [(x, y) for x, y in pairs if y in there]
    return tuple(one for pair in pairs for one in pair) if len(pairs) > 1 else ()


def _listed(text: str) -> list[str]:
    """Names in a list such as "age, height" or "angle:360", without what stands behind the colon."""
    return [re.sub(r":[\d.]+$", "", one.strip()) for one in text.split(",") if one.strip()]


def _periods(asked: str | None, numbers: Sequence[str]) -> tuple[float | None, ...]:
    found = re.findall(r"([^,]+?):([\d.]+)\s*(?:,|$)", asked or "") if asked not in numbers else []
    period = {name.strip(): float(length) for name, length in found}
    return tuple(period.get(name) for name in numbers)


TEXT_NAMES = (
    "text", "sentence", "sentences", "review", "comment", "message", "tweet", "post", "body", "content", "document",
    "question", "query", "utterance", "description", "title", "headline", "abstract", "summary", "caption",
)  # fmt: skip


def names_text(cells: Mapping[str, Sequence[object]], taken: Collection[str], where: str) -> str:
    """The column of a table that holds the texts to read: by its name, else the one with the longest texts.

    Raises: DataError: none holds texts.
    """
    found = [n for n, those in cells.items() if n not in taken and is_text(those)]
    for name in TEXT_NAMES:
        for column in cells:
            if bare(column) == name and column not in taken:
                return column
    if not found:
        raise DataError(f"{where}: no column with texts among {', '.join(cells)}; name it: --column text=NAME")
    return max(found, key=lambda n: sum(len(str(one)) for one in cells[n]))


def is_text(cells: Sequence[object]) -> bool:
    """Tell whether cells are sentences: different ones, of more than two words in the middle; or lists of them."""
    texts = [" ".join(map(str, one)) if isinstance(one, list) else str(one) for one in cells]
    return bool(texts) and 2 * len(set(texts)) > len(texts) and float(np.median([t.count(" ") for t in texts])) > 1


def _is_binary(cells: Sequence[object]) -> bool:
    """Tell whether cells are 0 and 1 (or -1 and 1, or true and false), and nothing else."""
    return bool(cells) and {str(one).strip().lower() for one in cells} <= _BINARY


def _counts_rows(cells: Sequence[object]) -> bool:
    """Tell whether cells are the numbers of the rows, as data frames write them into a first column without a name."""
    whole = len(cells) > _FEW_NUMBERS and all(map(_integer, cells))
    return whole and bool((np.diff([int(str(one)) for one in cells]) == 1).all())


def _integer(cell: object) -> bool:
    if isinstance(cell, str):
        return cell.strip().lstrip("-").isdigit()
    return isinstance(cell, int) and not isinstance(cell, bool)


def may_name_files(name: str) -> bool:
    """Whether a column so called may hold file names without their ending (``id`` in many contest tables)."""
    return _is("path", name) or name.strip().lower() in ("id", "name")


def _is(role: str, name: str) -> bool:
    return name.strip().lower().replace(" ", "_").replace("-", "_") in _NAMES[role]


def _path(names: Sequence[str], pictures: Sequence[str], likely: Collection[str], taken: set[str], where: str) -> str:
    named = [n for n in names if _is("path", n) and n not in taken]
    if pictures:
        named = [n for n in pictures if n not in taken and (_is("path", n) or n.lower() in ("bytes", "data"))]
        candidates = named or [n for n in pictures if n not in taken]
    else:
        # a cell that leads to a file says more than a column's name
        candidates = [n for n in named if n in likely] or [n for n in likely if n not in taken] or named
    if not candidates:
        raise NoPaths(
            f"{where}: no column with the pictures' paths or with sentences among {', '.join(names)}; "
            "name it: columns={'path': '...'} or {'text': '...'} (on the command line: --column path=... or text=...)"
        )
    return _only("path", candidates, where) or ""


def _label(
    names: Sequence[str], integers: Collection[str], lists: Collection[str], taken: set[str], where: str
) -> tuple[str | None, bool]:
    one = [n for n in names if _is("label", n) and n not in taken]
    many = [n for n in names if _is("labels", n) and n not in taken]
    if len(one) > 1 and len(numbers := [n for n in one if n in integers]) == 1:
        others = [n for n in one if n not in numbers]
        if all(n.lower() in _NAME_COLUMNS for n in others):
            one = numbers  # `label` and `class_name`: numbers and their names
    if many and not one:
        return _only("labels", many, where), True
    return _only("label", one + many, where), bool(one) and one[0] in lists


def _only(role: str, candidates: Sequence[str], where: str) -> str | None:
    if len(candidates) > 1:
        raise DataError(
            f"{where}: columns {' and '.join(map(repr, candidates))} could each be the {role}; "
            f"name one: columns={{{role!r}: {candidates[0]!r}}} (on the command line: --column {role}={candidates[0]})"
        )
    return candidates[0] if candidates else None
