"""Near duplicates among hits: shown once, the others behind the best of them."""

from __future__ import annotations

import numpy as np

from neocog.library.view import View

# Near duplicates have perceptual hashes at most this far apart and vectors at least this alike; either alone is not
# enough (see data.duplicates).
_BITS, _ALIKE = 8, 0.93


class Folding:
    """Ranked rows in groups, found as far down as somebody looks: the best, and those that are near duplicates of it.

    Args:
        rows: int64 (R,), the best first.
        model: whose vectors must agree; None folds nothing.
    """

    def __init__(self, view: View, model: str | None, rows: np.ndarray) -> None:
        self._view, self._rows, self._model = view, rows, model
        self._at = 0  # rows that are in a group
        self._groups: list[tuple[int, list[str]]] = []
        if model is None:
            return
        seen, self._vectors = view.vectors(model)
        self._place = np.full(len(view), -1)
        self._place[seen] = np.arange(len(seen))
        self._prints = view.table.column("phash").fill_null(0).to_numpy().astype(np.uint64)
        flat = np.asarray(view.table.column("flat").fill_null(False)).astype(bool)
        self._able = (self._prints != 0) & ~flat & (self._place >= 0)
        self._leaders = np.empty(len(rows), np.int64)  # groups that others may join; the first `_count` count
        self._marks = np.empty(len(rows), np.uint64)  # their hashes
        self._count = 0

    @property
    def folded(self) -> int:
        """Rows that were folded away so far."""
        return self._at - len(self._groups)

    def upto(self, count: int) -> list[tuple[int, list[str]]]:
        """Return the first `count` groups: row, and the hashes that are folded behind it."""
        if self._model is None:
            return [(int(row), []) for row in self._rows[:count]]
        while self._at < len(self._rows):
            row = int(self._rows[self._at])
            leader = self._leader(row) if self._able[row] else -1
            if leader >= 0:
                self._groups[leader][1].append(str(self._view.hashes[row]))
            elif len(self._groups) >= count:
                break
            else:
                self._lead(row)
            self._at += 1
        return self._groups[:count]

    def _leader(self, row: int) -> int:
        near = np.bitwise_count(self._marks[: self._count] ^ self._prints[row]) <= _BITS
        for group in self._leaders[: self._count][near].tolist():
            pair = self._vectors[self._place[[row, self._groups[group][0]]]].astype(np.float32)
            if float(pair[0] @ pair[1]) >= _ALIKE:
                return int(group)
        return -1

    def _lead(self, row: int) -> None:
        if self._able[row]:
            self._leaders[self._count], self._marks[self._count] = len(self._groups), self._prints[row]
            self._count += 1
        self._groups.append((row, []))
