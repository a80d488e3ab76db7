"""A table that lists pictures: CSV, TSV, JSONL or Parquet with a path and labels, captions, a split."""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import os
import re
from array import array
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from neocog.data.annotated import header_size
from neocog.data.columns import (
    LabelColumn,
    Texts,
    declared,
    is_picture,
    split_code,
    split_code_in,
    split_of,
)  # fmt: skip
from neocog.data.folder import Folder
from neocog.data.guess import TEXT_NAMES, Guess, bare, guess_columns, is_text, may_name_files, names_text
from neocog.data.kinds import TextLists
from neocog.data.reader import commonest
from neocog.data.source import Source
from neocog.data.targets import described, number
from neocog.data.text import TABLES, spellings, table_rows
from neocog.errors import DataError, UsageError, closest
from neocog.records import Problem, counted

_NO_CELLS: list[dict[str, Any]] = []  # one list for all rows of which nothing is kept
_PEEK = 64  # rows looked at before deciding what the columns are
_USUAL = ("manifest", "labels", "label", "metadata", "annotations", "index", "data", "captions", "dataset")


def find_manifests(folder: Path, *, forced: bool = False) -> tuple[list[Path], str]:
    """Return (the tables in a folder that list its pictures, a note about those not used).

    A folder with two or more class folders is a tree and needs no table, unless `forced`. Several tables are used
    together if each is named after a split.

    Raises: DataError: several tables, and none has a usual name.
    """
    tables = _tables(folder)
    inside = _folders(folder)
    if not tables:
        # train/metadata.jsonl, test/metadata.jsonl
        tables = [one for sub in sorted(inside) if split_code(sub.name) >= 0 for one in _tables(sub)]
        if any(_folders(sub) for sub in inside if split_code(sub.name) >= 0):
            tables = []
        return tables, ""
    bearing = [one for one in inside if split_code(one.name) < 0]
    for one in inside:
        if split_code(one.name) >= 0:
            bearing += _folders(one)
    if len(bearing) >= 2 and not forced:
        names = ", ".join(one.name for one in tables[:3])
        return [], f"class folders were used, not {names}; to use the table, open it by its own path"
    if len(tables) == 1:
        return tables, ""
    usual = [one for one in tables if one.stem.lower() in _USUAL]
    by_split = [one for one in tables if split_code_in(one.stem) >= 0]
    if len(usual) == 1:
        return usual, ""
    if by_split and not usual:
        return by_split, ""
    raise DataError(
        f"{folder}: {len(tables)} tables could list the pictures ({', '.join(one.name for one in tables[:5])}); "
        f"open one by its path, for example {tables[0]}"
    )


def _inside(folder: Path, of: Callable[[os.DirEntry[str]], bool]) -> list[Path]:
    with os.scandir(folder) as entries:
        return sorted(folder / one.name for one in entries if not one.name.startswith(".") and of(one))


def _tables(folder: Path) -> list[Path]:
    return _inside(folder, lambda one: one.name.lower().endswith(TABLES) and one.is_file())


def _folders(folder: Path) -> list[Path]:
    return _inside(folder, lambda one: one.is_dir())


