"""The heads of several tasks on one trunk, and their answers for one picture as one answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from neocog.tasks.answer import Answer, Indexed


class Line(nn.Module):
    """A last layer for a task that answers with numbers: the means of the deepest maps -> `outputs` numbers."""

    def __init__(self, channels: Mapping[int, int], outputs: int) -> None:
        super().__init__()
        self.deepest = max(channels)
        self.last = nn.Linear(channels[self.deepest], outputs)

    def forward(self, maps: Mapping[int, Tensor], x: Tensor) -> Tensor:
        """-> (B, outputs)."""
        return self.last(maps[self.deepest].flatten(2).mean(2))  # type: ignore[no-any-return]


class Heads(nn.Module):
    """The heads of all parts, by name, and the logarithms of their variances (see the module)."""

    def __init__(self, heads: Mapping[str, nn.Module], log_variances: Sequence[float] | None) -> None:
        super().__init__()
        self.parts = nn.ModuleDict(heads)
        if log_variances is not None:
            self.log_variances = nn.Parameter(torch.tensor(list(log_variances)))

    def forward(self, maps: Mapping[int, Tensor], x: Tensor) -> dict[str, Any]:
        """What each head makes of all pictures."""
        return {name: head(maps, x) for name, head in self.parts.items()}


class Seeing(nn.Module):
    """A net for one part: its head on maps that are there already. What it is called with is not read."""

    def __init__(self, head: nn.Module, maps: Mapping[int, Tensor]) -> None:
        super().__init__()
        self.head, self.maps = head, maps
        self.training = head.training

    def forward(self, x: Tensor, **more: Any) -> Any:
        return self.head(self.maps, x, **more)


@dataclass(frozen=True, slots=True)
class Together(Answer):
    """The answers of all parts for one picture, by the part's name.

    `before`: of COCO's categories, how many are those of earlier parts.
    """

    parts: dict[str, Answer] = field(default_factory=dict)
    before: dict[str, int] = field(default_factory=dict)

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
