"""Tar shards (WebDataset): members whose names agree up to the first dot of the base name are one sample.

What follows that dot names the column: ``0.jpg`` is the picture, ``0.cls`` or ``0.json`` its label, ``0.txt`` or
``0.json`` its caption, ``0.seg.png`` something else. A picture ``a.0.png`` beside ``a.0.cls`` has a label of its own.
Headers are read once when the shards are opened; after that a picture is one read at a known offset, in any order.
"""

from __future__ import annotations

import json
import os
import tarfile
import threading
from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from neocog.data.columns import LabelColumn, Texts, count_splits, is_picture, split_of
from neocog.data.kinds import TextLists
from neocog.data.source import Source
from neocog.data.text import first_lines, text_of
from neocog.errors import DataError
from neocog.records import Problem, counted

_SIDE_LIMIT = 1 << 20  # a label or caption file larger than this is something else
_MAX_OPEN = 128
_CLASS_FILES = ("classes.txt", "classnames.txt", "class_names.txt", "labels.txt")
_READ = os.O_RDONLY | getattr(os, "O_BINARY", 0)
# 0.seg.png: the first word of a column of several words that says whether it is the picture
_INPUTS = frozenset("image img input rgb photo picture original".split())
_TARGETS = frozenset(
    "seg segmentation mask masks label labels target annotation annotations depth normal normals edge edges instance "
    "instances panoptic semantic matte alpha trimap heatmap".split()
)


class Shards(Source):
    """Pictures inside tar files; keys are ``shard-000.tar/0001.jpg``."""

    def __init__(
        self,
        files: Sequence[Path],
        names: Sequence[str],
        shard: np.ndarray,
        offsets: np.ndarray,
        sizes: np.ndarray,
        members: Texts,
        *args,
        **options,
    ) -> None:
        super().__init__(*args, **options)
        self.files, self._names, self._members = list(files), list(names), members
        self._shard, self._offsets, self._sizes = shard, offsets, sizes
        self._open: dict[int, int] = {}
        self._lock = threading.Lock()

    def __getstate__(self) -> dict[str, Any]:
        state = self.__dict__.copy()
        state["_open"] = {}
        del state["_lock"]
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._lock = threading.Lock()

    def __del__(self) -> None:
        for handle in getattr(self, "_open", {}).values():
            os.close(handle)

    def key(self, i: int) -> str:
        return f"{self._names[self._shard[i]]}/{self._members[i]}"

    def read(self, i: int) -> bytes:
        number, offset, size = int(self._shard[i]), int(self._offsets[i]), int(self._sizes[i])
        try:
            data = self._bytes(number, offset, size)
        except OSError as error:
            raise DataError(f"{self.key(i)}: {error.strerror or error}") from error
        if len(data) < size:
            raise DataError(f"{self.key(i)}: the shard has become shorter since it was opened")
        return data

    def _bytes(self, number: int, offset: int, size: int) -> bytes:
        handle = self._open.get(number)
        if handle is None:
            with self._lock:
                handle = self._open.get(number)
                if handle is None and len(self._open) < _MAX_OPEN:
                    handle = self._open[number] = os.open(self.files[number], _READ)
        if handle is not None:
            if hasattr(os, "pread"):
                return os.pread(handle, size, offset)
            with self._lock:  # Windows: the handle has one position for all threads
                os.lseek(handle, offset, os.SEEK_SET)
                return os.read(handle, size)
        with open(self.files[number], "rb") as file:  # beyond the limit: open, read, close
            file.seek(offset)
            return file.read(size)

    def _signature(self, i: int) -> bytes:
        return str(int(self._sizes[i])).encode()


