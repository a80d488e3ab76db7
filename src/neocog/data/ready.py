"""What stands in for pictures: what a trunk made of them, and what readers make of other inputs; and annotations."""

from __future__ import annotations

import math
import os
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from neocog.data.kinds import Category, Column
from neocog.data.pictures import Gathered, Input, load_all
from neocog.data.reader import Reader
from neocog.data.source import Source
from neocog.data.warp import Warp
from neocog.errors import DataError
from neocog.records import Preprocess, Problem

_PASS = 64 << 20  # bytes of inputs that are evaluated at once


Targets = dict[str, Any]  # name -> tensor (B, ...), or a list of B values


class Known:
    """The annotations of the pictures of a feed, by role of a column.

    Args:
        columns: one row for each picture of the feed.
        collate: makes targets of values by role (int64 (B,) for a category, else a list of B), the warp, and which
            pictures are valid.
        warps: whether `collate` needs the warp.
        keep: bytes up to which a picture's annotation is kept once it was read, where pictures are held; 0: none is.
    """

    def __init__(
        self,
        columns: Mapping[str, Column],
        collate: Callable[[dict[str, Any], Warp | None, Tensor], Targets],
        warps: bool = False,
        keep: int = 0,
    ) -> None:
        self.columns, self.collate, self.warps, self.keep = dict(columns), collate, warps, keep
        self._kept: dict[tuple[str, int], Any] = {}
        self._codes = {
            role: torch.from_numpy(column.codes.astype(np.int64))
            for role, column in self.columns.items()
            if isinstance(column, Category)
        }
        self.slow = any(column.kind == "mask" for column in self.columns.values())  # worth reading ahead

    def values(self, rows: Tensor) -> dict[str, Any]:
        """Values of some pictures. Thread-safe."""
        return {
            role: self._codes[role][rows] if role in self._codes else [self._value(role, int(i)) for i in rows]
            for role in self.columns
        }

    def _value(self, role: str, i: int) -> Any:
        """The annotation of a picture; None where it cannot be read (a damaged mask), which 'neocog check' says."""
        if (role, i) in self._kept:
            return self._kept[role, i]
        try:
            value = self.columns[role][i]
        except DataError:
            return None
        if self.keep and _bytes(value) <= self.keep:
            self._kept[role, i] = value
        return value

    def ahead(self, pool: ThreadPoolExecutor, rows: Tensor) -> Callable[[], dict[str, Any]]:
        """The values of some pictures, read by threads where that takes time."""
        if not self.slow:
            return lambda: self.values(rows)
        jobs = [pool.submit(self.values, row) for row in rows.split(1)]

        def joined() -> dict[str, Any]:
            parts = [job.result() for job in jobs]
            return {
                role: torch.cat([p[role] for p in parts]) if isinstance(first, Tensor) else [p[role][0] for p in parts]
                for role, first in parts[0].items()
            }

        return joined

    def select(self, rows: np.ndarray) -> Known:
        """The same for some of the pictures."""
        return Known({k: c.select(rows) for k, c in self.columns.items()}, self.collate, self.warps, self.keep)


def _bytes(value: Any) -> float:
    """About how much memory an annotation takes; infinite where that is not known."""
    parts = [value] if isinstance(value, np.ndarray) else [getattr(value, name, None) for name in ("corners", "labels")]
    return sum(part.nbytes if isinstance(part, np.ndarray) else math.inf for part in parts)


NOTHING = Known({}, lambda values, warp, valid: {})


class Ready(Input):
    """Inputs of some samples that are no pictures; `pre` has no meaning for what a reader reads.

    `one_pass`: how many are evaluated at once.
    """

    one_pass = 500

    @abstractmethod
    def at(self, rows: Tensor, choice: Tensor | None) -> Tensor:
        """The inputs of some samples (B, ...); `choice`: float (B,) in [0, 1), of several views that one, None: all."""

    def held(self, rows: Tensor, choice: Tensor | None = None) -> Gathered:
        return _placeless(self.at(rows, choice), torch.ones(len(rows), dtype=torch.bool))

    def finish(self, x: Tensor, draws: Tensor | None) -> Tensor:
        """What the net gets of them, on its device; see ``reader.Reader.finish``."""
        return x


def _placeless(x: Tensor, valid: Tensor) -> Gathered:
    places = torch.eye(2, 3, dtype=torch.float64).repeat(len(x), 1, 1)
    return Gathered(x, valid, places, torch.ones(len(x), 2, dtype=torch.int64))


