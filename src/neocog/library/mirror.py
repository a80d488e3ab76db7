"""Copies of a table's columns as plain files, mapped into memory and kept until the library changes: reading them needs
no database.

Opening LanceDB costs a second (1.0 s of processor time to import 0.40.0), more than a whole search by word may take;
mapping a file costs a millisecond. A copy is named after the content that it was made from, so it is either right or
not there; it can be deleted at any time. Where the disk is full or read-only the copy is kept in memory instead.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa

from neocog.errors import LibraryError
from neocog.library.rows import has_model, is_ok, whole

_HEX = 32  # characters of a hash
# Bytes up to which vectors are kept as float32 or int8, too: converting float16 takes longer than the product.
_MOST_KEPT = 400 << 20
_BLOCK = 4096
_PART_AGE = 3600.0  # seconds after which nobody is still writing a copy


def mapped_table(folder: Path, name: str, key: str, make: Callable[[], pa.Table]) -> pa.Table:
    """Return the table kept as ``folder/name-key.arrow``; `make` makes it if it is not there, and it is kept."""
    path = folder / f"{name}-{key}.arrow"
    try:
        return pa.ipc.open_file(pa.memory_map(os.fsencode(path))).read_all()
    except (OSError, pa.ArrowException):
        table = make().combine_chunks()
    part = folder / f".{name}-{uuid.uuid4().hex}.part"
    try:
        folder.mkdir(exist_ok=True)
        with pa.OSFile(os.fsencode(part), "wb") as out, pa.ipc.new_file(out, table.schema) as writer:
            writer.write_table(table)
        os.replace(part, path)
    except (OSError, pa.ArrowException):
        with contextlib.suppress(OSError):
            part.unlink()
        return table
    forget_older(folder, name, path)
    return pa.ipc.open_file(pa.memory_map(os.fsencode(path))).read_all()


def mapped_vectors(
    folder: Path,
    name: str,
    hashes: np.ndarray,
    width: int,
    fetch: Callable[[list[str] | None], Iterator[tuple[np.ndarray, np.ndarray]]],
) -> np.ndarray:
    """Return float16 (N, width), one row for each of `hashes`, "S32" (N,), mapped from ``folder/name-KEY.npy``.

    What an older copy has is taken from it; `fetch` brings the rest: given a list of hashes, or None for everything,
    it yields (hashes, rows). A picture's vector depends on nothing but its content and the model, so a copy never
    goes out of date.
    """
    if not len(hashes):
        return np.zeros((0, width), np.float16)
    key = hashlib.blake2b(hashes.tobytes() + width.to_bytes(4, "little"), digest_size=12).hexdigest()
    path = folder / f"{name}-{key}.npy"
    shape = (len(hashes), width)
    with contextlib.suppress(OSError, ValueError):
        return _mapped(path, shape)
    part = folder / f".{name}-{uuid.uuid4().hex}.part"
    known = path.with_suffix(".hashes")
    try:
        folder.mkdir(exist_ok=True)
        out = _file_of(part, shape)
    except OSError:
        out = np.empty(shape, np.float16)
    try:
        _fill(out, hashes, _older(folder, name, width), fetch)
        if not isinstance(out, np.memmap):
            return out
        try:
            os.replace(part, path)
            known.write_bytes(hashes.tobytes())  # without it the copy is used, but not taken over by the next
        except OSError:
            return out
    finally:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)
    forget_older(folder, name, path, known)
    return _mapped(path, shape)


def _header(shape: tuple[int, int]) -> bytes:
    out = io.BytesIO()
    np.lib.format.write_array_header_1_0(out, {"descr": "<f2", "fortran_order": False, "shape": shape})
    return out.getvalue()


def _mapped(path: Path, shape: tuple[int, int], mode: Literal["r", "r+"] = "r") -> np.ndarray:
    """Map a .npy file of that shape into memory. Raises: OSError, ValueError if it is not there, or another.

    `np.load` would parse the header as Python source, which once failed in three threads at the same time (SystemError:
    AST constructor recursion depth mismatch, Python 3.11); here it is known beforehand.
    """
    header = _header(shape)
    with open(path, "rb") as file:
        if file.read(len(header)) != header:
            raise ValueError(f"{path} is no .npy file of {shape}, float16")
    return np.memmap(path, "<f2", mode, len(header), shape)


def _file_of(path: Path, shape: tuple[int, int]) -> np.ndarray:
    """Make a .npy file whose space is reserved: writing into a mapped file on a full disk would kill the process."""
    try:
        with open(path, "wb") as out:
            out.write(_header(shape))
            start, size = out.tell(), 2 * shape[0] * shape[1]
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(out.fileno(), start, size)
            else:
                out.write(b"\0" * size)
    except OSError:
        with contextlib.suppress(OSError):
            path.unlink(missing_ok=True)
        raise
    return _mapped(path, shape, "r+")


def _fill(
    out: np.ndarray,
    hashes: np.ndarray,
    older: tuple[np.ndarray, np.ndarray] | None,
    fetch: Callable[[list[str] | None], Iterator[tuple[np.ndarray, np.ndarray]]],
) -> None:
    order = np.argsort(hashes, kind="stable")
    ranked = hashes[order]
    missing = np.ones(len(hashes), bool)
    if older is not None:
        old_hashes, old = older
        at, there = _places(ranked, old_hashes)
        for begin in range(0, len(old_hashes), 8192):
            rows = slice(begin, begin + 8192)
            out[order[at[rows][there[rows]]]] = old[rows][there[rows]]
        missing[order[at[there]]] = False
    if not missing.any():
        return
    wanted = [h.decode() for h in hashes[missing]] if missing.sum() <= 2000 else None
    for found, values in fetch(wanted):
        at, there = _places(ranked, found)
        out[order[at[there]]] = values[there]
        missing[order[at[there]]] = False
    if missing.any():
        raise ValueError(f"{int(missing.sum())} of {len(hashes)} vectors are not in the table")


def _places(ranked: np.ndarray, wanted: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where each of `wanted` stands in sorted `ranked`, and whether it does."""
    at = np.searchsorted(ranked, wanted).clip(0, len(ranked) - 1)
    return at, ranked[at] == wanted