def open_shards(files: Sequence[Path], *, root: Path, name: str, classes: Sequence[str] | None = None) -> Shards:
    """Index tar shards and return them as one source.

    The split comes from a shard's name or folder (``train-0001.tar``, ``val/0001.tar``). Numbers in .cls are indices
    into `classes`, or into a file ``classes.txt`` beside the shards (one name a line).

    Raises: DataError: no shard holds a picture, or one is compressed.
    """
    columns = _Columns()
    files = sorted(files, key=lambda path: (path.name, path))
    names = [path.relative_to(root).as_posix() for path in files]
    splits = array("b")
    for number, path in enumerate(files):
        before = len(columns.members)
        try:
            with open(path, "rb") as file:
                columns.read(number, file, names[number])
        except OSError as error:
            columns.problems.append(Problem(names[number], f"shard cannot be read: {error.strerror or error}"))
        splits.extend(array("b", [split_of(path, root)]) * (len(columns.members) - before))
    if not len(columns.members):
        why = f"; {columns.problems[0].key}: {columns.problems[0].reason}" if columns.problems else ""
        raise DataError(
            f"no pictures in {len(files)} tar files of {str(root)!r}{why}; expected members such as 0001.jpg"
        )
    notes = []
    if classes is None:
        found, lines = first_lines((root, *(path.parent for path in files[:1])), _CLASS_FILES)
        classes = lines or None
        notes += [f"class names taken from {found}"] if found else []
    class_names, labels, several = columns.labels.finish(classes)
    codes = np.frombuffer(splits, dtype=np.int8).copy()
    if (codes >= 0).any():
        notes.append(f"split taken from the shards' names: {count_splits(codes)}")
    if columns.without:
        notes.append(f"{columns.without} samples in the shards have no picture and were skipped")
    if columns.other:
        shown = ", ".join(f".{one}" for one in sorted(columns.other)[:5])
        notes.append(f"pictures in the shards that are not the input were skipped: {shown}")
    if columns.repeated:
        notes.append(
            f"{counted(columns.repeated, 'sample')} with the name of an earlier one in the shard: kept as a sample "
            "of its own, whose key ends in #2, #3, ..."
        )
    return Shards(
        files,
        names,
        np.frombuffer(columns.shard, dtype=np.int32),
        np.frombuffer(columns.offsets, dtype=np.int64),
        np.frombuffer(columns.sizes, dtype=np.int64),
        columns.members,
        name,
        class_names,
        labels,
        codes,
        notes=notes,
        problems=columns.problems,
        label_sets=several,
        captions=columns.captions if columns.captions.known.any() else None,
    )


def pictures_in(file: Any, name: str) -> tuple[list[tuple[str, int, int]], list[Problem]]:
    """Return (member, offset, size) of the pictures of one open shard, and what cannot be read. Raises: OSError."""
    columns = _Columns()
    columns.read(0, file, name)
    places = zip(columns.offsets, columns.sizes, strict=True)
    return [(columns.members[i], *place) for i, place in enumerate(places)], columns.problems


@dataclass(slots=True)
class _Said:
    """What .cls, .txt and .json beside a picture say."""

    label: object = None
    captions: list[str] = field(default_factory=list)
    classified: bool = False  # by a .cls

    def learn(self, kind: str, data: bytes) -> None:
        """Take label and captions from a member; .cls and .txt win over .json."""
        text = text_of(data).strip()
        if kind == "cls":
            self.label, self.classified = text or None, True
        elif kind == "txt":
            self.captions = [text, *(one for one in self.captions if one != text)] if text else self.captions
        else:
            try:
                facts = json.loads(text)
            except (ValueError, RecursionError):
                return
            if not isinstance(facts, dict):
                return
            labels = (facts.get(key) for key in ("label", "class", "cls", "labels", "tags", "class_name"))
            plain = (one for one in labels if isinstance(one, (str, int, list)) and not isinstance(one, bool))
            self.label = self.label if self.classified else next(plain, None)
            for value in (facts.get(key) for key in ("caption", "captions", "text")):
                more = [value] if isinstance(value, str) else value if isinstance(value, list) else []
                self.captions = list(dict.fromkeys([*self.captions, *(str(one) for one in more if one)]))


@dataclass(slots=True)
class _Sample:
    """What the members of one sample say: pictures are (member, column, offset, size).

    `said`: of the whole sample under "", of a.0.png under "0".
    """

    number: int = 1  # 2 if this is the second sample of its name in the shard
    columns: set[str] = field(default_factory=set)
    pictures: list[tuple[str, str, int, int]] = field(default_factory=list)
    said: dict[str, _Said] = field(default_factory=dict)

    def about(self, column: str) -> _Said:
        """What is said of the picture `column`."""
        return self.said.get(column.rpartition(".")[0]) or self.said.get("") or _Said()

    def inputs(self) -> list[tuple[str, str, int, int]]:
        """Return the pictures that are the sample's input: 0.jpg, not 0.seg.png beside it."""
        words = [column.split(".")[0] for _, column, *_ in self.pictures]
        plain = [one for one in self.pictures if "." not in one[1]]
        if plain:
            return plain[:1]
        named = [one for one, word in zip(self.pictures, words, strict=True) if word in _INPUTS]
        return named[:1] or [one for one, word in zip(self.pictures, words, strict=True) if word not in _TARGETS]


