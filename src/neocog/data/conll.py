"""Texts with a class for each word: CoNLL's columns (a word on a line, its class last), and tables of lists."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from neocog.data.columns import declared, split_code, split_code_in
from neocog.data.kinds import Sequences, TextLists
from neocog.data.source import Source
from neocog.data.text import read_lines, table_rows, text_of
from neocog.errors import DataError, UsageError, closest
from neocog.records import Problem, counted

_SURE = (".conll", ".iob", ".iob2", ".bio", ".bioes")  # endings of files of columns
_MAYBE = (".txt", ".tsv", "")  # of files that may hold columns
_WORDS = ("words", "tokens", "word", "token")  # names of lists in a table
_TAGS = ("tags", "labels", "ner_tags", "chunk_tags", "pos_tags", "tag", "label", "ner", "chunks", "pos")
_START = "-DOCSTART-"
_LOOK = 1 << 16  # bytes of a file that say what it is


class Sentence(str):
    """A text that is words already.

    Attributes:
        words: its words. more: further columns, such as parts of speech, each with a cell for each word.
    """

    words: tuple[str, ...]
    more: tuple[tuple[str, ...], ...]

    def __new__(cls, words: Iterable[str], more: Iterable[Iterable[str]] = ()) -> Sentence:
        of = tuple(words)
        made = super().__new__(cls, " ".join(of))
        made.words, made.more = of, tuple(map(tuple, more))
        return made


class TaggedTexts(Source):
    """Sentences with the column "tokens", a class for each word; `read` gives a `Sentence`."""

    kind = "text"

    def __init__(self, name: str, rows: TextLists, more: Sequence[TextLists], *args: Any, **how: Any) -> None:
        super().__init__(name, (), np.full(len(rows), -1), *args, **how)
        self.rows, self.more = rows, tuple(more)

    def read(self, i: int) -> Sentence:
        return Sentence(self.rows[i], (column[i] for column in self.more))

    def _signature(self, i: int) -> bytes:
        return "\0".join(part for column in (self.rows, *self.more) for part in column[i]).encode()


def blocks(lines: Iterable[str]) -> Iterator[list[list[str]]]:
    """The sentences of CoNLL's lines: of each the cells of its words. Remarks (#) with another number of cells are out.

    Cells are apart by tabs if the first line has one, else by spaces.
    """
    mark: str | None = None
    usual, block = 0, list[list[str]]()
    for line in lines:
        bare = line.rstrip("\r\n")
        if not bare.strip():
            if block:
                yield block
            block = []
            continue
        if mark is None and bare[0] != "#":
            mark = "\t" if "\t" in bare else " "
        cells = bare.split("\t") if mark == "\t" else bare.split()
        if cells[0] == _START or (bare[0] == "#" and len(cells) != usual):
            continue
        usual = usual or len(cells)
        block.append(cells)
    if block:
        yield block


def has_columns(path: Path) -> bool:
    """Whether a file is CoNLL's: its ending says so, or every line of its beginning has as many cells, at least two,
    sentences are apart by empty lines, and the last cells repeat."""
    if path.suffix.lower() not in _MAYBE:
        return path.suffix.lower() in _SURE
    with open(path, "rb") as file:
        start = file.read(_LOOK)
    if b"\0" in start and not start.startswith((b"\xff\xfe", b"\xfe\xff")):
        return False
    lines = text_of(start).splitlines()
    found = list(blocks(lines[:-1] if len(start) == _LOOK else lines))
    rows = [cells for block in found for cells in block]
    if len(found) < 2 or len({len(cells) for cells in rows}) != 1 or len(rows[0]) < 2:
        return False
    return len({cells[-1] for cells in rows}) <= len(rows) // 2


def column_files(folder: Path) -> list[Path]:
    """The files of a folder that hold CoNLL's columns and are named after a split: train.txt, test.txt."""
    try:
        with os.scandir(folder) as entries:
            files = sorted(folder / one.name for one in entries if not one.name.startswith(".") and one.is_file())
    except OSError:
        return []
    return [one for one in files if split_code_in(one.name) >= 0 and has_columns(one)]


