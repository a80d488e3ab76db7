"""The answer of the task segment: a map of classes."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from neocog.data.kinds import NOT_LABELLED
from neocog.tasks.answer import Answer, Indexed, coco_region
from neocog.tasks.masks import WRONG as RED
from neocog.tasks.masks import coloured, errors, is_ground, palette, with_legend


@dataclass(frozen=True, slots=True)
class Regions(Answer):
    """The class of each pixel of one picture.

    Attributes:
        mask: uint8 (H, W) in the file's own upright pixels, index into `classes`.
        confidence: float16 (H, W), the probability of that class.
        colours: RGB of each class, where the data say it; None: chosen.
    """

    classes: tuple[str, ...] = ()
    mask: np.ndarray = field(default_factory=lambda: np.zeros((0, 0), np.uint8))
    confidence: np.ndarray = field(default_factory=lambda: np.zeros((0, 0), np.float16))
    colours: tuple[tuple[int, int, int], ...] | None = None

    @property
    def palette(self) -> np.ndarray:
        """RGB of each class, uint8 (classes, 3)."""
        return palette(len(self.classes), self.colours)

    def shares(self) -> dict[str, float]:
        """Share of the picture's area of each class that is there, the largest first."""
        counts = np.bincount(self.mask.ravel(), minlength=len(self.classes)) / max(1, self.mask.size)
        return {self.classes[k]: float(counts[k]) for k in np.argsort(-counts, kind="stable") if counts[k] > 0}

    def row(self) -> dict[str, Any]:
        return {"regions": "; ".join(f"{name} {share:.1%}" for name, share in self.shares().items())}

    def to_json(self) -> dict[str, Any]:
        height, width = self.mask.shape
        return {"height": height, "width": width, "shares": self.shares()}

    def coco(self, image_id: int) -> list[dict[str, Any]]:
        """One annotation for each class that is there, the ground left out."""
        found = []
        for k in np.unique(self.mask).tolist():
            if k < len(self.classes) and not is_ground(self.classes[k]):
                mask = self.mask == k
                score = float(self.confidence[mask].mean(dtype=np.float64))
                found.append(coco_region(mask, k, image_id, score))
        return found

    def indexed(self) -> Indexed:
        return Indexed(self.mask, self.classes, self.palette[: len(self.classes)])

    def draw(self, picture: np.ndarray, truth: Any = None) -> np.ndarray:
        """The classes' colours over the picture and their names; where the truth is known: labels, answer, errors."""
        colours, there = self.palette, set(np.unique(self.mask).tolist())
        panels, more = [coloured(picture, self.mask, colours, self.classes)], list[tuple[str, Any]]()
        if truth is not None:
            truth = fitted(truth, self.mask.shape)
            there |= set(np.unique(truth).tolist()) - {NOT_LABELLED}
            panels = [coloured(picture, truth, colours, self.classes), *panels, errors(picture, self.mask, truth)]
            more = [("wrong (in the right-hand picture)", RED)]
        return with_legend(panels, [*((self.classes[k], colours[k]) for k in sorted(there)), *more])

    def tags(self) -> tuple[tuple[str, float], ...]:
        """Classes that cover at least 1 % of the picture, but the ground, with their mean probability there."""
        return tuple(
            (name, float(self.confidence[self.mask == self.classes.index(name)].mean(dtype=np.float64)))
            for name, share in self.shares().items()
            if share >= 0.01 and not is_ground(name)
        )


def fitted(mask: np.ndarray, size: tuple[int, ...]) -> np.ndarray:
    """A mask as large as its picture (H, W): one of another size is scaled, by the nearest pixel."""
    if mask.shape == tuple(size):
        return mask
    rows, columns = (np.arange(new) * old // new for new, old in zip(size, mask.shape, strict=True))
    return mask[rows[:, None], columns]
