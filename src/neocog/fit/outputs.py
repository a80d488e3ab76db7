"""Logits and features of many pictures, from several views of each if wanted."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from neocog.data.batches import Held, Streamed, in_order
from neocog.errors import UsageError
from neocog.fit.device import Device
from neocog.fit.parallel import World, gathered
from neocog.nets import head_of

VIEWS = ("none", "flip", "shift", "mirror")


def views(x: Tensor, kind: str, mirror: bool = True) -> Iterator[tuple[float, Tensor]]:
    """Views of pictures (B, C, H, W), each with its weight in the average; the weights add up to 1.

    The picture as it is comes first.

    ``none``: the picture. ``flip``: also its mirror image (if `mirror`: for letters and digits it is another
    picture). ``shift``: half of the weight on that, half on the same moved by a pixel up left and down right
    (Jordan 2024, section 3.5). ``mirror``: only its mirror image, to see what that changes.

    Raises:
        UsageError: no such kind.
    """
    if kind not in VIEWS:
        raise UsageError(f"unknown test-time views {kind!r}; there are {', '.join(VIEWS)}")
    if kind == "mirror":
        yield 1.0, x.flip(3)
        return
    moved = [(1.0, x)]
    if kind == "shift":
        h, w = x.shape[2:]
        padded = F.pad(x, (1, 1, 1, 1), mode="reflect")
        moved = [(0.5, x), (0.25, padded[:, :, :h, :w]), (0.25, padded[:, :, 2:, 2:])]
    for weight, view in moved:
        if kind == "none" or not mirror:
            yield weight, view
        else:
            yield weight / 2, view
            yield weight / 2, view.flip(3)


def with_features(net: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
    """Logits and features (B, D) of pictures (B, C, H, W), in one pass where the last layer reads the features.

    Features that are maps (a convolution is the last layer) are averaged over their positions.
    """
    read: list[Tensor] = []
    handle = head_of(net).register_forward_pre_hook(lambda _head, inputs: read.append(inputs[0]))
    try:
        logits = net(x)
    finally:
        handle.remove()
    if len(read) == 1 and read[0].ndim == 2:
        return logits, read[0]
    features: Tensor = net.forward_features(x)  # type: ignore[operator]
    return logits, features.flatten(2).mean(2) if features.ndim > 2 else features


def averaged(net: nn.Module, x: Tensor, kind: str, mirror: bool, *, features: bool) -> tuple[Tensor, Tensor | None]:
    """Logits (B, K) averaged over the views of pictures, and if wanted the features (B, D) of the plain view, float32.

    Raises:
        UsageError: no such kind of views.
    """
    logits: Tensor | None = None
    traits: Tensor | None = None
    for weight, view in views(x, kind, mirror):
        if features and traits is None:  # of the plain view, which comes first
            out, found = with_features(net, view)
            traits = found.float()
        else:
            out = net(view)
        logits = out.float() * weight if logits is None else logits + out.float() * weight
    assert logits is not None
    return logits, traits


def usual_batch(pictures: Held | Streamed) -> int:
    """Pictures in one pass: 500 of up to 64x64; of larger ones fewer, so that a pass takes about the same memory."""
    return max(16, min(500, 500 * 64**2 // pictures.pre.size**2))


@torch.inference_mode()
def outputs_of(
    net: nn.Module,
    pictures: Held | Streamed,
    device: Device,
    *,
    tta: str = "none",
    mirror: bool = True,
    features: bool = False,
    batch_size: int | None = None,
    chosen: np.ndarray | None = None,
    world: World | None = None,
    show: Callable[[float, str], None] | None = None,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Run a net in eval mode over pictures; its mode is restored.

    Args:
        batch_size: pictures at a time; None: `usual_batch`.
        chosen: rows of `pictures` (default all). Several processes share them and all get everything.

    Returns:
        Rows int64 (N,) of the pictures that could be read, logits float32 (N, K), and the features float32 (N, D)
        of the plain view ((N, 0) unless `features`).
    """
    world = world or World()
    wanted = torch.arange(len(pictures)) if chosen is None else torch.from_numpy(np.asarray(chosen, dtype=np.int64))
    wanted = wanted[world.rank :: world.size]
    batch_size = batch_size or usual_batch(pictures)
    mode = net.training
    net.eval()
    rows: list[Tensor] = []
    logits: list[Tensor] = []
    traits: list[Tensor] = []
    try:
        done = 0
        for row, x in in_order(pictures, batch_size, device.torch, channels_last=device.channels_last, chosen=wanted):
            with device.autocast():
                out, seen = averaged(net, x, tta, mirror, features=features)
            rows.append(row)
            logits.append(out.cpu())
            if seen is not None:
                traits.append(seen.cpu())
            done += len(row)
            if show:
                show(done / max(1, len(wanted)), "")
    finally:
        net.train(mode)
    empty = torch.zeros(0, 0)
    found = gathered(torch.cat(rows) if rows else torch.zeros(0, dtype=torch.int64), world)
    answers = gathered(torch.cat(logits) if logits else empty, world)
    vectors = gathered(torch.cat(traits), world) if traits else torch.zeros(len(found), 0)
    order = torch.argsort(found)
    return found[order].numpy(), answers[order].numpy(), vectors[order].numpy()
