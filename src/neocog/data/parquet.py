"""Parquet files with the pictures inside: one binary column, or the struct {bytes, path} that data hubs write.

Row groups are read when a picture in them is asked for and kept in a small cache, so memory stays flat however
large the files are; a set of less than 512 MB ends up in memory whole.
"""

from __future__ import annotations

import contextlib
import json
import os
import threading
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np

from neocog.data.columns import LabelColumn, count_splits, split_code, split_of
from neocog.data.decode import inspect
from neocog.data.guess import Guess, guess_columns
from neocog.data.kinds import TextLists
from neocog.data.reader import kind_of
from neocog.data.sniff import sniff
from neocog.data.source import Source
from neocog.data.stores import opened
from neocog.data.targets import described, number
from neocog.errors import DataError, DecodeError
from neocog.records import SPLITS

_WHOLE = 512 << 20  # up to this many encoded bytes everything may stay in memory
_CACHE = 128 << 20  # beyond, this much is kept


@dataclass(frozen=True)
class _Group:
    """One row group of one file, with the rows of the source that it holds: first .. first + rows."""

    file: int
    number: int
    first: int
    rows: int
    size: int


class ParquetPictures(Source):
    """Pictures inside Parquet files; keys are ``train.parquet#17``."""

    def __init__(
        self, files: Sequence[str | Path], names: Sequence[str], column: str, groups: Sequence[_Group], *args, **options
    ) -> None:
        super().__init__(*args, **options)
        self.files, self.column = list(files), column
        self._names = list(names)
        self._groups = list(groups)
        self._firsts = [group.first for group in groups]
        starts: dict[int, int] = {}
        for group in groups:
            starts.setdefault(group.file, group.first)
        self._starts = starts
        total = sum(group.size for group in groups)
        self._budget = total + 1 if total <= _WHOLE else _CACHE
        self._reset()

    def _reset(self) -> None:
        self._cache: OrderedDict[int, tuple[np.ndarray, memoryview, int]] = OrderedDict()
        self._lock = threading.Lock()
        self._locks: dict[int, threading.Lock] = {}
        self._metadata: dict[int, Any] = {}

    def __getstate__(self) -> dict[str, Any]:
        state = self.__dict__.copy()
        for name in ("_cache", "_lock", "_locks", "_metadata"):
            del state[name]
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._reset()

    def _group_of(self, i: int) -> int:
        if not 0 <= i < len(self):
            raise IndexError(f"picture {i} of {len(self)}")
        return bisect_right(self._firsts, i) - 1

    def key(self, i: int) -> str:
        file = self._groups[self._group_of(i)].file
        return f"{self._names[file]}#{i - self._starts[file]}"

    def read(self, i: int) -> bytes:
        number = self._group_of(i)
        offsets, data, _ = self._load(number)
        row = i - self._firsts[number]
        return bytes(data[offsets[row] : offsets[row + 1]])

    def _signature(self, i: int) -> bytes:
        group = self._groups[self._group_of(i)]
        return f"{group.rows} {group.size}".encode()  # sizes of single pictures would mean reading everything

    def _load(self, number: int) -> tuple[np.ndarray, memoryview, int]:
        with self._lock:
            if number in self._cache:
                self._cache.move_to_end(number)
                return self._cache[number]
            lock = self._locks.setdefault(number, threading.Lock())
        with lock:  # two threads that want one row group read it once
            with self._lock:
                if number in self._cache:
                    return self._cache[number]
            loaded = self._read_group(self._groups[number])
            with self._lock:
                self._cache[number] = loaded
                while len(self._cache) > 2 and sum(size for *_, size in self._cache.values()) > self._budget:
                    self._cache.popitem(last=False)
                self._locks.pop(number, None)
            return loaded

    def _read_group(self, group: _Group) -> tuple[np.ndarray, memoryview, int]:
        import pyarrow as pa
        import pyarrow.parquet as pq

        path = self.files[group.file]
        try:
            # opened anew each time: nothing is shared between threads or with forked processes, and the metadata,
            # which is the slow part, is kept
            with pq.ParquetFile(opened(path), metadata=self._metadata.get(group.file), pre_buffer=False) as file:
                self._metadata.setdefault(group.file, file.metadata)
                table = file.read_row_group(group.number, columns=[self.column], use_threads=False)
        except (OSError, pa.ArrowException) as error:
            raise DataError(f"{path}: row group {group.number} cannot be read: {error}") from error
        chunks = table.column(0)
        if pa.types.is_struct(chunks.type):
            chunks = pa.chunked_array([chunk.field("bytes") for chunk in chunks.chunks])
        array = chunks.cast(pa.large_binary()).combine_chunks()
        if isinstance(array, pa.ChunkedArray):
            array = array.chunk(0) if array.num_chunks else pa.array([], pa.large_binary())
        if array.null_count:
            array = array.fill_null(b"")
        _, offsets, data = array.buffers()
        ends = np.frombuffer(offsets, dtype=np.int64)[array.offset : array.offset + len(array) + 1]
        return ends, memoryview(data) if data is not None else memoryview(b""), int(ends[-1] - ends[0])


