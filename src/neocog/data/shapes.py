"""Outlines of things: polygons and run lengths, held flat, and painted into masks.

A pixel belongs to a polygon if its centre lies inside (even-odd rule). Run lengths are those of COCO: pixels column by
column, runs of 0 and of 1 in turn, the first of 0; as numbers, or in COCO's text form.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from neocog.data.columns import spans
from neocog.data.kinds import NOT_LABELLED, Boxes, Masks, digest
from neocog.errors import DataError


class Runs:
    """Run lengths uint32 of a mask of `size` (height, width)."""

    def __init__(self, counts: Sequence[int] | np.ndarray | str | bytes, size: tuple[int, int]) -> None:
        self.counts = from_text(counts) if isinstance(counts, (str, bytes)) else np.asarray(counts, dtype=np.uint32)
        self.size = (int(size[0]), int(size[1]))
        if int(self.counts.sum(dtype=np.int64)) != self.size[0] * self.size[1]:
            raise DataError(
                f"run lengths of {int(self.counts.sum(dtype=np.int64)):,} pixels, expected {size[0]} x {size[1]}"
            )

    @staticmethod
    def of(mask: np.ndarray) -> Runs:
        """The run lengths of a mask, bool (H, W)."""
        flat = np.asarray(mask, dtype=bool).T.ravel()
        edges = np.flatnonzero(np.diff(flat)) + 1
        counts = np.diff(np.concatenate(([0], edges, [len(flat)])))
        if len(flat) and flat[0]:
            counts = np.concatenate(([0], counts))
        return Runs(counts, mask.shape)  # type: ignore[arg-type]

    def mask(self) -> np.ndarray:
        """Bool (H, W)."""
        flat = np.repeat(np.arange(len(self.counts)) % 2 == 1, self.counts)
        return flat.reshape(self.size[1], self.size[0]).T


def from_text(text: str | bytes) -> np.ndarray:
    """Run lengths uint32 of COCO's text: 5 bits a character, each number from the third on less the one before last.

    Raises: DataError: the text ends in the middle of a number, or has other characters.
    """
    raw = text.encode() if isinstance(text, str) else text
    counts: list[int] = []
    value = shift = 0
    for byte in raw:
        bits = byte - 48
        if not 0 <= bits < 64:
            raise DataError(f"run lengths hold the character {chr(byte)!r}")
        value |= (bits & 31) << shift
        shift += 5
        if bits & 32:
            continue
        if bits & 16:
            value -= 1 << shift
        counts.append(value + (counts[-2] if len(counts) > 2 else 0))
        value = shift = 0
    if shift or (counts and min(counts) < 0):
        raise DataError("run lengths are truncated or damaged")
    return np.array(counts, dtype=np.uint32)


def to_text(counts: Iterable[int]) -> str:
    """COCO's text of run lengths."""
    numbers, out = [int(one) for one in counts], []
    for i, number in enumerate(numbers):
        value = number - (numbers[i - 2] if i > 2 else 0)
        while True:
            bits, value = value & 31, value >> 5
            more = value != (-1 if bits & 16 else 0)
            out.append(chr(bits + 48 + (32 if more else 0)))
            if not more:
                break
    return "".join(out)


def filled(ring: np.ndarray, height: int, width: int) -> tuple[slice, slice, np.ndarray]:
    """Which pixels have their centre inside a polygon (K, 2): rows, columns, and bool of those."""
    x, y = ring[:, 0].astype(np.float64), ring[:, 1].astype(np.float64)
    top, bottom = max(0, int(np.floor(y.min()))), min(height, int(np.ceil(y.max())))
    left, right = max(0, int(np.floor(x.min()))), min(width, int(np.ceil(x.max())))
    if top >= bottom or left >= right:
        return slice(0, 0), slice(0, 0), np.zeros((0, 0), dtype=bool)
    centres = np.arange(top, bottom)[:, None] + 0.5  # (rows, 1)
    x1, y1 = np.roll(x, -1), np.roll(y, -1)
    crossing = (y <= centres) != (y1 <= centres)  # (rows, K)
    with np.errstate(divide="ignore", invalid="ignore"):
        at = x + (centres - y) * (x1 - x) / (y1 - y)
    rows, edges = np.nonzero(crossing)
    # every crossing turns over the pixels whose centre is to the right of it
    first = np.ceil(at[rows, edges] - 0.5).clip(left, right).astype(int) - left
    turns = np.zeros((bottom - top, right - left + 1), dtype=np.int32)
    np.add.at(turns, (rows, first), 1)
    return slice(top, bottom), slice(left, right), turns[:, :-1].cumsum(1) % 2 == 1


