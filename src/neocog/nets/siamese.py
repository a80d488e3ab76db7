"""Siamese nets: two copies of one net, with the same weights, learn which pictures belong together.

Signature Verification using a "Siamese" Time Delay Neural Network. Bromley, Guyon, LeCun, Säckinger, Shah, NIPS 1993.
The loss is that of Dimensionality Reduction by Learning an Invariant Mapping (Hadsell, Chopra, LeCun, CVPR 2006), whose
net maps pictures of digits to two numbers, so that equal digits lie near each other.

Any net of the zoo that names pictures can be the trunk; its last layer gives the embedding in place of the classes.
Shapes with the trunk lenet5: pictures B 1 32 32, embedding B 2.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import NetError
from ..records import Facts
from .registry import build, example, facts, register


class Siamese(nn.Module):
    """The twin of a trunk: forward gives the embedding of a picture, `compare` the distance of two.

    Args:
        trunk, trunk_options: name of a net of the zoo with task "label", and its options.
        dimensions: length of the embedding.
        normalise: scale embeddings to length 1.
    """

    def __init__(
        self,
        *,
        in_channels: int,
        input_size: int,
        trunk: str = "lenet5",
        dimensions: int = 2,
        normalise: bool = False,
        trunk_options: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        if facts(trunk).task != "label":
            raise NetError(f"the trunk of a twin must be a net that gives labels, got {trunk!r} ({facts(trunk).task})")
        self.normalise = normalise
        self.trunk = build(trunk, dimensions, in_channels, input_size, **(trunk_options or {}))

    @staticmethod
    def smallest_input(chosen: dict[str, Any]) -> int | None:
        """That of the trunk."""
        return facts(chosen["trunk"]).smallest if "trunk" in chosen else None

    @staticmethod
    def example(spec: dict[str, Any], batch: int) -> Tensor:
        """Return random inputs for the trunk."""
        with torch.device("meta"):
            net = build(**spec)
        return example(net.trunk, batch)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, H, W) -> embeddings (B, dimensions)."""
        out = self.trunk(x)
        out = out if isinstance(out, Tensor) else out.logits  # auxiliary heads have no part in an embedding
        return F.normalize(out) if self.normalise else out

    forward_features = forward

    def compare(self, a: Tensor, b: Tensor) -> Tensor:
        """Return the Euclidean distances of the embeddings of `a` and `b`, both (B, in_channels, H, W), as (B,).

        Both go through the net as one batch, so that batch normalisation treats them alike.
        """
        if a.shape != b.shape:
            raise NetError(f"expected as many pictures on either side, got {tuple(a.shape)} and {tuple(b.shape)}")
        first, second = self(torch.cat([a, b])).chunk(2)
        return torch.linalg.vector_norm(first - second, dim=1)  # type: ignore[no-any-return]


def contrastive_loss(distance: Tensor, same: Tensor, margin: float = 1.0) -> Tensor:
    """Return the mean of ``D^2 / 2`` for pairs that belong together, and ``max(0, margin - D)^2 / 2`` for the others.

    distance (B,); same (B,), true where a pair belongs together. Hadsell et al. 2006, equation 4 (its Y is 1 for
    pairs that do not), summed there and averaged here.
    """
    if distance.shape != same.shape:
        raise NetError(f"expected one truth value per pair, got {tuple(same.shape)} for {tuple(distance.shape)}")
    if margin <= 0:
        raise NetError(f"margin is a distance above 0, got {margin!r}")
    apart = (margin - distance).clamp(min=0).square()
    return 0.5 * torch.where(same.bool(), distance.square(), apart).mean()


# lenet5 with two outputs in place of ten
_figures = (2006, "Hadsell et al. 2006, CVPR", 61_026, 415_848, (1, 32, 32), 1, 16)
register(Facts("siamese", "siamese", *_figures, task="embed"))(Siamese)