class Vectors(Ready):
    """What a trunk makes of pictures, float32 (N, F), in one or more views, such as plain and mirrored."""

    def __init__(self, views: Sequence[np.ndarray], pre: Preprocess, problems: list[Problem]) -> None:
        super().__init__(pre, problems)
        self.views = torch.from_numpy(np.stack(views))  # (V, N, F)

    def __len__(self) -> int:
        return self.views.shape[1]

    def at(self, rows: Tensor, choice: Tensor | None) -> Tensor:
        """(B, F): one view; without a choice the first."""
        return self.views[0 if choice is None else (choice * len(self.views)).long(), rows]


class Read(Ready):
    """The inputs of some samples of a source as a reader makes them: encoded once and held while they fit into memory,
    else when their batch comes near (`streamed`).

    A sample with several inputs of which one is shown (several texts) is a tuple of them. Those that cannot be read
    stand in `problems`; where inputs are held they are left out, and `kept` says which rows are there.
    """

    def __init__(
        self,
        source: Source,
        rows: np.ndarray,
        reader: Reader,
        pre: Preprocess,
        progress: Callable[[int, int], None] | None = None,
    ) -> None:
        super().__init__(pre)
        self.source, self.rows, self.reader = source, rows, reader
        self.mixes = reader.mixes
        self._held: list[tuple[np.ndarray, ...]] | None = None
        some = [self.read(int(i)) for i in np.linspace(0, len(rows) - 1, min(16, len(rows))).astype(int)]
        there = [one[0] for one in some if one is not None]
        self._like = there[0] if there else None
        size = max((one.nbytes for one in there), default=0)
        self.one_pass = max(1, min(500, _PASS // max(1, size)))
        self.kept = np.arange(len(rows))
        self.streamed = len(rows) * size > free_memory() // 4
        if not self.streamed:
            found: list[tuple[np.ndarray, ...] | None] = [None] * len(rows)

            def load(part: range) -> None:
                for k in part:
                    found[k] = self.read(k)

            load_all(load, len(rows), progress)
            self.kept = np.array([k for k, one in enumerate(found) if one is not None], np.int64)
            self._held = [one for one in found if one is not None]
            self.problems.sort(key=lambda p: p.key)

    @cached_property
    def lengths(self) -> Tensor | None:
        """int64 (N,): the first dimension of each, where they are held and differ."""
        found = torch.tensor([one[0].shape[0] if one[0].ndim else 1 for one in self._held or ()])
        return found if len(found.unique()) > 1 else None

    def __len__(self) -> int:
        return len(self.rows) if self._held is None else len(self._held)

    def read(self, row: int, box: Tensor | None = None, smallest: float = 0.0) -> tuple[np.ndarray, ...] | None:
        """A sample as arrays."""
        if self._held is not None:
            return self._held[row]
        index = int(self.rows[row])
        try:
            raw = self.source.read(index)
            return tuple(map(self.reader.encode, (raw or ("",)) if isinstance(raw, tuple) else (raw,)))
        except (DataError, OSError) as error:
            self.unread(self.source, index, error)
            return None

    def gathered(self, read: list[tuple[np.ndarray, ...] | None], choice: Tensor | None = None) -> Gathered:
        """Samples as one tensor (B, ...); those that could not be read are zeros."""
        numbers = [0.0] * len(read) if choice is None else choice.tolist()
        if self._like is None:
            self._like = next((one[0] for one in read if one is not None), None)
        if self._like is None:
            raise DataError(f"{self.problems[0].key} and all around it cannot be read: {self.problems[0].reason}")
        empty = np.zeros_like(self._like)
        arrays = [empty if one is None else one[int(u * len(one))] for one, u in zip(read, numbers, strict=True)]
        valid = torch.tensor([one is not None for one in read], dtype=torch.bool)
        return _placeless(self.reader.collate(arrays), valid)

    def at(self, rows: Tensor, choice: Tensor | None) -> Tensor:
        return self.gathered([self.read(int(i)) for i in rows], choice).pixels

    def finish(self, x: Tensor, draws: Tensor | None) -> Tensor:
        return self.reader.finish(x, draws)


def free_memory() -> int:
    """Bytes of memory that nobody uses; where the system does not say, 4 GiB."""
    try:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError, AttributeError):
        return 4 << 30


def some_of(texts: Sequence[str], most: int, choice: float) -> tuple[str, ...]:
    """`most` of several texts, one after another from a place that `choice` in [0, 1) says."""
    first = int(choice * len(texts))
    return (*texts[first:], *texts[:first])[:most]