class _Columns:
    """What grows while shards are indexed."""

    def __init__(self) -> None:
        self.shard, self.offsets, self.sizes = array("i"), array("q"), array("q")
        self.members, self.labels, self.captions = Texts(), LabelColumn(), TextLists()
        self.problems: list[Problem] = []
        self.other: set[str] = set()
        self.without = self.repeated = 0

    def read(self, number: int, file: Any, name: str) -> None:
        """Add the samples of one open shard, its members in any order; those before a failure of the disk, too."""
        samples: list[_Sample] = []
        last: dict[str, _Sample] = {}  # the latest sample of each name
        try:
            for member, offset, size, problem in _members(file):
                if problem:
                    self.problems.append(Problem(f"{name}/{member}" if member else name, problem))
                    continue
                folder, _, leaf = member.rpartition("/")
                stem, _, column = leaf.partition(".")
                column = column.lower()
                which, _, kind = column.rpartition(".")
                side = kind in ("cls", "txt", "json")
                if not stem or not (side or is_picture(leaf)):
                    continue
                sample = last.get(key := f"{folder}/{stem}")
                if sample is None or column in sample.columns:
                    sample = last[key] = _Sample(sample.number + 1 if sample else 1)
                    samples.append(sample)
                sample.columns.add(column)
                if not side:
                    sample.pictures.append((member, column, offset, size))
                elif size <= _SIDE_LIMIT:
                    file.seek(offset)
                    sample.said.setdefault(which, _Said()).learn(kind, file.read(size))
        finally:
            self._add(number, samples)

    def _add(self, number: int, samples: Iterable[_Sample]) -> None:
        for sample in samples:
            inputs = sample.inputs()
            self.without += not inputs
            self.repeated += bool(inputs) and sample.number > 1
            self.other.update(one[1] for one in sample.pictures if one not in inputs)
            for member, column, offset, size in inputs:
                said = sample.about(column)
                self.shard.append(number)
                self.offsets.append(offset)
                self.sizes.append(size)
                self.members.append(member if sample.number == 1 else f"{member}#{sample.number}")
                self.labels.append(said.label)
                self.captions.append(said.captions)


def _members(file: Any) -> Iterator[tuple[str, int, int, str]]:
    """Yield (name, offset of the data, size, problem or "") for each file in a tar, as far as it can be read."""
    end = file.seek(0, os.SEEK_END)
    file.seek(0)
    try:
        tar = tarfile.open(fileobj=file, mode="r:", errors="surrogateescape")  # noqa: SIM115
    except tarfile.ReadError as error:
        file.seek(0)
        if file.read(4).startswith((b"\x1f\x8b", b"BZh", b"\xfd7zX", b"\x28\xb5\x2f\xfd")):
            why = "compressed tar cannot be read at random: unpack it to a plain .tar"
        else:
            why = f"not a tar file: {error}" if end else "empty file"
        yield "", 0, 0, why
        return
    with tar:
        while True:
            try:
                member = tar.next()
            except (tarfile.TarError, OSError):
                yield "", 0, 0, _broken(file, tar.offset, end)
                return
            if member is None:
                break
            tar.members = []  # type: ignore[attr-defined]  # tarfile keeps every header otherwise
            if (member.islnk() or member.issym()) and is_picture(member.name):
                yield member.name, 0, 0, f"a link to {member.linkname!r}, not a picture: pack the shard without links"
            if not member.isfile():
                continue
            if member.issparse():
                yield member.name, 0, 0, "stored as a sparse file: pack the shard without --sparse"
            elif member.offset_data + member.size > end:
                yield member.name, 0, 0, "truncated: the shard ends inside this file"
                return
            else:
                yield member.name, member.offset_data, member.size, ""
        if problem := _broken(file, tar.offset, end):
            yield "", 0, 0, problem


def _broken(file: Any, offset: int, end: int) -> str:
    """Say what is wrong with the place where tarfile found no further member: "" at the end mark, a block of zeros."""
    file.seek(offset)
    block = file.read(512)
    if len(block) < 512:
        return f"truncated: the shard ends at byte {end:,} without an end mark; what comes before was read"
    if any(block):
        return f"damaged: no header at byte {offset:,}; what comes before was read"
    while block := file.read(1 << 20):
        if any(block):
            return "more data follow the end mark and were not read: join shards with 'tar --concatenate', not with cat"
    return ""