def open_columns(files: Sequence[Path], *, name: str, columns: Mapping[str, str] | None = None) -> TaggedTexts:
    """The sentences of CoNLL files; `columns`: the number of the words' column and that of the tags', from 1.

    Raises: DataError: nothing usable. UsageError: there are no such columns.
    """
    notes, problems = list[str](), list[Problem]()
    found, width, at = list[Any](), 0, (0, -1)
    for path in files:
        for number, block in enumerate(blocks(read_lines(path, notes)), 1):
            if not width:
                width = len(block[0])
                at = _numbers(columns or {}, width)
            if any(len(cells) != width for cells in block):
                problems.append(Problem(f"{path.name}, sentence {number}", f"a line does not have {width} columns"))
                continue
            lists = [list(cells) for cells in zip(*block, strict=True)]
            more = [lists[k] for k in range(width) if k not in at]
            found.append((lists[at[0]], lists[at[1]], more, split_code_in(path.name)))
    if found and width < 2:
        raise DataError(f"{name} has words alone; expected a word and its tag on a line, the tag last")
    told = f"column {at[0] + 1} is the word, column {at[1] + 1} its tag" + (
        f", {width - 2} further" if width > 2 else ""
    )
    return _source(name, found, [*notes, told], problems)


def _numbers(columns: Mapping[str, str], width: int) -> tuple[int, int]:
    made = [0, width - 1]
    for role, number in columns.items():
        if role not in ("words", "tags") or not number.isdigit() or not 1 <= int(number) <= width:
            raise UsageError(f"expected words=NUMBER or tags=NUMBER, a column from 1 to {width}, got {role}={number}")
        made[role == "tags"] = int(number) - 1
    return made[0], made[1]


def open_lists(
    files: Sequence[Path],
    *,
    name: str,
    columns: Mapping[str, str] | None = None,
    classes: Sequence[str] | None = None,
) -> TaggedTexts | None:
    """The sentences of tables whose rows hold lists of words and of tags; None if these hold none.

    Raises: DataError, UsageError: there is no such column.
    """
    problems, notes, found = list[Problem](), list[str](), list[Any]()
    roles: dict[str, str] | None = None
    more: list[str] = []
    for path in files:
        for line, row in enumerate(table_rows(path, problems, notes), 1):
            if roles is None:
                roles = _roles(row, columns, str(path))
                if roles is None:
                    return None
                more = [k for k, v in row.items() if k not in roles.values() and isinstance(v, list)
                        and len(v) == len(row[roles["words"]]) and isinstance(v[0], str)]  # fmt: skip
                further = f", further {', '.join(map(repr, more))}" if more else ""
                notes.append(f"{roles['words']!r} holds the words, {roles['tags']!r} their tags{further}")
            lists = [row.get(one) or [] for one in (roles["words"], roles["tags"], *more)]
            if len({len(one) for one in lists}) != 1 or not lists[0]:
                problems.append(Problem(f"{path.name}, row {line}", "words and tags are not as many"))
                continue
            split = split_code(row.get("split")) if "split" in row else split_code_in(path.stem)
            words, tags, *others = [[str(cell) for cell in one] for one in lists]
            if classes is not None:
                tags = [classes[int(tag)] if tag.isdigit() and int(tag) < len(classes) else tag for tag in tags]
            found.append((words, tags, others, split))
    return _source(name, found, notes, problems) if roles is not None else None


def _roles(row: Mapping[str, Any], columns: Mapping[str, str] | None, where: str) -> dict[str, str] | None:
    made = dict[str, str]()
    for role, usual in (("words", _WORDS), ("tags", _TAGS)):
        asked = (columns or {}).get(role)
        if asked is not None and asked not in row:
            raise UsageError(f"{where} has no column {asked!r}{closest(asked, row)}; it has {', '.join(row)}")
        if columns is not None and asked is None and "words" not in columns:
            return None
        name = asked or next((k for k in usual if isinstance(row.get(k), list) and k not in made.values()), None)
        if name is None:
            return None
        made[role] = name
    words, tags = row[made["words"]], row[made["tags"]]
    same = isinstance(words, list) and isinstance(tags, list) and len(words) == len(tags) > 0
    return made if same and isinstance(words[0], str) and isinstance(tags[0], (str, int)) else None


def _source(name: str, found: Sequence[Any], notes: list[str], problems: list[Problem]) -> TaggedTexts:
    if not found:
        why = f"; the first, {problems[0].key}: {problems[0].reason}" if problems else ""
        raise DataError(f"{name}: no sentence with words and tags{why}")
    if problems:
        notes.append(
            f"{counted(len(problems), 'sentence', 'was')} skipped, the first is {problems[0].key}: {problems[0].reason}"
        )
    splits = declared([split for *_, split in found], notes)
    width = Counter(len(others) for _, _, others, _ in found).most_common(1)[0][0]
    more = [TextLists(others[k] for _, _, others, _ in found) for k in range(width)]
    tags = Sequences.of([tags for _, tags, _, _ in found])
    words = TextLists(words for words, *_ in found)
    return TaggedTexts(name, words, more, splits, notes=notes, problems=problems, columns={"tokens": tags})
