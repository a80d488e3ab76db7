"""What a task is: the loss and the figures that turn a trunk into something useful. The loop knows no more."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
from torch import Tensor


class Task(Protocol):
    """One kind of question that is asked of a picture."""

    name: str
    better: str  # the validation figure by which weights and learning rates are judged; higher is better

    def loss(self, outputs: Tensor, targets: Tensor, partner: Tensor | None, share: float) -> Tensor:
        """Mean loss of outputs (B, ...), float32; `partner` (B,) and `share` say how pictures were mixed."""
        ...

    def right(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """How many of the batch are answered right, a scalar on the device (no synchronisation)."""
        ...

    def measure(self, outputs: np.ndarray, targets: np.ndarray) -> dict[str, Any]:
        """Figures of a whole split, JSON-able; `loss` and ``self.better`` are among them."""
        ...
