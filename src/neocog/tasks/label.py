"""One label for each picture."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from neocog.tasks.measures import accuracy, cross_entropy, evaluate_logits


class Label:
    """Cross-entropy over classes; targets are int64 (B,), -100 for pictures that do not count.

    Args:
        classes: names, in the order of the outputs.
        smoothing: label smoothing (Szegedy et al. 2015, section 7).
        weights: float32 (K,), how much a picture of each class counts; None: all the same.
    """

    name = "label"
    better = "accuracy"

    def __init__(self, classes: Sequence[str], smoothing: float = 0.0, weights: Tensor | None = None) -> None:
        self.classes = tuple(classes)
        self.smoothing = smoothing
        self.weights = weights

    def loss(self, outputs: Tensor, targets: Tensor, partner: Tensor | None = None, share: float = 1.0) -> Tensor:
        """Mean cross-entropy of logits (B, K), float32; mixed pictures count for both labels, by `share`."""
        loss = self._one(outputs, targets)
        if partner is not None:
            loss = share * loss + (1.0 - share) * self._one(outputs, targets[partner])
        return loss.sum() / len(targets)

    def _one(self, outputs: Tensor, targets: Tensor) -> Tensor:
        weights = None if self.weights is None else self.weights.to(outputs.device)
        return F.cross_entropy(
            outputs, targets, weight=weights, label_smoothing=self.smoothing, ignore_index=-100, reduction="none"
        )

    def right(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Number of correct answers."""
        return (outputs.argmax(1) == targets).sum()

    def measure(self, outputs: np.ndarray, targets: np.ndarray) -> dict[str, Any]:
        """`accuracy` and `loss` (without smoothing) of logits (N, K)."""
        if len(targets) == 0:
            return {"accuracy": float("nan"), "loss": float("nan"), "n": 0}
        return {"accuracy": accuracy(outputs, targets), "loss": cross_entropy(outputs, targets), "n": len(targets)}

    def report(self, outputs: np.ndarray, targets: np.ndarray, temperature: float = 1.0) -> dict[str, Any]:
        """Every figure of `neocog.tasks.measures.evaluate_logits`."""
        return evaluate_logits(outputs, targets, self.classes, temperature)


def balance(counts: np.ndarray, most: float = 20.0) -> Tensor:
    """Weights of classes from their numbers of training pictures (K,): as n / (K n_k), the mean over pictures is 1.

    A class without pictures gets 1; no class weighs more than `most` times the lightest.
    """
    counts = np.asarray(counts, dtype=np.float64)
    there = counts > 0
    weights = np.ones(len(counts))
    weights[there] = counts.sum() / (there.sum() * counts[there])
    weights = np.minimum(weights, most * weights[there].min())
    weights /= (weights * counts).sum() / counts.sum()
    return torch.tensor(weights, dtype=torch.float32)