def picture_rows(place: str) -> ParquetPictures:
    """Open one Parquet file, also of a store, for its pictures alone: the column whose first cell is one.

    Raises: DataError: it cannot be read, or has no picture.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(opened(place)) as file:
            binary = binary_columns(place)
            found = _of_pictures(file, binary) if binary else []
            if file.metadata.num_rows and not found:
                raise DataError("no column of this Parquet file holds pictures")
            column = found[0] if found else ""
            sizes = _sizes(file.metadata, column)
            counts = [file.metadata.row_group(i).num_rows for i in range(len(sizes))]
            if found and pa.types.is_struct(file.schema_arrow.field(column).type):
                column = f"{column}.bytes"
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"expected a Parquet file, but it cannot be read: {error}") from error
    firsts = [0, *accumulate(counts)]
    groups = [_Group(0, i, firsts[i], n, sizes[i]) for i, n in enumerate(counts) if n]
    return _bare([place], [place], column, groups, place)


def _bare(
    files: Sequence[str | Path], names: Sequence[str], column: str, groups: Sequence[_Group], name: str
) -> ParquetPictures:
    """The pictures of a column, and nothing else."""
    nothing = np.full(sum(group.rows for group in groups), -1, dtype=np.int8)
    return ParquetPictures(files, names, column, groups, name, (), nothing, nothing)


def binary_columns(path: str | Path) -> list[str]:
    """Return the names of the columns that hold pictures: binary, or a struct with a binary field `bytes`."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    def binary(kind: Any) -> bool:
        if pa.types.is_struct(kind):
            return any(field.name == "bytes" and binary(field.type) for field in kind)
        return pa.types.is_binary(kind) or pa.types.is_large_binary(kind)

    try:
        return [field.name for field in pq.read_schema(opened(path)) if binary(field.type)]
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"{path}: expected a Parquet file, but it cannot be read: {error}") from error


