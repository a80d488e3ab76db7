"""Columns: one thing that is known of every sample of a source, held compactly. One class for each kind.

=============  =====================================================  ========================================
kind           value of one sample                                    made by
=============  =====================================================  ========================================
category       int, index into `names`; -1 = not known                `Category`
categories     float32 (K,): 1 has it, 0 has not, nan = not known     `Categories`
number         float64 (D,), nan = not known                          `Numbers`
boxes          `BoxSet`, in pixels of the upright picture             `Boxes`
points         float32 (P, 3): x, y, 0 not known | 1 hidden | 2 seen  `Points`
mask           uint8 (H, W), index into `names`; 255 = not labelled   `Masks`
texts          tuple of str                                           `TextLists`
sequence       int32 (L,), a class for each word; -1 = not known      `Sequences`
picture        bytes or uint8 array: a further picture                `Pictures`
=============  =====================================================  ========================================

Without annotation it is None (category: -1). Coordinates are those of the upright picture, x to the right and y down,
pixel i covering [i, i + 1); x1 and y1 of a box are exclusive.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from array import array
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

from neocog.data.columns import LabelSets, Texts, ends_of, spans
from neocog.errors import DataError
from neocog.names import shown

NOT_LABELLED = 255  # of a mask's pixels


class Column(ABC):
    """One thing that is known of every sample; `names`: its classes, points, or numbers."""

    kind: str
    names: tuple[str, ...] = ()
    _present: np.ndarray

    def __len__(self) -> int:
        return len(self.known)

    @abstractmethod
    def __getitem__(self, i: int) -> Any: ...

    @property
    def known(self) -> np.ndarray:
        """bool (N,): of which samples something is known."""
        return self._present

    @abstractmethod
    def select(self, rows: np.ndarray) -> Column:
        """The samples `rows`, in that order."""

    @abstractmethod
    def fingerprint(self) -> bytes:
        """Stands for all values; enough to notice that annotations have changed."""


def _flags(count: int, given: np.ndarray | None, usual: bool = True) -> np.ndarray:
    return np.full(count, usual) if given is None else np.asarray(given, dtype=bool)


def digest(*parts: Any) -> bytes:
    """sha256 over arrays, texts and bytes."""
    made = hashlib.sha256()
    for part in parts:
        if isinstance(part, np.ndarray):
            made.update(f"{part.dtype} {part.shape}\0".encode() + np.ascontiguousarray(part).tobytes())
        else:
            made.update((part if isinstance(part, bytes) else str(part).encode("utf-8", "surrogateescape")) + b"\0")
    return made.digest()


class Category(Column):
    """One class for each sample: codes int32 (N,), -1 = not known."""

    kind = "category"

    def __init__(self, codes: np.ndarray, names: Sequence[str]) -> None:
        self.codes, self.names = np.ascontiguousarray(codes, dtype=np.int32), tuple(names)

    @classmethod
    def of(cls, cells: Iterable[str | None]) -> Category:
        """A column of texts, None where nothing is known; the names are sorted."""
        every = list(cells)
        place = {name: k for k, name in enumerate(sorted({cell for cell in every if cell is not None}))}
        return cls(np.array([-1 if cell is None else place[cell] for cell in every]), tuple(place))

    def __getitem__(self, i: int) -> int:
        return int(self.codes[i])

    @property
    def known(self) -> np.ndarray:
        return self.codes >= 0

    def select(self, rows: np.ndarray) -> Category:
        return Category(self.codes[rows], self.names)

    def fingerprint(self) -> bytes:
        return digest(*self.names, self.codes)


class Categories(Column):
    """Several classes for each sample, or none.

    Args:
        sets: the classes that each sample has.
        unknown: the classes of which nobody has said whether a sample has them; None: all others are absent.
        present: bool (N,), of which samples anything is known; None: of all.
    """

    kind = "categories"

    def __init__(
        self,
        sets: LabelSets,
        names: Sequence[str],
        unknown: LabelSets | None = None,
        present: np.ndarray | None = None,
    ) -> None:
        self.sets, self.names, self.unknown = sets, tuple(names), unknown
        self._present = _flags(len(sets), present)

    def __getitem__(self, i: int) -> np.ndarray | None:
        if not self._present[i]:
            return None
        row = np.zeros(len(self.names), dtype=np.float32)
        if self.unknown is not None:
            row[self.unknown[i]] = np.nan
        row[self.sets[i]] = 1.0
        return row

    def select(self, rows: np.ndarray) -> Categories:
        unknown = None if self.unknown is None else self.unknown.select(rows)
        return Categories(self.sets.select(rows), self.names, unknown, self._present[rows])

    def fingerprint(self) -> bytes:
        more = () if self.unknown is None else (self.unknown.ends, self.unknown.values)
        return digest(*self.names, self.sets.ends, self.sets.values, self._present, *more)


class Numbers(Column):
    """One or more numbers for each sample: values float64 (N, D), nan = not known.

    `periods`: for each number None, or the length after which it begins anew (360 for degrees).
    """

    kind = "number"

    def __init__(self, values: np.ndarray, names: Sequence[str], periods: Sequence[float | None] = ()) -> None:
        self.values = np.asarray(values, dtype=np.float64).reshape(-1, len(names))
        self.names = tuple(names)
        self.periods = tuple(periods) or (None,) * len(self.names)

    def __getitem__(self, i: int) -> np.ndarray | None:
        row = self.values[i]
        return None if np.isnan(row).all() else row

    @property
    def known(self) -> np.ndarray:
        return np.asarray(~np.isnan(self.values).all(axis=1))

    def select(self, rows: np.ndarray) -> Numbers:
        return Numbers(self.values[rows], self.names, self.periods)

    def fingerprint(self) -> bytes:
        return digest(*self.names, *self.periods, self.values)


class BoxSet(NamedTuple):
    """The boxes of one sample: corners float32 (M, 4) x0 y0 x1 y1, classes int32 (M,), ignored bool (M,)."""

    corners: np.ndarray
    labels: np.ndarray
    ignored: np.ndarray  # crowds and difficult ones: neither to be found nor wrong if found


_NO_BOXES = BoxSet(np.zeros((0, 4), np.float32), np.zeros(0, np.int32), np.zeros(0, bool))


class Boxes(Column):
    """Any number of boxes for each sample, flat: sample i has the boxes ``ends[i]:ends[i + 1]``.

    `present`: bool (N,), which samples were looked at; one without boxes is empty, one not looked at is unknown.
    """

    kind = "boxes"

    def __init__(
        self,
        ends: np.ndarray,
        corners: np.ndarray,
        labels: np.ndarray,
        names: Sequence[str],
        ignored: np.ndarray | None = None,
        present: np.ndarray | None = None,
    ) -> None:
        self.ends, self.labels, self.names = np.asarray(ends, np.int64), np.asarray(labels, np.int32), tuple(names)
        self.corners = np.asarray(corners, dtype=np.float32).reshape(-1, 4)
        self.ignored, self._present = _flags(len(self.labels), ignored, False), _flags(len(self.ends) - 1, present)
        if not len(self.corners) == len(self.labels) == len(self.ignored) == self.ends[-1]:
            counts = f"{len(self.corners)} boxes, {len(self.labels)} labels and ends up to {self.ends[-1]}"
            raise DataError(f"{counts}: expected as many of each")

    @staticmethod
    def of(rows: Iterable[BoxSet | None], names: Sequence[str]) -> Boxes:
        """The column of these rows; None where a sample was not looked at."""
        every = list(rows)
        sets = [_NO_BOXES if row is None or not len(row.labels) else row for row in every]
        corners, labels, ignored = (np.concatenate([one[k] for one in (*sets, _NO_BOXES)]) for k in range(3))
        present = np.array([row is not None for row in every], dtype=bool)
        return Boxes(ends_of([len(one.labels) for one in sets]), corners, labels, names, ignored, present)

    def __getitem__(self, i: int) -> BoxSet | None:
        if not self._present[i]:
            return None
        part = slice(self.ends[i], self.ends[i + 1])
        return BoxSet(self.corners[part], self.labels[part], self.ignored[part])

    def select(self, rows: np.ndarray) -> Boxes:
        ends, chosen = spans(self.ends, rows)
        more = (self.ignored[chosen], self._present[rows])
        return Boxes(ends, self.corners[chosen], self.labels[chosen], self.names, *more)

    def fingerprint(self) -> bytes:
        return digest(*self.names, self.ends, self.corners, self.labels, self.ignored, self._present)


class Points(Column):
    """Named points of each sample: values float32 (N, P, 3), the last number as COCO has it (see the module).

    `swap`: for each point the index of its mirror partner (left eye, right eye), itself where it has none.
    """

    kind = "points"

    def __init__(self, values: np.ndarray, names: Sequence[str], swap: Sequence[int] | None = None) -> None:
        self.values = np.asarray(values, dtype=np.float32).reshape(-1, len(names), 3)
        self.names = tuple(names)
        self.swap = tuple(range(len(self.names))) if swap is None else tuple(swap)

    def __getitem__(self, i: int) -> np.ndarray | None:
        row = self.values[i]
        return row if (row[:, 2] > 0).any() else None

    @property
    def known(self) -> np.ndarray:
        return np.asarray((self.values[:, :, 2] > 0).any(axis=1))

    def select(self, rows: np.ndarray) -> Points:
        return Points(self.values[rows], self.names, self.swap)

    def fingerprint(self) -> bytes:
        return digest(*self.names, *self.swap, self.values)


class Masks(Column):
    """A class for each pixel, read when needed.

    Args:
        read: gives uint8 (H, W) of a sample, index into `names`, 255 = not labelled; thread-safe; raises DataError.
        count: number of samples.
        names: classes.
        colours: RGB of each class, for drawing; None: chosen.
        present: bool (N,), which samples have a mask; None: all.
        mark: stands for the content (names and sizes of files, say) in the fingerprint.
        odd: what a sample's mask holds that is no class, for `check`.
    """

    kind = "mask"

    def __init__(
        self,
        read: Callable[[int], np.ndarray],
        count: int,
        names: Sequence[str],
        colours: Sequence[tuple[int, int, int]] | None = None,
        present: np.ndarray | None = None,
        mark: bytes = b"",
        odd: Callable[[int], list[str]] | None = None,
    ) -> None:
        self._read, self.names, self.mark, self.odd = read, tuple(names), mark, odd
        self.colours, self._present = None if colours is None else tuple(colours), _flags(count, present)

    def __getitem__(self, i: int) -> np.ndarray | None:
        return self._read(int(i)) if self._present[i] else None

    def select(self, rows: np.ndarray) -> Masks:
        read, odd, chosen = self._read, self.odd, np.asarray(rows)
        return Masks(
            lambda i: read(int(chosen[i])),
            len(chosen),
            self.names,
            self.colours,
            self._present[chosen],
            digest(self.mark, chosen.astype(np.int64)),
            None if odd is None else lambda i: odd(int(chosen[i])),
        )

    def fingerprint(self) -> bytes:
        return digest(*self.names, self._present, self.mark)


class TextLists(Column):
    """Any number of texts for each sample, such as its captions, flat. Append first, then read by index."""

    kind = "texts"

    def __init__(self, rows: Iterable[Sequence[str]] = ()) -> None:
        self._texts = Texts()
        self._ends = array("q", [0])
        for row in rows:
            self.append(row)

    def append(self, row: Sequence[str]) -> None:
        """Add the texts of one sample."""
        for text in row:
            self._texts.append(shown(text))
        self._ends.append(len(self._texts))

    def __len__(self) -> int:
        return len(self._ends) - 1

    def __getitem__(self, i: int) -> tuple[str, ...]:
        return tuple(self._texts[j] for j in range(self._ends[i], self._ends[i + 1]))

    @property
    def known(self) -> np.ndarray:
        return np.array([bool(self[i]) for i in range(len(self))], dtype=bool)

    def select(self, rows: np.ndarray) -> TextLists:
        return TextLists(self[int(i)] for i in rows)

    def fingerprint(self) -> bytes:
        return digest(*(text for i in range(len(self)) for text in (*self[i], "")))


class Sequences(Column):
    """A class for each word of a text, flat: codes int32 (M,), sample i has ``ends[i]:ends[i + 1]``."""

    kind = "sequence"

    def __init__(self, ends: np.ndarray, codes: np.ndarray, names: Sequence[str]) -> None:
        self.ends, self.codes, self.names = np.asarray(ends, np.int64), np.asarray(codes, np.int32), tuple(names)

    @classmethod
    def of(cls, rows: Iterable[Sequence[str]], names: Sequence[str] | None = None) -> Sequences:
        """The column of these classes by name; `names`: in this order, else sorted. Raises: DataError: another name."""
        every = list(rows)
        names = sorted({one for row in every for one in row}) if names is None else names
        place = {name: k for k, name in enumerate(names)}
        try:
            codes = [place[one] for row in every for one in row]
        except KeyError as error:
            raise DataError(f"unknown class {error}; expected one of {', '.join(names[:9])}") from None
        return cls(ends_of(list(map(len, every))), np.array(codes, np.int32), names)

    def __getitem__(self, i: int) -> np.ndarray:
        return self.codes[self.ends[i] : self.ends[i + 1]]

    @property
    def known(self) -> np.ndarray:
        return np.asarray(np.diff(self.ends) > 0)

    def select(self, rows: np.ndarray) -> Sequences:
        ends, chosen = spans(self.ends, rows)
        return Sequences(ends, self.codes[chosen], self.names)

    def fingerprint(self) -> bytes:
        return digest(*self.names, self.ends, self.codes)


class Pictures(Column):
    """A further picture of each sample, read when needed, for questions about two of them.

    Args:
        read: gives encoded bytes or uint8 pixels of a sample; thread-safe; raises DataError.
        key: the name of a sample's further picture.
    """

    kind = "picture"

    def __init__(self, read: Callable[[int], bytes | np.ndarray], key: Callable[[int], str], count: int) -> None:
        self._read, self.key, self._present = read, key, np.ones(count, dtype=bool)

    def __getitem__(self, i: int) -> bytes | np.ndarray:
        return self._read(int(i))

    def select(self, rows: np.ndarray) -> Pictures:
        read, key, chosen = self._read, self.key, np.asarray(rows)
        return Pictures(lambda i: read(int(chosen[i])), lambda i: key(int(chosen[i])), len(chosen))

    def fingerprint(self) -> bytes:
        return digest(*(self.key(i) for i in range(len(self))))
