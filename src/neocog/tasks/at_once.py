"""Tasks whose last layer can be fitted at once, on features that stay as they are (regime features)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch

from neocog.tasks.last_layers import Layers
from neocog.tasks.task import Meter, Seen

if TYPE_CHECKING:
    from neocog.data.source import Source

Arrays = dict[str, np.ndarray]  # what `Task.collate` made of some pictures, as arrays


class FitsAtOnce(ABC):
    """What a task adds so that its last layer, linear in the features, can be fitted at once.

    Attributes:
        head_kinds: the kinds of layers among which the recipe's `head` chooses, the usual one first; () if there is
            only one.
        finer: whether it reads the means of the maps before the last reduction, or what the net's own last layer reads,
            whichever tells more.
        fits_mirrored: whether it learns from mirror images, too.
        head_judge: what `head_loss` is.
    """

    head_kinds: ClassVar[tuple[str, ...]] = ()
    finer: ClassVar[bool] = False
    fits_mirrored: ClassVar[bool] = False
    head_judge: ClassVar[str] = "loss"

    @classmethod
    @abstractmethod
    def support(cls, source: Source, rows: np.ndarray) -> tuple[np.ndarray, str]:
        """From how many of the training pictures each class is learned (K,), and the word for one.

        It decides how much of a pretrained net is trained (see fit.transfer).
        """

    @abstractmethod
    def fit_head(self, x: np.ndarray, targets: Arrays, strengths: Sequence[float], kind: str = "") -> Layers:
        """Last layers, weight (K, D) and bias (K,).

        Args:
            x: features (N, D), each of mean 0 and deviation 1.
            targets: what `collate` made of the same pictures.
            strengths: falling; the pull on the weights, ``mean loss + strength / 2 * |weights|^2`` is at its minimum.
                Where no loss is minimised, the task says what it is.
            kind: one of `head_kinds`.
        """

    def learnable(self, targets: Arrays) -> bool:
        """Whether a layer can be fitted to these targets."""
        return True

    def head_loss(self, seen: Seen) -> float:
        """By which the strength is chosen, less is better."""
        return float(self.figures(seen)["loss"])  # type: ignore[attr-defined]

    def at_least(self, low: float, high: float, value: float, n: int) -> tuple[float, float]:
        """The 95 % interval of the goal's figure by cross-validation over `n` pictures, as wide as `n` demands."""
        return low, high


def as_seen(task: Any, outputs: np.ndarray, targets: Arrays) -> Seen:
    """What a task keeps of outputs (N, K) for pictures with these targets."""
    from neocog.data.batches import Batch

    n, meter = len(outputs), Meter(task)
    tensors = {name: torch.from_numpy(value) for name, value in targets.items()}
    meter.add(torch.from_numpy(outputs), Batch((), tensors, torch.arange(n), torch.ones(n, dtype=torch.bool)))
    return meter.seen()
