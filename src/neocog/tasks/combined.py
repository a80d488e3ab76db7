"""The answers of several tasks for one picture, as one answer."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from neocog.tasks.answer import Answer, Indexed


@dataclass(frozen=True, slots=True)
class Together(Answer):
    """The answers of all parts for one picture, by the part's name.

    `before`: of COCO's categories, how many are those of earlier parts.
    """

    key: str
    parts: dict[str, Answer] = field(default_factory=dict)
    before: dict[str, int] = field(default_factory=dict)
    problem: str | None = None

    def __getitem__(self, part: str) -> Answer:
        return self.parts[part]

    def row(self) -> dict[str, Any]:
        return {f"{name}_{k}": v for name, answer in self.parts.items() for k, v in answer.row().items()}

    def to_json(self) -> dict[str, Any]:
        return {name: answer.to_json() for name, answer in self.parts.items()}

    def text(self) -> str:
        return "; ".join(f"{name}: {answer.text()}" for name, answer in self.parts.items())

    def gives(self, what: str) -> bool:
        return any(answer.gives(what) for answer in self.parts.values())

    def coco(self, image_id: int) -> list[dict[str, Any]]:
        """The annotations of all parts."""
        return [
            {**one, "category_id": one["category_id"] + self.before.get(name, 0)}
            for name, answer in self.parts.items()
            for one in answer.coco(image_id)
        ]

    def indexed(self) -> Indexed | None:
        """That of the first part that has one."""
        return next((made for one in self.parts.values() if (made := one.indexed()) is not None), None)

    def draw(self, picture: np.ndarray, truth: Any = None) -> np.ndarray:
        """All parts drawn over each other; one whose drawing has another size than the picture stands beside it."""
        canvas, beside = picture, list[np.ndarray]()
        for name, answer in self.parts.items():
            made = answer.draw(canvas, None if truth is None else truth.get(name))
            if made.shape[:2] == picture.shape[:2]:
                canvas = made
            else:
                beside.append(answer.draw(picture, None if truth is None else truth.get(name)))
        if canvas is not picture or not beside:
            beside.insert(0, canvas)
        return _side_by_side(beside)

    def tags(self) -> tuple[tuple[str, float], ...]:
        best: dict[str, float] = {}
        for answer in self.parts.values():
            for word, p in answer.tags():
                best[word] = max(p, best.get(word, 0.0))
        return tuple(best.items())


def _side_by_side(pictures: list[np.ndarray]) -> np.ndarray:
    """Pictures (H, W, 3) or (H, W) beside each other, brought to the height of the tallest."""
    from PIL import Image

    tallest = max(len(one) for one in pictures)
    made = []
    for one in pictures:
        image = Image.fromarray(one).convert("RGB")
        if image.height != tallest:
            image = image.resize((round(image.width * tallest / image.height), tallest), Image.Resampling.BICUBIC)
        made.append(np.asarray(image))
    return np.concatenate(made, axis=1)