def open_parquet(
    files: Sequence[Path],
    *,
    root: Path,
    name: str,
    columns: Mapping[str, str] | None = None,
    classes: Sequence[str] | None = None,
) -> ParquetPictures:
    """Open Parquet files with embedded pictures as one source.

    The split comes from a split column, else from the file's name or its folder's (``train-00000.parquet``,
    ``test/0.parquet``). Class names come from `classes`, from the file's metadata (`classes` as a JSON list, or the
    features that data hubs write), or from a column with the name of each numbered class.

    Raises: DataError: unreadable file, or ambiguous columns.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    files = sorted(files, key=lambda path: (split_of(path, root) % (len(SPLITS) + 1), path))  # training first
    guess: Guess | None = None
    labels, captions = LabelColumn(), TextLists()
    splits: list[np.ndarray] = []
    groups: list[_Group] = []
    label_names: dict[object, set[str]] = {}
    first = 0
    table_rows: list[Any] = []  # of the columns that say more than a label
    label_cells: list[Any] = []
    for number_of_file, path in enumerate(files):
        try:
            with pq.ParquetFile(opened(path)) as file:
                schema = file.schema_arrow
                if guess is None:
                    guess = _guess(file, binary_columns(path), columns, str(path))
                    named = classes or _classes_in(schema, guess.label)
                    classes = named if guess.label and not guess.boxes else None
                wanted = guess.wanted
                if missing := [one for one in [guess.path, *wanted] if one not in schema.names]:
                    raise DataError(
                        f"{path}: column {missing[0]!r} of the first file is missing here; it has "
                        f"{', '.join(schema.names)}; files of one source must have the same columns"
                    )
                sizes = _sizes(file.metadata, guess.path)
                for i in range(file.metadata.num_row_groups):
                    rows = file.metadata.row_group(i).num_rows
                    if rows:
                        groups.append(_Group(number_of_file, i, first, rows, sizes[i]))
                    first += rows
                rows = file.metadata.num_rows
                table = file.read(columns=wanted, use_threads=False) if wanted else None
        except (OSError, pa.ArrowException) as error:
            raise DataError(f"{path}: expected a Parquet file, but it cannot be read: {error}") from error
        _append_rows(table, rows, guess, labels, captions, label_names)
        if table is not None and guess.targets:
            table_rows += table.select(list(guess.targets)).to_pylist()
        if table is not None and guess.label:
            label_cells.append(table.column(guess.label))
        if guess.split and table is not None:
            splits.append(np.array([split_code(one) for one in table.column(guess.split).to_pylist()], dtype=np.int8))
        else:
            splits.append(np.full(rows, split_of(path, root), dtype=np.int8))
    if guess is None or not first:
        raise DataError(f"{root}: no pictures in {len(files)} Parquet files")
    notes = list(guess.notes)
    split_codes = np.concatenate(splits)
    if (split_codes >= 0).any() and not guess.split:
        notes.append(f"split taken from the file names: {count_splits(split_codes)}")
    shown = [path.relative_to(root).as_posix() for path in files]

    def inner(column: str) -> str:
        return f"{column}.bytes" if pa.types.is_struct(schema.field(column).type) else column

    inputs, mask = _bare(files, shown, inner(guess.path), groups, name), None
    if guess.masks and guess.masks[0] in binary_columns(files[0]):
        mask = _bare(files, shown, inner(guess.masks[0]), groups, name)
        mark = " ".join(str(os.stat(path).st_size) for path in files)
        table_rows = [{**row, guess.masks[0]: mark} for row in table_rows or [{}] * first]
    facts = described(
        name,
        guess,
        labels,
        [[row] for row in table_rows],
        notes,
        numbers=lambda: (number(cell) for part in label_cells for cell in part.to_pylist()),
        known=np.concatenate([part.is_valid().to_numpy() for part in label_cells] or [np.zeros(0, bool)]),
        names=label_names,
        several=guess.several,
        classes=classes,
        box_classes=named,
        size=lambda i: _size_of(inputs.read(i)),
        mask=None if mask is None else mask.read,
        point_names=_point_names(schema),
    )
    captioned = captions if guess.captions else None
    source = ParquetPictures(
        files, shown, inputs.column, groups, splits=split_codes, notes=notes, captions=captioned, **facts
    )
    source.kind = kind_of(source.read(0)[:64])
    return source


def _size_of(data: bytes) -> tuple[int, int]:
    info = inspect(data)
    return info.width, info.height


def _point_names(schema: Any) -> list[str] | None:
    try:
        names = json.loads((schema.metadata or {})[b"points"])
    except (KeyError, ValueError):
        return None
    return [str(one) for one in names] if isinstance(names, list) else None


def _guess(file: Any, pictures: list[str], columns: Mapping[str, str] | None, where: str) -> Guess:
    schema = file.schema_arrow
    few = [one.name for one in schema if one.name not in pictures]
    batch = next(file.iter_batches(batch_size=64, columns=few), None) if few else None
    head = batch.to_pydict() if batch is not None else {}
    cells = {name: [one for one in head.get(name, ()) if one not in (None, "")] for name in schema.names}
    likely = _of_pictures(file, pictures) if len(pictures) > 1 else ()
    return guess_columns(cells, columns, where=where, pictures=pictures, looks_like_path=likely)


def _of_pictures(file: Any, columns: list[str]) -> list[str]:
    """Return the binary columns whose first cell is a picture: labels may be bytes, too."""
    found = []
    for row in next(file.iter_batches(batch_size=1, columns=columns)).to_pylist() if file.metadata.num_rows else ():
        for name, cell in row.items():
            data = cell.get("bytes") if isinstance(cell, dict) else cell
            with contextlib.suppress(DecodeError):
                sniff(data or b"")
                found.append(name)
    return found


def _append_rows(
    table: Any, rows: int, guess: Guess, labels: LabelColumn, captions: TextLists, names: dict[object, set[str]]
) -> None:
    kept = [guess.label] if guess.label else list(guess.flags)
    for row in table.select(kept).to_pylist() if kept else [{}] * rows:
        labels.append(guess.labels(row))
    if guess.label_name:
        values = table.column(guess.label).to_pylist()
        for value, text in zip(values, table.column(guess.label_name).to_pylist(), strict=True):
            names.setdefault(str(value), set()).add(str(text))
    if guess.captions:
        texts = [table.column(one).to_pylist() for one in guess.captions]
        for cells in zip(*texts, strict=True):
            captions.append(guess.caption_list(cells))


def _sizes(metadata: Any, column: str) -> list[int]:
    """Return the uncompressed bytes of a column in each row group."""
    sizes = []
    for i in range(metadata.num_row_groups):
        group = metadata.row_group(i)
        chunks = [group.column(j) for j in range(group.num_columns)]
        sizes.append(sum(c.total_uncompressed_size for c in chunks if c.path_in_schema in (column, f"{column}.bytes")))
    return sizes


def _classes_in(schema: Any, label: str | None) -> list[str] | None:
    metadata = {key.decode(): value for key, value in (schema.metadata or {}).items()}
    try:
        if "classes" in metadata:
            return [str(one) for one in json.loads(metadata["classes"])]
        feature = json.loads(metadata["huggingface"])["info"]["features"][label]
        return list(feature.get("names") or feature["feature"]["names"])
    except (KeyError, ValueError, TypeError, AttributeError):
        return None