def open_manifest(
    files: Sequence[Path],
    *,
    root: Path,
    name: str,
    columns: Mapping[str, str] | None = None,
    classes: Sequence[str] | None = None,
    texts: bool = False,
) -> Source:
    """Open the pictures (or other files) that tables list, or with `texts` the texts in them, as one source.

    Columns are guessed from their names and contents (see `guess.guess_columns`); the notes say how. Paths are
    relative to the table's folder, or to the one of its folders where the first rows are found. Files that do not
    exist become problems. The split comes from a column, else from the table's name or folder.

    Raises: DataError: unreadable table, ambiguous columns, or no listed file exists.
    """
    root = Path(os.path.abspath(root))
    table = _Table()
    problems: list[Problem] = []
    notes: list[str] = []
    label_names: dict[object, set[str]] = {}
    name_column: str | None = None
    has_captions = several = False
    guess: Guess | None = None
    for path in (Path(os.path.abspath(one)) for one in files):
        rows = table_rows(path, problems, notes)
        head = [row for _, row in zip(range(_PEEK), rows, strict=False)]
        if not head:
            notes.append(f"{path.name} has no rows")
            continue
        split, before, missing = split_of(path, root), len(table.keys), len(problems)
        finder, mask_finder = (_Finder(path.parent, root, split) for _ in range(2))
        guess = _guess(head, columns, path, None if texts else finder)
        if not texts:
            finder.choose([_text(row, guess.path) for row in head])
        if guess.masks:
            mask_finder.choose([_text(row, guess.masks[0]) for row in head])
        notes += [one for one in (*guess.notes, *finder.notes) if one not in notes]
        has_captions |= bool(guess.captions)
        several |= guess.several
        name_column = name_column or guess.label_name
        for line, row in enumerate(itertools.chain(head, rows), start=1):
            text = _text(row, guess.path)
            key = (text.strip().encode("utf-8", "surrogatepass") or None) if texts else finder.find(text)
            if key is None:
                reason = "listed in the table, but the file does not exist" if text else "row without a path"
                reason = "the text is empty" if texts else reason
                problems.append(Problem(text.strip() or f"{path.name}, row {line}", reason))
                continue
            label = row.get(guess.label) if guess.label else None
            if guess.label_name and label is not None and row.get(guess.label_name) is not None:
                label_names.setdefault(str(label).strip(), set()).add(str(row[guess.label_name]).strip())
            table.append(
                key,
                guess.labels(row),
                guess.caption_list([row.get(one) for one in guess.captions]),
                split_code(row.get(guess.split)) if guess.split else split,
                _cells(row, guess, mask_finder),
                label,
            )
        if len(table.keys) == before and len(problems) > missing and not texts:
            raise DataError(
                f"{path}: none of the files in column {guess.path!r} exists, for example {problems[missing].key!r} "
                f"below {path.parent}; paths are relative to the table's folder; to use another column: "
                "columns={'path': '...'}"
            )
    first = f"the first is {problems[0].key}: {problems[0].reason}" if problems else ""
    if not len(table.keys):
        what = "texts" if texts else "pictures"
        why = f"; {first}" if first else ""
        raise DataError(f"{root}: no rows with {what} in {', '.join(one.name for one in files)}{why}")
    if problems:
        notes.append(f"{counted(len(problems), 'row of the table', 'was')} skipped; {first}")
    table, repeated = (table, 0) if texts else table.merged()
    if repeated:
        notes.append(f"{counted(repeated, 'row', 'repeats')} a picture: their labels and captions were merged")
    assert guess is not None  # there are rows
    cells = [of or [{}] for of in table.cells]  # of several tables, one may lack the columns
    facts = described(
        name,
        dataclasses.replace(guess, label_name=name_column),
        table.labels,
        cells,
        notes,
        numbers=lambda: table.numbers,
        known=np.frombuffer(table.blank, dtype=np.int8) == 0,
        names=label_names,
        several=several,
        repeated=repeated,
        classes=classes,
        box_classes=classes,
        size=lambda i: header_size(root / os.fsdecode(table.keys.raw(i))),
        mask=(lambda i: root / cells[i][0][guess.masks[0]]) if guess.masks else None,
    )
    facts |= {"splits": declared(table.splits, notes), "notes": notes, "problems": problems}
    if texts:
        return Rows(table.keys, **facts)
    endings = Counter(os.path.splitext(table.keys[i])[1].lower() for i in range(min(_PEEK, len(table.keys))))
    kind = "picture" if any(map(is_picture, endings)) else commonest(endings) or "picture"
    return Folder(root, table.keys, captions=table.captions if has_captions else None, kind=kind, **facts)


class Rows(Source):
    """Texts of a table."""

    kind = "text"

    def __init__(self, texts: Texts, *args: Any, **more: Any) -> None:
        super().__init__(*args, **more)
        self.texts = texts

    def read(self, i: int) -> str:
        return self.texts.raw(i).decode("utf-8", "replace")

    def _signature(self, i: int) -> bytes:
        return hashlib.sha256(self.texts.raw(i)).digest()


class _Finder:
    """Turns a cell into the path of a file, relative to `root`: tries the table's folder, then its folders."""

    _ENDINGS = ("", ".jpg", ".png", ".jpeg", ".webp", ".JPG", ".tif", ".bmp")

    def __init__(self, folder: Path, root: Path, split: int) -> None:
        inside = sorted(one.name for one in os.scandir(folder) if one.is_dir() and not one.name.startswith("."))
        # train.csv beside train/ and test/ means the pictures in train/
        inside.sort(key=lambda name: split < 0 or split_code(name) != split)
        self._bases = ["", *inside]
        self._folder, self._root = folder, root
        self._base, self.ending, self._slashes = "", "", False  # as `choose` decided last
        self.notes: list[str] = []

    def choose(self, texts: Sequence[str]) -> int:
        """Decide which folder and ending lead to files for most `texts`; return for how many."""
        best = 0
        self._base, self.ending, self._slashes = "", "", False
        for base in self._bases:
            for ending in self._ENDINGS:
                for slashes in (False, True) if any("\\" in text for text in texts) else (False,):
                    if slashes and ending:
                        continue
                    hits = sum(self._file(base, ending, slashes, text) is not None for text in texts if text)
                    if hits > best:
                        best = hits
                        self._base, self.ending, self._slashes = base, ending, slashes
            if best == len(texts):
                break
        self.notes = []
        if self._base:
            self.notes.append(f"paths in the table are relative to the folder {self._base!r}")
        if self.ending:
            self.notes.append(f"the table's names have no extension: {self.ending!r} was added")
        return best

    def find(self, text: str) -> bytes | None:
        """Return the path of the file relative to `root`, or None if there is no such file."""
        full = self._file(self._base, self.ending, self._slashes, text) if text else None
        if full is None:
            return None
        top = os.path.join(str(self._root), "")
        full = os.path.normpath(full)
        return os.fsencode(full[len(top) :] if full.startswith(top) else full)

    def _file(self, base: str, ending: str, slashes: bool, text: str) -> str | None:
        """Return the path of the file that a cell names, in whatever spelling it has on disk, or None."""
        text = text.replace("\\", "/") if slashes else text
        for name in spellings(text):
            full = os.path.join(self._folder, base, name + ending)
            try:
                if os.path.isfile(full):
                    return full
            except ValueError:  # a NUL character, or half of one beyond 16 bits
                return None
        return None


