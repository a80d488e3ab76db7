"""Tar shards (WebDataset): members that share a base name are one sample.

Headers are read once when the shards are opened; after that a picture is one `pread` at a known offset, in any
order. Labels come from .cls or .json members, captions from .txt or .json.
"""

from __future__ import annotations

import json
import os
import tarfile
import threading
from array import array
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from neocog.data.columns import LabelColumn, TextLists, Texts, count_splits, is_picture, split_code, split_code_in
from neocog.data.source import Source
from neocog.errors import DataError
from neocog.records import Problem

_SIDE_LIMIT = 1 << 20  # a label or caption file larger than this is something else
_MAX_OPEN = 128
_CLASS_FILES = ("classes.txt", "classnames.txt", "class_names.txt", "labels.txt")


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
        if not hasattr(os, "pread"):
            with open(self.files[number], "rb") as file:
                file.seek(offset)
                return file.read(size)
        handle = self._open.get(number)
        if handle is None:
            with self._lock:
                handle = self._open.get(number)
                if handle is None and len(self._open) < _MAX_OPEN:
                    handle = self._open[number] = os.open(self.files[number], os.O_RDONLY)
        if handle is not None:
            return os.pread(handle, size, offset)
        handle = os.open(self.files[number], os.O_RDONLY)  # beyond the limit: open, read, close
        try:
            return os.pread(handle, size, offset)
        finally:
            os.close(handle)

    def _signature(self, i: int) -> bytes:
        return str(int(self._sizes[i])).encode()


def open_shards(files: Sequence[Path], *, root: Path, name: str, classes: Sequence[str] | None = None) -> Shards:
    """Index tar shards and return them as one source.

    The split comes from a shard's name or folder (``train-0001.tar``, ``val/0001.tar``). Numbers in .cls are indices
    into `classes`, or into a file ``classes.txt`` beside the shards (one name a line).

    Raises:
        DataError: no shard holds a picture, or one is compressed.
    """
    columns = _Columns()
    files = sorted(files, key=lambda path: (path.name, path))
    names = [path.relative_to(root).as_posix() for path in files]
    splits = array("b")
    for number, path in enumerate(files):
        before = len(columns.members)
        columns.index(number, path, names[number])
        code = split_code_in(path.stem)
        for folder in path.relative_to(root).parts[:-1] if code < 0 else ():
            code = max(code, split_code(folder))
        splits.extend(array("b", [code]) * (len(columns.members) - before))
    if not len(columns.members):
        why = f"; {columns.problems[0].key}: {columns.problems[0].reason}" if columns.problems else ""
        raise DataError(
            f"no pictures in {len(files)} tar files of {str(root)!r}{why}; expected members such as 0001.jpg"
        )
    notes = []
    if classes is None:
        classes, found = _class_names(root, files)
        notes += [f"class names taken from {found}"] if found else []
    class_names, labels, several = columns.labels.finish(classes)
    codes = np.frombuffer(splits, dtype=np.int8).copy()
    if (codes >= 0).any():
        notes.append(f"split taken from the shards' names: {count_splits(codes)}")
    if columns.without:
        notes.append(f"{columns.without} samples in the shards have no picture and were left out")
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
        captions=columns.captions if columns.captions.total else None,
    )


