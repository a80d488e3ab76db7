"""Features: what any layer of a net makes of pictures, pooled or with their places, of one layer or of several joined.

A layer is named by its dotted name (``blocks.3``, ``layer4.1.relu``); the empty name is what the net's last layer
reads. `extract` gives features as an array, and `Tapped` is a net that names classes by them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from neocog import nets
from neocog.data.pictures import Held, Streamed
from neocog.errors import UsageError, closest
from neocog.fit.device import Device
from neocog.fit.evaluating import batches_of, by_row
from neocog.fit.parallel import World
from neocog.nets.taps import LAST, tapped
from neocog.tasks import Task
from neocog.tasks.experience import judging
from neocog.tasks.task import build_net

POOLS = ("mean", "max", "spatial")


def layer_names(text: str | Sequence[str] | None) -> tuple[str, ...]:
    """Return the names in ``"a.b, c"`` or a sequence; () for None or nothing."""
    parts = text.split(",") if isinstance(text, str) else list(text or ())
    return tuple(dict.fromkeys(part.strip() for part in parts if part.strip()))


def check_layers(net: nn.Module, layers: Sequence[str], pool: str = "mean") -> None:
    """Raises: UsageError for a name that is no layer of `net`, or no way of pooling."""
    if pool not in POOLS:
        raise UsageError(f"unknown pooling {pool!r}{closest(pool, POOLS)}; expected one of {', '.join(POOLS)}")
    known = [name for name, _ in net.named_modules() if name]
    for name in layers:
        if name != LAST and name not in known:
            shown = ", ".join(n for n in known if n.count(".") == 0)
            raise UsageError(f"the net has no layer {name!r}{closest(name, known)}; its outermost layers are {shown}")


class Taps:
    """Reads the outputs of layers while a net runs, without changing the net.

    A layer that is called several times (a shared ReLU) counts with its last output. In eval mode the pass ends
    when all layers have answered.
    """

    def __init__(self, net: nn.Module, layers: Sequence[str], pool: str = "mean") -> None:
        """Raises: UsageError, see `check_layers`."""
        check_layers(net, layers, pool)
        self.net, self.layers, self.pool = net, tuple(layers), pool
        self._calls: dict[str, int] | None = None  # of each layer in a pass, known after the first
        self.widths: list[int] = []  # numbers of each layer, known after the first pass

    def __call__(self, x: Tensor) -> Tensor:
        """(B, ...) -> (B, D); with pool "spatial" (B, C, H, W), maps of several layers at the size of the largest."""
        known = None if self.net.training else self._calls
        with tapped(self.net, self.layers, keep=self._part, enough=known) as parts:
            self.net(x)
        if silent := [layer for layer in self.layers if layer not in parts]:
            raise UsageError(
                f"layer {silent[0]!r} has no output of its own in a pass; name a layer inside it or around it"
            )
        self._calls = dict(parts.calls)
        self.widths = [parts[layer].flatten(1).shape[1] for layer in self.layers]
        return self._joined([parts[layer] for layer in self.layers])

    def _part(self, layer: str, value: Any) -> Tensor:
        if not isinstance(value, Tensor) or value.ndim < 2:
            what = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
            raise UsageError(f"layer {layer!r} gives {what}, expected one tensor (B, C, ...); name a layer inside it")
        if self.pool == "spatial" or value.ndim == 2:
            return value.clone()  # what follows may write into it (ReLU in place)
        flat = value.flatten(2)
        return flat.mean(2) if self.pool == "mean" else flat.amax(2)

    @staticmethod
    def _joined(parts: list[Tensor]) -> Tensor:
        if len(parts) == 1:
            return parts[0]
        if all(part.ndim == 4 for part in parts):
            size = max((tuple(part.shape[2:]) for part in parts), key=lambda s: s[0] * s[1])
            return torch.cat(
                [p if tuple(p.shape[2:]) == size else F.interpolate(p, size, mode="bilinear") for p in parts], 1
            )
        return torch.cat([part.flatten(1) for part in parts], 1)


class Read(nn.Module):
    """A net that answers with what `taps` read of it."""

    def __init__(self, net: nn.Module, taps: Taps) -> None:
        super().__init__()
        self.net, self._taps = net, taps

    def forward(self, x: Tensor) -> Tensor:
        """See `Taps`."""
        return self._taps(x)

    def extra_repr(self) -> str:
        return f"layers={self._taps.layers}, pool={self._taps.pool}"


class Tapped(nn.Module):
    """A net that names classes by the features of layers inside another one.

    Args:
        trunk: the net whose layers are read; it stays whole.
        layers, pool: which, and how maps become numbers.
        classes: outputs of the new last layer.
        example: pictures (B, C, H, W), from which the number of features is found.
    """

    head = "classifier"

    def __init__(self, trunk: nn.Module, layers: Sequence[str], pool: str, classes: int, example: Tensor) -> None:
        super().__init__()
        self.trunk = trunk
        self._taps = Taps(trunk, layers, pool)
        with judging(trunk):
            width = self._taps(example).flatten(1).shape[1]
        ends = np.cumsum(self._taps.widths).tolist()
        self.parts = [slice(a, b) for a, b in zip([0, *ends], ends, strict=False)]  # features of each layer
        self.classifier = nn.Linear(width, classes)

    def forward_features(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, D)."""
        return self._taps(x).flatten(1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> logits (B, classes)."""
        return self.classifier(self.forward_features(x))


def build(spec: Mapping[str, Any], taps: Mapping[str, Any] | None, task: Task) -> nn.Module:
    """Return the net of a run with fresh weights: that of `spec`, or one that reads its layers (`taps`)."""
    if not taps:
        return build_net(task, spec)
    net = nets.build(**spec)
    assert task.outputs is not None
    return Tapped(net, taps["layers"], taps["pool"], task.outputs, nets.example(net, 2))


def plain_head(net: nn.Module) -> bool:
    """Whether a net is a linear layer with a bias on ``forward_features``, so that a new one can take its place."""
    head = nets.head_of(net)
    if type(head) is not nn.Linear or head.bias is None:
        return False
    with judging(net):
        x = nets.example(net, 2)
        features, logits = net.forward_features(x), net(x)  # type: ignore[operator]
        return features.ndim == 2 and torch.allclose(logits, head(features), rtol=1e-3, atol=1e-4)


# ---------------------------------------------------------------- features of many pictures


@torch.inference_mode()
def features_of(
    net: nn.Module,
    read: Callable[[Tensor], Tensor],
    pictures: Held | Streamed,
    device: Device,
    *,
    chosen: np.ndarray | None = None,
    world: World | None = None,
    show: Callable[[float, str], None] | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """``read(pictures)`` for all or the `chosen` ones, with `net` in eval mode: rows int64 (N,), float32 (N, ...)."""
    rows: list[Tensor] = []
    values: list[Tensor] = []
    for part in batches_of(net, (pictures,), device, chosen=chosen, world=world, show=show):
        with device.autocast():
            values.append(read(part.x).float().cpu())
        rows.append(part.rows)
    return by_row(rows, values, world or World())