def _older(folder: Path, name: str, width: int) -> tuple[np.ndarray, np.ndarray] | None:
    """The newest older copy that is whole: its hashes and its rows."""
    found: list[Path] = []
    with contextlib.suppress(OSError):  # removed by another process meanwhile
        found = sorted(folder.glob(f"{name}-*.hashes"), key=lambda p: p.stat().st_mtime, reverse=True)
    for known in found:
        with contextlib.suppress(OSError, ValueError):
            hashes = np.frombuffer(known.read_bytes(), f"S{_HEX}")
            return hashes, _mapped(known.with_suffix(".npy"), (len(hashes), width))
    return None


def forget_older(folder: Path, name: str, *keep: Path) -> None:
    """Remove the copies of that name, except `keep`."""
    for path in folder.glob(f"{name}-*"):
        if path not in keep and path.name.partition("-")[0] == name:
            with contextlib.suppress(OSError):  # Windows keeps a file that somebody reads
                path.unlink()


def forget_parts(folder: Path) -> None:
    """Remove half-written copies that killed processes left behind."""
    for part in folder.glob(".*.part"):
        with contextlib.suppress(OSError):
            if time.time() - part.stat().st_mtime > _PART_AGE:
                part.unlink()


def hash_bytes(column: pa.Array | pa.ChunkedArray) -> np.ndarray:
    """Return a column of hashes as "S32" (N,)."""
    array = whole(column)
    if not len(array):
        return np.zeros(0, f"S{_HEX}")
    ends = np.frombuffer(array.buffers()[1], np.int32)[array.offset : array.offset + len(array) + 1]
    text = np.frombuffer(array.buffers()[2], np.uint8)[ends[0] : ends[-1]]
    return text.view(f"S{_HEX}")


def hash_texts(hashes: np.ndarray) -> np.ndarray:
    """Return "S32" (N,) as "U32" (N,)."""
    return np.ascontiguousarray(hashes).view(np.uint8).astype(np.uint32).view(f"U{_HEX}").reshape(-1)


class Arrays:
    """The columns of all models of one library; threads may share it."""

    def __init__(self, folder: Path) -> None:
        """`folder`: where the copies lie (see mirror.py)."""
        self.folder = folder
        self._kept: dict[str, tuple[str, np.ndarray, np.ndarray]] = {}
        self._last: dict[str, tuple[tuple[str, str, int], Any]] = {}
        self._lock = threading.Lock()

    def get(
        self,
        column: str,
        width: int,
        made: str,
        key: str,
        rows: Callable[[], pa.Table],
        fetch: Callable[[list[str] | None], Iterator[tuple[np.ndarray, np.ndarray]]],
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return hashes "U32" (N,) and values float16 (N, width) of the pictures that are there and have them.

        Args:
            column: "v_NAME", "p_NAME" or "n_NAME".
            made: tells models of the same name apart, of which one is removed.
            key: changes when the rows do; `rows` gives them, in the order of their hashes.
            fetch: see `mirror.mapped_vectors`.

        Raises: LibraryError: the table has not all of them.
        """
        with self._lock:
            known = self._kept.get(column)
            if known is None or known[0] != key:
                table = rows()
                has = has_model(table, column[2:]) & is_ok(table)
                hashes = hash_bytes(table.column("hash").filter(pa.array(has)))
                try:
                    values = mapped_vectors(self.folder, f"{column}_{made}", hashes, width, fetch)
                except ValueError as error:
                    raise LibraryError(f"{self.folder.parent}: {error}; 'neocog library verify' says more") from None
                known = self._kept[column] = (key, hash_texts(hashes), values)
            return known[1], known[2]

    def wide(self, model: str, key: str, vectors: np.ndarray) -> np.ndarray:
        """Return the vectors as float32, and keep them, if they are small enough; else as they are."""
        if vectors.size * 4 > _MOST_KEPT:
            return vectors
        return self._once("wide", (model, key, len(vectors)), lambda: vectors.astype(np.float32))

    def short(self, name: str, key: str, vectors: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
        """Return the vectors as int8 (N, D) and what each is to be multiplied by, float32 (N,), and keep them.

        None where they are too large. Reading a quarter of the bytes is what makes products fast.
        """
        if vectors.size > _MOST_KEPT:
            return None
        return self._once("short", (name, key, len(vectors)), lambda: _in_bytes(vectors))

    def _once(self, what: str, key: tuple[str, str, int], make: Callable[[], Any]) -> Any:
        with self._lock:
            if what not in self._last or self._last[what][0] != key:
                self._last[what] = key, make()
            return self._last[what][1]

    def clear(self) -> None:
        """Forget everything; the copies on disk stay."""
        with self._lock:
            self._kept.clear()
            self._last.clear()


def _in_bytes(vectors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    short, scale = np.empty(vectors.shape, np.int8), np.empty(len(vectors), np.float32)
    for start in range(0, len(vectors), _BLOCK):
        some = vectors[start : start + _BLOCK].astype(np.float32)
        steps = np.maximum(np.abs(some).max(1, initial=0), 1e-12) / 127
        scale[start : start + _BLOCK] = steps
        short[start : start + _BLOCK] = np.rint(some / steps[:, None])
    return short, scale