class _Table:
    """The columns of the pictures found so far, and a hash of each key to see repeated ones."""

    def __init__(self) -> None:
        self.keys, self.labels, self.captions = Texts(), LabelColumn(), TextLists()
        self.splits, self._hashes = array("b"), array("q")
        self.numbers, self.blank = array("d"), array("b")  # the label as a number; whether its cell is empty
        self.cells: list[list[dict[str, Any]]] = []  # of each picture, the cells of its rows that say more

    def append(
        self,
        key: bytes,
        label: object,
        captions: Sequence[str],
        split: int,
        cells: list[dict[str, Any]],
        cell: object = None,
    ) -> None:
        """Add one row."""
        self.cells.append(cells)
        self.numbers.append(number(cell))
        self.blank.append(cell is None or cell == "" or cell != cell)  # NaN is how pandas writes an empty cell
        self.keys.append(key)
        self.labels.append(label)
        self.captions.append(captions)
        self.splits.append(split)
        self._hashes.append(hash(key))

    def merged(self) -> tuple[_Table, int]:
        """Return (the table with one row for each picture, number of rows that went into an earlier one).

        Caption tables have a row for each caption; tables of tags one for each tag.
        """
        hashes = np.frombuffer(self._hashes, dtype=np.int64)
        _, first, inverse = np.unique(hashes, return_index=True, return_inverse=True)
        if len(first) == len(hashes):
            return self, 0
        out = _Table()
        order = np.lexsort((np.arange(len(hashes)), first[inverse]))  # by first appearance
        for rows in np.split(order, np.flatnonzero(np.diff(first[inverse][order])) + 1):
            i = int(rows[0])
            labels = dict.fromkeys(one for row in rows for one in self.labels.row(int(row)))
            captions = dict.fromkeys(one for row in rows for one in self.captions[int(row)])
            cells = [cell for row in rows for cell in self.cells[int(row)]]
            out.append(self.keys.raw(i), list(labels), list(captions), self.splits[i], cells, self.numbers[i])
            out.blank[-1] = all(self.blank[int(row)] for row in rows)
        return out, len(hashes) - len(first)


def _cells(row: Mapping[str, Any], guess: Guess, masks: _Finder) -> list[dict[str, Any]]:
    """The cells of a row that say more than a label; a mask by the path of its file."""
    cells = {name: row.get(name) for name in guess.targets}
    if guess.masks:
        found = masks.find(_text(row, guess.masks[0]))
        cells[guess.masks[0]] = None if found is None else os.fsdecode(found)
    return [cells] if cells else _NO_CELLS


def _guess(head: list[dict[str, Any]], columns: Mapping[str, str] | None, path: Path, finder: _Finder | None) -> Guess:
    """The columns of a table; without a finder those of a table of texts, in which the path is the text."""
    names = list(dict.fromkeys(name for row in head for name in row))
    cells = {name: [row[name] for row in head if row.get(name) not in (None, "")] for name in names}
    likely, said = [], tuple[str, ...]()
    if finder is None:
        given = dict(columns or {})
        asked = given.pop("text", None)
        text = asked or names_text(cells, set(given.values()), str(path))
        if text not in names:
            raise UsageError(f"{path} has no column {text!r}{closest(text, names)}; it has {', '.join(names)}")
        names = [name for name in names if name == text or name in given.values() or not is_text(cells[name])]
        columns = {**given, "path": text}
        usual = bare(text) in TEXT_NAMES or re.fullmatch(r"column \d+", text)
        more = "" if usual else "; if that is a text, write a line with the names of the columns above it"
        said = () if asked else (f"texts are the column {text!r} (--column text=NAME takes another{more})",)
    for name in names if finder else ():
        texts = [one for one in cells[name] if isinstance(one, str)][:16]
        hits = finder.choose(texts) if texts and finder else 0
        # 3 in a column of prices is no picture because there is a 3.jpg
        if (hits and finder and (not finder.ending or may_name_files(name))) or (texts and all(map(is_picture, texts))):
            likely.append(name)
    guess = guess_columns({name: cells[name] for name in names}, columns, where=str(path), looks_like_path=likely)
    return dataclasses.replace(guess, notes=(*said, *guess.notes))


def _text(row: Mapping[str, Any], column: str) -> str:
    cell = row.get(column)
    return "\n".join(map(str, cell)) if isinstance(cell, list) else "" if cell is None else str(cell)
