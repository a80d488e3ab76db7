"""Inputs that need no decoding: what a trunk makes of pictures, computed once; and texts, as rows of integers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from neocog.data.kinds import Column
from neocog.records import Preprocess, Problem


class Ready(ABC):
    """Inputs of some samples, in the place of `pictures.Held`.

    Attributes:
        pre: as the pictures'; it has no meaning for texts.
    """

    pre: Preprocess
    problems: list[Problem]

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def at(self, rows: Tensor, choice: Tensor | None) -> Tensor:
        """The inputs of some samples (B, ...); `choice`: float (B,) in [0, 1), of several views that one, None: all."""


class Vectors(Ready):
    """What a trunk makes of pictures, float32 (N, F), in one or more views, such as plain and mirrored."""

    def __init__(self, views: Sequence[np.ndarray], pre: Preprocess, problems: list[Problem]) -> None:
        self.views, self.pre, self.problems = torch.from_numpy(np.stack(views)), pre, problems  # (V, N, F)

    def __len__(self) -> int:
        return self.views.shape[1]

    def at(self, rows: Tensor, choice: Tensor | None) -> Tensor:
        """(B, F): one view; without a choice the first."""
        return self.views[0 if choice is None else (choice * len(self.views)).long(), rows]


class Texts(Ready):
    """Texts as inputs.

    Args:
        column: of kind texts, a row for each sample; where it holds several texts, one of them is shown.
        encode: makes integers (B, L) or (B, L, T) of texts.
    """

    def __init__(self, column: Column, encode: Callable[[Sequence[str]], np.ndarray], pre: Preprocess) -> None:
        self.column, self.encode, self.pre, self.problems = column, encode, pre, []

    def __len__(self) -> int:
        return len(self.column)

    def at(self, rows: Tensor, choice: Tensor | None) -> Tensor:
        every = [self.column[int(i)] or ("",) for i in rows]
        numbers = [0.0] * len(every) if choice is None else choice.tolist()
        return torch.from_numpy(self.encode([of[int(u * len(of))] for of, u in zip(every, numbers, strict=True)]))


def some_of(texts: Sequence[str], most: int, choice: float) -> tuple[str, ...]:
    """`most` of several texts, one after another from a place that `choice` in [0, 1) says."""
    first = int(choice * len(texts))
    return (*texts[first:], *texts[:first])[:most]
