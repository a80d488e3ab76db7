"""What is true of drawn pictures, as columns that are computed when somebody asks: nothing is stored."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from neocog.data.drawn_scene import SHAPES, TAGS
from neocog.data.kinds import BoxSet, Categories, Category, Column, Masks, digest

if TYPE_CHECKING:
    from neocog.data.drawn import Drawing, Drawn

POINTS = ("centre", "left", "top", "right", "bottom")  # of the largest object, as far as it can be seen
_SWAP = (0, 3, 2, 1, 4)
NUMBERS = ("count", "diameter")  # of objects; of the largest, in percent of the picture's width


class _Computed(Column):
    """A column whose values are functions of the picture."""

    def __init__(self, source: Drawn, kind: str, names: tuple[str, ...], value: Callable[[Drawing], Any]) -> None:
        self._source, self.kind, self.names, self._value = source, kind, names, value
        self.swap, self.periods = _SWAP, (None,) * len(names)

    def __getitem__(self, i: int) -> Any:
        return self._value(self._source.draw(int(i), painted=False))

    @property
    def known(self) -> np.ndarray:
        return np.ones(len(self._source), dtype=bool)

    @property
    def values(self) -> np.ndarray:
        """All values of a column of numbers or points."""
        return np.stack([self[i] for i in range(len(self))]) if len(self) else np.zeros((0, len(self.names)))

    def select(self, rows: np.ndarray) -> _Computed:
        return _Computed(self._source.select(rows), self.kind, self.names, self._value)

    def fingerprint(self) -> bytes:
        return digest("drawn", self.kind, self._source.fingerprint())


class _Columns(Mapping[str, Column]):
    """The columns of a drawn source, each made when it is first read."""

    def __init__(self, makers: dict[str, Callable[[], Column]]) -> None:
        self._makers, self._made = makers, dict[str, Column]()

    def __getitem__(self, role: str) -> Column:
        if role not in self._made:
            self._made[role] = self._makers[role]()
        return self._made[role]

    def __iter__(self) -> Iterator[str]:
        return iter(self._makers)

    def __len__(self) -> int:
        return len(self._makers)


def drawn_columns(source: Drawn) -> Mapping[str, Column]:
    """Label, tags, captions, boxes and mask (by shape), points and numbers of the largest object."""
    makers: dict[str, Callable[[], Column]] = {
        "label": lambda: Category(source.labels, source.classes),
        "tags": lambda: Categories(source._tags(), TAGS),
        "captions": lambda: source.captions,
        "boxes": lambda: _Computed(source, "boxes", SHAPES, _boxes),  # type: ignore[dict-item, return-value]
        "mask": lambda: Masks(
            lambda i: _mask(source.draw(i, painted=False)),
            len(source),
            ("ground", *SHAPES),
            mark=digest("drawn", source.fingerprint()),
        ),
        "points": lambda: _Computed(source, "points", POINTS, _points),
        "numbers": lambda: _Computed(source, "number", NUMBERS, _numbers),
    }
    return _Columns(makers)


def _shapes(drawing: Drawing) -> np.ndarray:
    return np.array([SHAPES.index(box.label.split()[-1]) for box in drawing.boxes], dtype=np.int32)


def _boxes(drawing: Drawing) -> BoxSet:
    corners = np.array([(b.x0, b.y0, b.x1, b.y1) for b in drawing.boxes], dtype=np.float32)
    return BoxSet(corners, _shapes(drawing), np.zeros(len(corners), dtype=bool))


def _mask(drawing: Drawing) -> np.ndarray:
    table = np.concatenate(([0], _shapes(drawing) + 1)).astype(np.uint8)
    return table[drawing.mask]


def _points(drawing: Drawing) -> np.ndarray:
    y, x = np.nonzero(drawing.mask == 1)
    # the middle of the pixels that lie furthest out, so that the points of a mirror image are the mirrored points
    furthest = (x == x.min(), y == y.min(), x == x.max(), y == y.max())
    rows = [(x[of].mean() + 0.5, y[of].mean() + 0.5) for of in (x >= 0, *furthest)]
    return np.array([(*place, 2) for place in rows], dtype=np.float32)


def _numbers(drawing: Drawing) -> np.ndarray:
    box = drawing.boxes[0]
    return np.array([drawing.count, 100 * max(box.x1 - box.x0, box.y1 - box.y0) / len(drawing.mask)])
