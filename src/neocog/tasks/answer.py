"""What a net says of one picture: the contract of the answers of all tasks, and of what explains them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from neocog.data.shapes import Runs
from neocog.errors import UsageError, closest
from neocog.page import Html
from neocog.records import some_of

if TYPE_CHECKING:
    from torch import Tensor

_COLUMNS = 9  # of an answer that are shown in a line


class Indexed(NamedTuple):
    """A class for each pixel: mask uint8 (H, W), index into `classes`, and their colours, RGB uint8 (K, 3)."""

    mask: np.ndarray
    classes: tuple[str, ...]
    colours: np.ndarray


@dataclass(frozen=True)
class Answer(ABC):
    """What a net says of one picture. `key` names it; `problem` is the reason if it could not be read.

    An answer that is a vector has the attribute `vector`, its numbers. What `coco`, `indexed` and `draw` give is
    written by ``neocog predict``, where an answer has them (see `gives`).
    """

    key: str
    problem: str | None = field(default=None, kw_only=True)

    @abstractmethod
    def row(self) -> dict[str, Any]:
        """The columns of a table or a CSV file, without the key; the same for every picture that could be read."""

    def text(self) -> str:
        """One line for people; of many columns only the first."""
        shown = [(k, f"{v:.4g}" if isinstance(v, float) else str(v)) for k, v in self.row().items()]
        if len(shown) == 1:
            return shown[0][1] or "nothing found"
        more = [f"and {len(shown) - _COLUMNS} more"] if len(shown) > _COLUMNS else []
        return ", ".join([*(f"{k} {v}" for k, v in shown[:_COLUMNS]), *more]) or "nothing found"

    @abstractmethod
    def to_json(self) -> dict[str, Any]:
        """A JSON-able document, all there is."""

    def beside(self, raw: Any) -> Answer:
        """The answer with what it needs of the input itself, such as the words of a text."""
        return self

    def gives(self, what: str) -> bool:
        """Whether answers of this kind have ``coco``, ``conll`` and so on, also one that could not be read."""
        return getattr(type(self), what) is not getattr(Answer, what)

    def coco(self, image_id: int) -> list[dict[str, Any]]:
        """COCO's annotations, without ``id``: ``category_id`` is 1 + the index of the class (see `Task.categories`)."""
        return []

    def conll(self) -> list[str]:
        """Lines of a CoNLL file, one for each word, and an empty one."""
        return []

    def html(self, truth: Any = None) -> Html | None:
        """The answer for a report, where the input is no picture; `truth` as of `draw`. None: it is a line of text."""
        return None

    def indexed(self) -> Indexed | None:
        """The class of each pixel of the upright picture, for an indexed PNG."""
        return None

    def draw(self, picture: np.ndarray, truth: Any = None) -> np.ndarray:
        """The answer drawn over the picture, uint8 (H, W, 3); `truth` is the column's value, where it is known."""
        return picture

    def tags(self) -> tuple[tuple[str, float], ...]:
        """Words that the answer says of the picture, with probabilities, for the library."""
        return ()


@dataclass(frozen=True, slots=True)
class Claim:
    """One thing that a net says of a picture, for what explains it (`neocog.look`).

    Attributes:
        name: in words: "tabby cat", "box 2: dog".
        score: outputs of B pictures -> (B,), differentiable: how strongly they say the same of each. A claim about a
            place stays at that place of the net's input.
        box: x0, y0, x1, y1 of the place that is meant, in pixels of the file; None: the whole picture.
        local: whether the score is of some places of the maps only, and not a mean over all.
    """

    name: str
    score: Callable[[Any], Tensor]
    box: tuple[float, float, float, float] | None = None
    local: bool = False


def which(what: str | None, names: Sequence[str], kind: str, usual: int) -> int:
    """The index of a name; `usual` where none is given. Raises: UsageError if there is none of that name."""
    if what is None:
        return usual
    if what not in names:
        raise UsageError(f"there is no {kind} {what!r}{closest(what, names)}; expected one of {some_of(names)}")
    return list(names).index(what)


def rle(mask: np.ndarray) -> dict[str, Any]:
    """Run lengths of a mask, bool (H, W), uncompressed."""
    return {"size": list(mask.shape), "counts": Runs.of(mask).counts.tolist()}


def coco_box(corners: Sequence[float] | np.ndarray) -> list[float]:
    """x0, y0, x1, y1 (exclusive) as x, y, width, height."""
    x0, y0, x1, y1 = (float(v) for v in corners)
    return [round(v, 2) for v in (x0, y0, x1 - x0, y1 - y0)]


def coco_region(mask: np.ndarray, category: int, image_id: int, score: float) -> dict[str, Any]:
    """One annotation for a mask, bool (H, W), of which at least one pixel is set; `category`: its index, from 0."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return {
        "image_id": image_id,
        "category_id": category + 1,
        "segmentation": rle(mask),
        "bbox": coco_box((columns[0], rows[0], columns[-1] + 1, rows[-1] + 1)),
        "area": int(mask.sum()),
        "score": round(score, 4),
    }
