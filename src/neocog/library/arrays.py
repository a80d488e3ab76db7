"""Vectors and probabilities as arrays: mapped from copies on disk, and kept until the library changes."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa

from neocog.errors import LibraryError
from neocog.library.mirror import hash_bytes, hash_texts, mapped_vectors
from neocog.library.rows import has_model, is_ok

# Bytes up to which vectors are kept as float32 or int8, too: converting float16 takes longer than the product.
_MOST_KEPT = 400 << 20
_BLOCK = 4096


class Arrays:
    """The columns of all models of one library; threads may share it."""

    def __init__(self, folder: Path) -> None:
        """`folder`: where the copies lie (see mirror.py)."""
        self.folder = folder
        self._kept: dict[str, tuple[str, np.ndarray, np.ndarray]] = {}
        self._wide: tuple[tuple[str, str], np.ndarray] | None = None
        self._short: tuple[tuple[str, str], tuple[np.ndarray, np.ndarray]] | None = None
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

        Raises:
            LibraryError: the table has not all of them.
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
        with self._lock:
            if self._wide is None or self._wide[0] != (model, key) or len(self._wide[1]) != len(vectors):
                self._wide = ((model, key), vectors.astype(np.float32))
            return self._wide[1]

    def short(self, name: str, key: str, vectors: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
        """Return the vectors as int8 (N, D) and what each is to be multiplied by, float32 (N,), and keep them.

        None where they are too large. Reading a quarter of the bytes is what makes products fast.
        """
        if vectors.size > _MOST_KEPT:
            return None
        with self._lock:
            if self._short is None or self._short[0] != (name, key) or len(self._short[1][0]) != len(vectors):
                short, scale = np.empty(vectors.shape, np.int8), np.empty(len(vectors), np.float32)
                for start in range(0, len(vectors), _BLOCK):
                    some = vectors[start : start + _BLOCK].astype(np.float32)
                    steps = np.maximum(np.abs(some).max(1, initial=0), 1e-12) / 127
                    scale[start : start + _BLOCK] = steps
                    short[start : start + _BLOCK] = np.rint(some / steps[:, None])
                self._short = ((name, key), (short, scale))
            return self._short[1]

    def clear(self) -> None:
        """Forget everything; the copies on disk stay."""
        with self._lock:
            self._kept.clear()
            self._wide = self._short = None
