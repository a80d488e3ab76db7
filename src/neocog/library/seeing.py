"""What indexing asks of a net, as one module: pixels in, a vector and the logits of concepts out.

Normalisation is part of it, so that a graph of it needs nothing else, and no PyTorch.
"""

from __future__ import annotations

import contextlib
import threading
from typing import Any

import torch
from torch import Tensor, nn

from neocog.errors import NeocogError, UsageError
from neocog.nets import head_of
from neocog.records import Preprocess


class Seeing(nn.Module):
    """Pixels uint8 (B, C, size, size) -> {"vector": (B, D), "logits": (B, K)}, float32.

    `sizes`: D and K, which is 0 for a net without classes.
    """

    def __init__(self, net: nn.Module, pre: Preprocess, layer: str | None) -> None:
        """Raises: UsageError if the net does not take such pictures, or gives no vector for them."""
        super().__init__()
        # a layer's output is another one where batch normalisation is folded into it; vectors of layers were always so
        net = folded(net, pre) if layer else net
        self.net, self.layer = net.eval().requires_grad_(False), layer
        self.mean: Tensor
        self.scale: Tensor
        self.register_buffer("mean", 255 * torch.tensor(pre.mean[: pre.channels])[:, None, None])
        self.register_buffer("scale", 1 / (255 * torch.tensor(pre.std[: pre.channels])[:, None, None]))
        self._head, self._shared = _parts(net, pre, layer)
        self._own = threading.local()
        if layer:
            net.get_submodule(layer).register_forward_hook(self._catch)
        with torch.inference_mode():
            out = self(torch.zeros(1, pre.channels, pre.size, pre.size, dtype=torch.uint8))
        self.sizes = out["vector"].shape[1], out["logits"].shape[1]

    def _catch(self, module: nn.Module, given: Any, out: Tensor) -> None:
        self._own.caught = out

    def forward(self, pixels: Tensor) -> dict[str, Tensor]:
        """See the class."""
        features, logits = self.answers((pixels.float() - self.mean) * self.scale)
        return {"vector": features.float(), "logits": logits.float()}

    def answers(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Normalised pictures -> vectors (B, D) and logits (B, K)."""
        net: Any = self.net
        if self.layer:
            logits = net(x)
            return _pooled(self._own.caught), logits if self._head else logits[:, :0]
        if not self._head:  # the net's output is the vector
            out = _pooled(net(x))
            return out, out[:, :0]
        features = net.forward_features(x)
        return _pooled(features), head_of(net)(features) if self._shared else net(x)


def _pooled(out: Tensor) -> Tensor:
    """Mean over the map: (B, D, ...) -> (B, D)."""
    return out.flatten(2).mean(2) if out.ndim > 2 else out


def folded(net: nn.Module, pre: Preprocess) -> nn.Module:
    """The net with its batch normalisation in its convolutions, where that is possible."""
    from neocog.anatomy.rewrite import rewrite

    try:
        return rewrite(net, "fold-bn", (pre.channels, pre.size, pre.size)).module
    except NeocogError:  # nothing to fold, or code that hides its layers: then the net stays as it is
        return net


def _parts(net: nn.Module, pre: Preprocess, layer: str | None) -> tuple[bool, bool]:
    """Whether the net has a head (else its output is the vector), and whether head(features) gives its logits.

    Raises: UsageError: the net gives something else than one vector for a picture.
    """
    x = torch.rand(1, pre.channels, pre.size, pre.size, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        try:
            out = net(x)
        except (RuntimeError, NeocogError) as error:  # fully connected layers, or too small for all that pooling
            raise UsageError(
                f"{type(net).__name__} does not take pictures of {pre.size}x{pre.size} ({error}); omit --size"
            ) from None
        if not isinstance(out, torch.Tensor) or (out.ndim != 2 and layer is None):
            raise UsageError(
                f"{type(net).__name__} gives {getattr(out, 'shape', type(out).__name__)} for a picture, not class "
                "scores or a vector; index with a net that classifies, such as efficientnet_lite0"
            )
        if layer is not None and layer not in dict(net.named_modules()):
            raise UsageError(f"{type(net).__name__} has no layer {layer!r}; 'neocog anatomy NET' lists them")
        if not hasattr(net, "forward_features") or not isinstance(getattr(net, "head", None), str):
            return False, False
        features = net.forward_features(x)  # type: ignore[operator]
        with contextlib.suppress(RuntimeError):
            logits = head_of(net)(features)
            return True, logits.shape == out.shape and torch.allclose(logits, out, atol=1e-4, rtol=1e-3)
        return True, False
