"""Text files and tables, in the encodings that people's programs write.

UTF-8 and UTF-16, with or without a mark, and Windows-1252.
"""

from __future__ import annotations

import codecs
import csv
import itertools
import json
import os
import re
import unicodedata
from collections.abc import Collection, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from neocog.data.columns import is_picture
from neocog.data.stores import opened
from neocog.errors import DataError
from neocog.records import Problem

TABLES = (".csv", ".tsv", ".jsonl", ".ndjson", ".parquet")

csv.field_size_limit(1 << 24)
_HEAD = 1000  # rows of a CSV file that say whether the first is the names of columns
_NUMBER = re.compile(r"\s*-?\d+([.,]\d+)?\s*")
_SEPARATOR = re.compile('"?sep=(.)"?')  # the first line of tables that Excel is to open
_BROKEN = re.compile("[\udc80-\udcff]+")
_MARKS = (  # UTF-32's mark begins with UTF-16's
    (codecs.BOM_UTF32_LE, "utf-32"), (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"),
)  # fmt: skip


def text_of(data: bytes) -> str:
    """Decode a small file: UTF-16 if it says so, else UTF-8 with what is not UTF-8 read as Windows-1252."""
    return mended(data.decode(_encoding(data), "surrogateescape"))


def lines_of(path: Path) -> list[str]:
    """The lines of a small file that are not empty, without spaces around. Raises: OSError."""
    return [line for one in text_of(path.read_bytes()).splitlines() if (line := one.strip())]


def first_lines(folders: Iterable[Path], names: Sequence[str]) -> tuple[str, list[str]]:
    """The name and the lines of the first file of one of these names, ("", []) if there is none."""
    found = (folder / name for folder in folders for name in names)
    return next(((path.name, lines) for path in found if path.is_file() and (lines := lines_of(path))), ("", []))


def mended(text: str) -> str:
    """Return `text`, decoded with surrogateescape, with its bytes that are not UTF-8 read as Windows-1252."""
    return _BROKEN.sub(lambda found: _windows(found[0].encode("ascii", "surrogateescape")), text)


def read_lines(path: Path, notes: list[str]) -> Iterator[str]:
    """Yield the lines of a text file with their ends; a note is added if it is not UTF-8."""
    with open(path, "rb") as start:
        encoding = _encoding(start.read(256))
    if encoding != "utf-8-sig":
        notes.append(f"{path.name} is in {encoding.upper()}")
    told = False
    with open(path, encoding=encoding, errors="surrogateescape", newline="") as file:
        for line in file:
            if not line.isascii() and _BROKEN.search(line):
                if not told:
                    notes.append(
                        f"{path.name} is not UTF-8: it was read as Windows-1252 (Latin-1); is the spelling right?"
                    )
                    told = True
                line = mended(line)
            yield line


def spellings(name: str) -> Iterator[str]:
    """Yield the names that a file on disk may have where a table calls it `name`: other forms and encodings of it."""
    yield name
    if name.isascii():
        return
    yield unicodedata.normalize("NFC", name)
    yield unicodedata.normalize("NFD", name)  # macOS
    for encoding in ("cp1252", "latin-1"):
        try:
            yield os.fsdecode(name.encode(encoding))
        except UnicodeError:  # it has other letters, or this system has no such names
            continue


def _encoding(start: bytes) -> str:
    for mark, encoding in _MARKS:
        if start.startswith(mark):
            return encoding
    even, odd = start[0:256:2].count(0), start[1:256:2].count(0)
    if max(even, odd) > len(start) // 5 and min(even, odd) <= len(start) // 50:
        return "utf-16-le" if odd > even else "utf-16-be"
    return "utf-8-sig"


def _windows(data: bytes) -> str:
    try:
        return data.decode("cp1252")
    except UnicodeDecodeError:  # five bytes mean nothing there
        return data.decode("latin-1")


def table_rows(path: Path, problems: list[Problem], notes: list[str]) -> Iterator[dict[str, Any]]:
    """Yield the rows of a table as {column: cell}, without holding the table."""
    try:
        if path.suffix.lower() == ".parquet":
            import pyarrow.parquet as pq

            with pq.ParquetFile(opened(path)) as file:
                for batch in file.iter_batches(batch_size=4096, use_threads=False):
                    yield from batch.to_pylist()
        elif path.suffix.lower() in (".jsonl", ".ndjson"):
            for number, line in enumerate(read_lines(path, notes), start=1):
                if not line.strip():
                    continue
                try:
                    row = json.loads(line)
                except (ValueError, RecursionError):
                    row = None
                if isinstance(row, dict):
                    yield row
                else:
                    problems.append(Problem(f"{path.name}, line {number}", "not a JSON object"))
        else:
            yield from _csv_rows(path, problems, notes)
    except (OSError, csv.Error, ValueError) as error:  # pyarrow's errors are ValueErrors
        raise DataError(f"{path}: expected a table ({', '.join(TABLES)}), but it cannot be read: {error}") from error


def _csv_rows(path: Path, problems: list[Problem], notes: list[str]) -> Iterator[dict[str, Any]]:
    lines = read_lines(path, notes)
    start, first = next(lines, ""), 1
    if said := _SEPARATOR.fullmatch(start.rstrip("\r\n")):
        start, first = next(lines, ""), 2
    mark = said[1] if said else max("\t" if path.suffix.lower() == ".tsv" else ",;\t", key=start.count)
    rows = _csv_cells(path.name, itertools.chain([start], lines), mark, first)
    head = list(itertools.islice(rows, _HEAD))
    names = [cell.strip() or f"column {i}" for i, cell in enumerate(head[0][1] if head else (), 1)]
    if _is_row([cells for _, cells in head]):
        names = [f"column {i}" for i in range(1, len(names) + 1)]
        notes.append(f"{path.name} does not begin with the names of its columns: its first line is a row, too")
    else:
        head = head[1:]
    ends = {cells[-1] for _, cells in head}
    for number, cells in itertools.chain(head, rows):
        if any("\n" in cell and _swallowed(cell, mark, ends) for cell in cells):
            notes.append(f"{path.name}, line {number}: a cell holds what looks like rows; was its quote not closed?")
        if any(cells[len(names) :]):
            reason = f"more cells than the first line has; a cell that holds {mark!r} needs quotes"
            problems.append(Problem(f"{path.name}, line {number}", reason))
        else:
            yield dict(zip(names, cells, strict=False))


def _swallowed(cell: str, mark: str, ends: Collection[str]) -> bool:
    """Whether a line of a cell ends as rows do: with the label of another row."""
    parts = [line.rstrip("\r").rpartition(mark) for line in cell.split("\n")[:-1]]
    return any(found and end and end in ends for _, found, end in parts)


def _csv_cells(name: str, lines: Iterable[str], mark: str, at: int) -> Iterator[tuple[int, list[str]]]:
    """The number of the first line of each row that is not empty, and its cells; `at`: the number of the first line.

    A quote that is never closed, or closed by another row's, would swallow rows. In tables with tabs, where many
    programs quote nothing, it is a sign like others.

    Raises: DataError: for such a quote.
    """
    taken: list[str] = []  # lines of the row

    def taking() -> Iterator[str]:
        for line in lines:
            taken.append(line)
            yield line

    reader = csv.reader(taking(), delimiter=mark)
    broken = (
        f"{name}, line {{}}: a quote is opened there and not closed at the end of its cell; close it, and write a "
        'quote within a cell twice: ""'
    )
    while True:
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error:  # more than a cell may hold
            raise DataError(broken.format(at)) from None
        if (len(taken) > 1 or taken[0].count('"') % 2) and _left_open(taken, mark):
            if mark != "\t":
                raise DataError(broken.format(at))
            signs = csv.reader(taken, delimiter=mark, quoting=csv.QUOTE_NONE)
            yield from ((at + k, one) for k, one in enumerate(signs) if any(one))
        elif any(cells):
            yield at, cells
        at += len(taken)
        taken.clear()


def _left_open(lines: Sequence[str], mark: str) -> bool:
    """Whether these lines became one row only because a quote was not closed."""
    try:
        return len(list(csv.reader([*lines, "x"], delimiter=mark, strict=len(lines) > 1))) == 1
    except csv.Error:
        return True


def _is_row(rows: Sequence[Sequence[str]]) -> bool:
    """Whether the first row is not the names of columns: it has a picture's name, a sentence, one number above numbers,
    a text no shorter than those below, or a cell that stands again in its column, as labels do (not where that only
    marks rows: a column cat of "cat")."""
    first = rows[0] if rows else ()
    below = [row for row in rows[1:] if row != first]
    columns = [{row[k] for row in below if k < len(row)} - {""} for k in range(len(first))]
    whole = [not any(k < len(row) and not row[k] for row in below) for k in range(len(first))]
    numbers = [bool(of) and all(map(_NUMBER.fullmatch, (cell, *of))) for cell, of in zip(first, columns, strict=True)]
    return sum(numbers) == 1 or any(
        is_picture(cell)
        or cell.count(" ") > 4
        or _is_text(cell, of)
        or (cell.strip() and cell in of and (full or of != {cell}))
        for cell, of, full in zip(first, columns, whole, strict=True)
    )


def _is_text(cell: str, below: Collection[str]) -> bool:
    """Whether a cell above texts is one of them; names of columns are shorter, and end without a point."""
    if not below or sorted(one.count(" ") for one in below)[len(below) // 2] < 2:
        return False
    shortest = sorted(map(len, below))[len(below) // 10]  # a tenth of the texts may be a word or two
    return cell.strip()[-1:] in (".", "!") or (cell.count(" ") > 1 and len(cell) >= shortest)
