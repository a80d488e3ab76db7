"""What the splits of a run can measure: pictures that leak between them, and classes that one of them lacks."""

from __future__ import annotations

from typing import Any

import numpy as np

from neocog.data.check import fast_groups
from neocog.data.reader import PICTURE
from neocog.data.source import Source
from neocog.fit.choices import LEAKS_UP_TO, leaks
from neocog.fit.job import Data
from neocog.records import SPLITS

_SHOWN = 8  # class names in a note


def coverage(data: Data, mirrored: bool) -> list[str]:
    """What is wrong with the splits, in sentences; `mirrored`: mirror images count as copies."""
    test_source, test_rows = data.testing()
    notes = (
        [] if data.test is None or data.source.kind != PICTURE else _leaks_to(data, test_source, test_rows, mirrored)
    )
    if not data.task.classifies:
        return notes
    count = {name: _count(data.source.labels[data.rows(name)], data) for name in ("train", "val")}
    labels: Any = data.columns_of(test_source, test_rows)["label"]
    count["test"] = _count(labels.codes, data)
    for name in ("val", "test"):
        if strange := _names(data, (count[name] > 0) & (count["train"] == 0)):
            notes.append(f"no training picture, but {name} pictures of {strange}: every one of them counts as an error")
    if count["test"].any() and (absent := _names(data, (count["test"] == 0) & (count["train"] > 0))):
        notes.append(f"no test picture of {absent}: the test figures, macro-F1 too, do not show how well it is found")
    return notes


def _count(labels: np.ndarray, data: Data) -> np.ndarray:
    return np.bincount(labels[labels >= 0], minlength=len(data.source.classes))


def _names(data: Data, which: np.ndarray) -> str:
    names = [repr(data.source.classes[i]) for i in np.flatnonzero(which)]
    more = f" and {len(names) - _SHOWN} more classes" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more


class _Both:
    """The pictures of two sources, one after the other."""

    def __init__(self, first: Source, second: Source) -> None:
        self.sources, self.ends = (first, second), len(first)

    def __len__(self) -> int:
        return sum(map(len, self.sources))

    def _at(self, i: int) -> tuple[Source, int]:
        return (self.sources[0], i) if i < self.ends else (self.sources[1], i - self.ends)

    def read(self, i: int) -> bytes | np.ndarray:
        source, row = self._at(i)
        return source.read(row)

    def key(self, i: int) -> str:
        source, row = self._at(i)
        return source.key(row)


def _leaks_to(data: Data, test: Source, rows: np.ndarray, mirrored: bool) -> list[str]:
    """Near-duplicates of training and validation pictures among those of another source."""
    learned = np.flatnonzero((data.codes == 0) | (data.codes == 1))
    if len(learned) + len(rows) > LEAKS_UP_TO:
        return [f"near-duplicates were not searched for between training and {len(rows):,} test pictures"]
    codes = np.concatenate((data.codes[learned], np.full(len(rows), SPLITS.index("test"), np.int8)))
    both = _Both(data.source, test)
    which = np.concatenate((learned, len(data.source) + rows))
    groups = fast_groups(both, which, mirrored=mirrored)  # type: ignore[arg-type]
    return leaks(codes, groups)
