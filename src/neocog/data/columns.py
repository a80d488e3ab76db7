"""Columns that stay small at a million rows: texts, lists and labels as flat arrays instead of Python objects."""

from __future__ import annotations

import os
from array import array
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from neocog.errors import DataError
from neocog.records import SPLITS

PICTURE_ENDINGS = frozenset(
    (
        ".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".bmp", ".dib", ".gif", ".tif", ".tiff",
        ".ppm", ".pgm", ".pbm", ".pnm", ".avif", ".jp2", ".tga", ".heic", ".heif", ".hif",
    )
)  # fmt: skip

_SPLIT_NAMES = {
    "train": 0, "training": 0, "trainset": 0,
    "val": 1, "valid": 1, "validation": 1, "dev": 1, "development": 1, "valset": 1,
    "test": 2, "testing": 2, "tst": 2, "testset": 2,
}  # fmt: skip


def split_code(name: object) -> int:
    """Return the index into `records.SPLITS` that a word such as ``"Valid"`` or ``"dev"`` means, or -1."""
    return _SPLIT_NAMES.get(str(name).strip().lower(), -1)


def split_code_in(stem: str) -> int:
    """Return the split named by one word of a file name (``train-00000-of-00002``), or -1 if none or several are."""
    words = stem.replace("-", " ").replace("_", " ").replace(".", " ").split()
    codes = {code for code in map(split_code, words) if code >= 0}
    return codes.pop() if len(codes) == 1 else -1


def split_of(path: Path, root: Path) -> int:
    """Return the split that a file's name says, else one of its folders below `root`, or -1."""
    folders = path.relative_to(root).parts[:-1]
    code = split_code_in(path.stem)
    return code if code >= 0 else max(map(split_code, folders), default=-1)


def declared(splits: Iterable[int], notes: list[str]) -> np.ndarray:
    """Codes of splits as an array, int8 (N,); a note says which a table declares."""
    codes = np.array(splits, dtype=np.int8)
    if (codes >= 0).any():
        notes.append(f"declared splits: {count_splits(codes)}")
    return codes


def is_picture(name: str | bytes) -> bool:
    """Tell whether a file name ends like a picture that neocog reads, if need be with an extra (HEIC)."""
    if isinstance(name, bytes):
        name = os.fsdecode(name)
    return os.path.splitext(name)[1].lower() in PICTURE_ENDINGS


class Texts:
    """N byte strings in one buffer: 8 bytes and the text itself per row. Append first, then read by index."""

    def __init__(self, rows: Iterable[bytes | str] = ()) -> None:
        self._data = bytearray()
        self._ends = array("q", [0])
        for row in rows:
            self.append(row)

    def append(self, row: bytes | str) -> None:
        """Add one row; text is kept losslessly, undecodable file-name bytes included."""
        self._data += row if isinstance(row, bytes) else row.encode("utf-8", "surrogateescape")
        self._ends.append(len(self._data))

    def __len__(self) -> int:
        return len(self._ends) - 1

    def raw(self, i: int) -> bytes:
        """Return row `i` as bytes."""
        if not 0 <= i < len(self):
            raise IndexError(f"row {i} of {len(self)}")
        return bytes(self._data[self._ends[i] : self._ends[i + 1]])

    def __getitem__(self, i: int) -> str:
        return self.raw(i).decode("utf-8", "surrogateescape")