class Shapes:
    """The outlines of M things, flat: thing j has the pieces ``ends[j]:ends[j + 1]``, polygons or runs; or none."""

    def __init__(self, ends: np.ndarray, starts: np.ndarray, runs: np.ndarray, numbers: np.ndarray) -> None:
        self.ends, self.starts, self.runs, self.numbers = ends, starts, runs, numbers

    @staticmethod
    def of(things: Iterable[Sequence[np.ndarray | Runs]]) -> Shapes:
        """Hold these: for each thing its polygons (K, 2) and runs."""
        ends, starts, runs = [0], [0], []
        parts: list[np.ndarray] = []
        for pieces in things:
            for piece in pieces:
                if isinstance(piece, Runs):
                    made = np.concatenate((np.array(piece.size, dtype=np.uint32), piece.counts)).view(np.float32)
                else:
                    made = np.asarray(piece, dtype=np.float32).ravel()
                parts.append(made)
                runs.append(isinstance(piece, Runs))
                starts.append(starts[-1] + len(made))
            ends.append(len(runs))
        numbers = np.concatenate(parts) if parts else np.zeros(0, np.float32)
        return Shapes(np.array(ends), np.array(starts), np.array(runs, dtype=bool), numbers)

    def __len__(self) -> int:
        return len(self.ends) - 1

    def __getitem__(self, j: int) -> list[np.ndarray | Runs]:
        pieces: list[np.ndarray | Runs] = []
        for k in range(self.ends[j], self.ends[j + 1]):
            part = self.numbers[self.starts[k] : self.starts[k + 1]]
            if self.runs[k]:
                whole = part.view(np.uint32)
                pieces.append(Runs(whole[2:], (int(whole[0]), int(whole[1]))))
            else:
                pieces.append(part.reshape(-1, 2))
        return pieces

    def paint(self, j: int, mask: np.ndarray, value: int) -> None:
        """Write `value` where thing `j` is."""
        height, width = mask.shape
        for piece in self[j]:
            if isinstance(piece, Runs):
                there = piece.mask()[:height, :width]
                mask[: there.shape[0], : there.shape[1]][there] = value
            else:
                rows, columns, there = filled(piece, height, width)
                mask[rows, columns][there] = value

    def select(self, rows: np.ndarray) -> Shapes:
        """The things `rows`, in that order."""
        ends, pieces = spans(self.ends, rows)
        starts, numbers = spans(self.starts, pieces)
        return Shapes(ends, starts, self.runs[pieces], self.numbers[numbers])


class ShapeMasks(Masks):
    """Masks painted from outlines: class k of the boxes is k + 1, 0 is the background; small things over large ones.

    Args:
        boxes: of the same things in the same order; where the class is -1, pixels are not labelled.
        shapes: their outlines.
        sizes: int (N, 2), width and height of each picture; 0: unknown, then there is no mask.
    """

    def __init__(self, boxes: Boxes, shapes: Shapes, sizes: np.ndarray, present: np.ndarray | None = None) -> None:
        self.boxes, self.shapes, self.sizes = boxes, shapes, np.asarray(sizes, dtype=np.int32)
        known = (boxes.known if present is None else present) & (self.sizes > 0).all(1)
        mark = digest(shapes.numbers.view(np.uint32), shapes.ends, shapes.starts, self.sizes, boxes.fingerprint())
        super().__init__(self._paint, len(boxes), ("background", *boxes.names), None, known, mark)

    def _paint(self, i: int) -> np.ndarray:
        width, height = (int(side) for side in self.sizes[i])
        mask = np.zeros((height, width), dtype=np.uint8)
        things = np.arange(self.boxes.ends[i], self.boxes.ends[i + 1])
        corners = self.boxes.corners[things]
        area = (corners[:, 2:] - corners[:, :2]).prod(1)
        for j in things[np.argsort(-area, kind="stable")]:
            label = int(self.boxes.labels[j])
            self.shapes.paint(int(j), mask, label + 1 if label >= 0 else NOT_LABELLED)
        return mask

    def select(self, rows: np.ndarray) -> ShapeMasks:
        shapes = self.shapes.select(spans(self.boxes.ends, rows)[1])
        return ShapeMasks(self.boxes.select(rows), shapes, self.sizes[rows], self.known[rows])