class _Columns:
    """What grows while shards are indexed."""

    def __init__(self) -> None:
        self.shard, self.offsets, self.sizes = array("i"), array("q"), array("q")
        self.members, self.labels, self.captions = Texts(), LabelColumn(), TextLists()
        self.problems: list[Problem] = []
        self.without = 0

    def index(self, number: int, path: Path, name: str) -> None:
        """Add the samples of one shard."""
        base: str | None = None
        pictures: list[tuple[str, int, int]] = []
        sides: dict[str, bytes] = {}
        try:
            with open(path, "rb") as file:
                for member, offset, size, problem in _members(file):
                    if problem:
                        self.problems.append(Problem(f"{name}/{member}" if member else name, problem))
                        continue
                    folder, _, leaf = member.rpartition("/")
                    if leaf.startswith("."):
                        continue
                    stem, _, ending = leaf.partition(".")
                    if (one := f"{folder}/{stem}") != base:
                        self._add(number, pictures, sides)
                        base, pictures, sides = one, [], {}
                    if is_picture(leaf):
                        pictures.append((member, offset, size))
                    elif ending.lower() in ("cls", "txt", "json") and size <= _SIDE_LIMIT:
                        sides[ending.lower()] = os.pread(file.fileno(), size, offset) if hasattr(os, "pread") else b""
                self._add(number, pictures, sides)
        except OSError as error:
            self.problems.append(Problem(name, f"shard cannot be read: {error.strerror or error}"))

    def _add(self, number: int, pictures: list[tuple[str, int, int]], sides: dict[str, bytes]) -> None:
        if not pictures:
            self.without += bool(sides)
            return
        label, captions = _meaning(sides)
        for member, offset, size in pictures:
            self.shard.append(number)
            self.offsets.append(offset)
            self.sizes.append(size)
            self.members.append(member)
            self.labels.append(label)
            self.captions.append(captions)


def _members(file: Any) -> Iterator[tuple[str, int, int, str]]:
    """Yield (name, offset of the data, size, problem or "") for each file in a tar, as far as it can be read."""
    end = os.fstat(file.fileno()).st_size
    try:
        tar = tarfile.open(fileobj=file, mode="r:", errors="surrogateescape")  # noqa: SIM115
    except tarfile.ReadError as error:
        start = os.pread(file.fileno(), 4, 0) if hasattr(os, "pread") else b""
        packed = start.startswith((b"\x1f\x8b", b"BZh", b"\xfd7zX", b"\x28\xb5\x2f\xfd"))
        yield (
            "",
            0,
            0,
            "compressed tar cannot be read in any order: unpack it to a plain .tar"
            if packed
            else ("empty file" if not end else f"not a tar file: {error}"),
        )
        return
    with tar:
        while True:
            try:
                member = tar.next()
            except tarfile.TarError as error:
                yield "", 0, 0, f"truncated: {error}; what comes before was read"
                return
            except OSError:
                yield "", 0, 0, "truncated: what comes before was read"
                return
            if member is None:
                break
            tar.members = []  # type: ignore[attr-defined]  # tarfile keeps every header otherwise
            if not member.isfile():
                continue
            if member.offset_data + member.size > end:
                yield member.name, 0, 0, "truncated: the shard ends inside this file"
                return
            yield member.name, member.offset_data, member.size, ""
        if not _has_end(file, end):
            yield "", 0, 0, "truncated: the shard has no end mark; what comes before was read"


def _has_end(file: Any, end: int) -> bool:
    """Tell whether the tar ends with a block of zeros, as every finished tar does."""
    if end < 512:
        return False
    file.seek(end - 512)
    return not any(file.read(512))


def _meaning(sides: dict[str, bytes]) -> tuple[object, list[str]]:
    """Return (label or labels or None, captions) from the members beside a picture."""
    label: object = None
    captions: list[str] = []
    if "json" in sides:
        try:
            facts = json.loads(sides["json"])
        except ValueError:
            facts = {}
        if isinstance(facts, dict):
            for key in ("label", "class", "cls", "labels", "tags", "class_name"):
                if isinstance(facts.get(key), (str, int, list)) and not isinstance(facts.get(key), bool):
                    label = facts[key]
                    break
            for key in ("caption", "captions", "text"):
                value = facts.get(key)
                captions += [value] if isinstance(value, str) else [str(one) for one in value or () if one]
    if "cls" in sides:
        label = sides["cls"].decode("utf-8", "replace").strip() or None
    if "txt" in sides and (text := sides["txt"].decode("utf-8", "replace").strip()):
        captions = [text, *(one for one in captions if one != text)]
    return label, captions


def _class_names(root: Path, files: Sequence[Path]) -> tuple[list[str] | None, str]:
    for folder in dict.fromkeys([root, *(path.parent for path in files[:1])]):
        for name in _CLASS_FILES:
            if (path := folder / name).is_file():
                lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
                return [line.strip() for line in lines if line.strip()], name
    return None, ""