class LabelColumn:
    """Collects what a table says about labels: nothing, a name, a number, or several of them, one row per picture."""

    def __init__(self, rows: Iterable[object] = ()) -> None:
        self._ids: dict[str | int, int] = {}
        self._seen: list[str | int] = []
        self._values = array("i")
        self._ends = array("q", [0])
        for row in rows:
            self.append(row)

    def append(self, value: object) -> None:
        """Add one row: None, a text, an integer (negative = unlabelled), or a list of texts or integers."""
        rows = value if isinstance(value, (list, tuple, np.ndarray)) else (value,)
        for one in rows:
            plain = _plain(one)
            if plain is not None:
                self._values.append(self._ids.setdefault(plain, len(self._ids)))
        self._ends.append(len(self._values))

    def __len__(self) -> int:
        return len(self._ends) - 1

    def row(self, i: int) -> list[str | int]:
        """Return the labels of row `i` as they came."""
        if len(self._seen) != len(self._ids):
            self._seen = list(self._ids)
        return [self._seen[j] for j in self._values[self._ends[i] : self._ends[i + 1]]]

    def counted(self) -> dict[str | int, int]:
        """Return every label as it came, and how often."""
        times = np.bincount(np.frombuffer(self._values, np.int32), minlength=len(self._ids))
        return dict(zip(self._ids, times.tolist(), strict=True))

    def finish(
        self, classes: Sequence[str] | None = None, *, several: bool = False
    ) -> tuple[tuple[str, ...], np.ndarray, LabelSets | None]:
        """Return (class names, labels int32 (N,), label sets or None).

        With `classes`, integers are indices into it and texts must be among it. Without, integers are ordered by
        value and texts by the alphabet. `several` says that rows are label sets even where each holds one label.

        Raises: DataError: a label is not among `classes`.
        """
        seen = list(self._ids)
        if all(isinstance(one, str) and _is_int(one) for one in seen):
            seen = [int(one) for one in seen]  # a text table writes its numbers as text
        if classes is None:
            if all(isinstance(one, int) for one in seen):
                order: list[str | int] = sorted(set(seen))  # type: ignore[type-var]
            else:
                order = sorted({str(one) for one in seen})
                seen = [str(one) for one in seen]
            place = {one: i for i, one in enumerate(order)}
            names = tuple(str(one) for one in order)
        else:
            names = tuple(str(one) for one in classes)
            place = {name: i for i, name in enumerate(names)}
            for one in seen:
                if one not in place and isinstance(one, int) and 0 <= one < len(names):
                    place[one] = one
                if one not in place:
                    raise DataError(
                        f"label {one!r} is not one of the {len(names)} classes given ({', '.join(names[:5])}, ...): "
                        f"give one of these names or an integer 0..{len(names) - 1}"
                    )
        lookup = np.array([place[one] for one in seen] or [0], dtype=np.int32)
        values = lookup[np.frombuffer(self._values, dtype=np.int32)] if len(self._values) else np.empty(0, np.int32)
        ends = np.frombuffer(self._ends, dtype=np.int64).copy()
        counts = np.diff(ends)
        labels = np.full(len(self), -1, dtype=np.int32)
        one_label = counts == 1
        labels[one_label] = values[ends[:-1][one_label]]
        multi = several or bool((counts > 1).any())
        return names, labels, LabelSets(ends, values, several) if multi else None


def ends_of(counts: np.ndarray | Sequence[int]) -> np.ndarray:
    """For lists held flat, of so many each: where each begins, int64 (N + 1,), the end of the last one last."""
    return np.concatenate(([0], np.cumsum(counts))).astype(np.int64)


def spans(ends: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """For lists held flat (row i is ``ends[i]:ends[i + 1]``): the ends of the rows `rows`, and what they hold."""
    counts = np.diff(ends)[rows]
    made = ends_of(counts)
    return made, np.repeat(ends[:-1][rows] - made[:-1], counts) + np.arange(made[-1])


class LabelSets:
    """The labels of each picture where there can be several: row i is ``values[ends[i]:ends[i + 1]]``.

    `meant`: the table says several at once; otherwise pictures that it names again, with other labels, made them.
    """

    def __init__(self, ends: np.ndarray, values: np.ndarray, meant: bool = True) -> None:
        self.ends, self.values, self.meant = ends, values, meant

    def __len__(self) -> int:
        return len(self.ends) - 1

    def __getitem__(self, i: int) -> np.ndarray:
        return self.values[self.ends[i] : self.ends[i + 1]]

    def select(self, indices: np.ndarray) -> LabelSets:
        """Return the rows `indices`, in that order."""
        ends, where = spans(self.ends, indices)
        return LabelSets(ends, self.values[where], self.meant)


def _plain(value: object) -> str | int | None:
    """Return a label as text or integer, or None where the cell is empty or the number negative."""
    if value is None or isinstance(value, bool):
        return None if value is None else str(value)
    if isinstance(value, (int, np.integer)):
        return int(value) if value >= 0 else None
    if isinstance(value, (float, np.floating)):
        if value != value or value < 0:  # NaN is how pandas writes an empty cell
            return None
        return int(value) if float(value).is_integer() else str(float(value))
    text = (value.decode("utf-8", "surrogateescape") if isinstance(value, bytes) else str(value)).strip()
    if not text or (_is_int(text) and int(text) < 0):
        return None
    return text


def _is_int(text: object) -> bool:
    text = str(text)
    digits = text[1:] if text[:1] == "-" else text
    return digits.isascii() and digits.isdigit() and (digits == "0" or digits[0] != "0")


def count_splits(splits: np.ndarray) -> str:
    """Return "train 50000, test 10000" for the codes of a source, for notes."""
    counts = [(name, int((splits == code).sum())) for code, name in enumerate(SPLITS)]
    return ", ".join(f"{name} {n}" for name, n in counts if n) or "none declared"


def listed(names: Sequence[str], most: int = 8) -> str:
    """Return the first names, quoted, and how many more there are."""
    shown = ", ".join(repr(name) for name in names[:most])
    return shown + (f" and {len(names) - most} more" if len(names) > most else "")
