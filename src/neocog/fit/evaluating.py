"""What a net puts out for pictures, from several views of each if wanted, and the figures of a split."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from neocog.data.batches import NOTHING, Batch, Known, in_order
from neocog.data.pictures import Held, Streamed
from neocog.data.ready import Ready
from neocog.errors import UsageError
from neocog.fit.device import Device
from neocog.fit.job import Split
from neocog.fit.parallel import World, gathered, of_all
from neocog.nets.taps import LAST, Outputs, tapped
from neocog.tasks import Meter, Task
from neocog.tasks.task import Seen

VIEWS = ("none", "flip", "shift", "turn", "mirror")


def views(x: Tensor, kind: str, mirror: bool = True) -> Iterator[tuple[float, Tensor, bool]]:
    """Views of pictures (B, C, H, W): the weight of each in the average, the pictures, whether they are mirrored.

    The weights add up to 1; the picture as it is comes first.

    ``none``: the picture. ``flip``: also its mirror image (if `mirror`: for letters and digits it is another
    picture). ``shift``: half of the weight on that, half on the same moved by a pixel up left and down right
    (Jordan 2024, section 3.5). ``mirror``: only its mirror image, to see what that changes.

    Raises:
        UsageError: no such kind.
    """
    if kind not in VIEWS:
        raise UsageError(f"unknown test-time views {kind!r}; expected one of {', '.join(VIEWS)}")
    if x.ndim != 4:  # features, or texts
        yield 1.0, x, False
        return
    if kind == "mirror":
        yield 1.0, x.flip(3), True
        return
    moved = [(1.0, x)]
    if kind == "shift":
        h, w = x.shape[2:]
        padded = F.pad(x, (1, 1, 1, 1), mode="reflect")
        moved = [(0.5, x), (0.25, padded[:, :, :h, :w]), (0.25, padded[:, :, 2:, 2:])]
    for weight, view in moved:
        if kind == "none" or not mirror:
            yield weight, view, False
        else:
            yield weight / 2, view, False
            yield weight / 2, view.flip(3), True


class Telling(nn.Module):
    """A net that answers with its outputs and with the features of the same pass: ``[outputs, (B, D)]``."""

    tells = True

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, *inputs: Tensor) -> list[Any]:
        """As the net's."""
        with tapped(self.net, [LAST]) as read:
            out = self.net(*inputs)
        return [out, features_read(self.net, read, inputs[0]).float()]


def averaged(
    net: nn.Module, task: Task, batch: Batch, kind: str, mirror: bool, *, features: bool
) -> tuple[Any, Tensor | None]:
    """Outputs averaged over the views of a batch's pictures, and if wanted the features (B, D) of the plain view.

    ``turn``: as ``flip``, of the pictures in each of their four quarter turns.

    All are float32. Raises: UsageError: no such kind of views.
    """
    if kind == "turn":
        total, first = None, None
        for quarter in range(4):
            inputs = tuple(x.rot90(quarter, (2, 3)) for x in batch.inputs)
            shown = Batch(inputs, batch.targets, batch.rows, batch.valid, batch.warp)
            made, found = averaged(net, task, shown, "flip", mirror, features=features and not quarter)
            back = tree_map(lambda v: v / 4 if isinstance(v, Tensor) else v, task.unturned(made, quarter))
            total, first = (back, found) if total is None else (tree_map(_sum, total, back), first)
        return total, first
    outputs: Any = None
    traits: Tensor | None = None
    told = getattr(net, "tells", False)
    seen = [list(views(x, kind, mirror)) for x in batch.inputs]
    for parts in zip(*seen, strict=True):
        weight, _, mirrored = parts[0]
        shown = Batch(tuple(view for _, view, _ in parts), batch.targets, batch.rows, batch.valid, batch.warp)
        if told:
            made, found = task.run(net, shown)
            traits = found if traits is None else traits
        elif features and traits is None:  # of the plain view, which comes first
            with tapped(net, [LAST]) as read:
                made = task.run(net, shown)
            traits = features_read(net, read, shown.x).float()
        else:
            made = task.run(net, shown)
        made = floated(made)
        if mirrored and kind != "mirror":
            made = task.unmirrored(made)
        if weight != 1.0:
            made = tree_map(lambda v, w=weight: v * w if isinstance(v, Tensor) else v, made)
        outputs = made if outputs is None else tree_map(_sum, outputs, made)
    return outputs, traits


def features_read(net: nn.Module, read: Outputs, x: Tensor) -> Tensor:
    """What the last layer read in a pass over pictures `x` (B, D), the mean of maps; else it is computed again."""
    found = read.get(LAST)
    if read.calls[LAST] == 1 and isinstance(found, Tensor) and found.ndim == 2:
        return found
    again: Tensor = net.forward_features(x)  # type: ignore[operator]
    return again.flatten(2).mean(2) if again.ndim > 2 else again


def _sum(a: Any, b: Any) -> Any:
    return a + b if isinstance(a, Tensor) else a


def floated(outputs: Any) -> Any:
    """Outputs with every floating tensor in float32 (or as it is, in float64)."""
    return tree_map(
        lambda v: v.float() if isinstance(v, Tensor) and v.is_floating_point() and v.dtype != torch.float64 else v,
        outputs,
    )


def usual_batch(pictures: Held | Streamed | Ready) -> int:
    """Pictures in one pass: 500 of up to 64x64; of larger ones fewer, so that a pass takes about the same memory.

    Pictures that keep their own size come alone.
    """
    if isinstance(pictures, Ready):
        return pictures.one_pass
    if pictures.pre.fit == "tile":
        return 1
    height, width = pictures.pre.input
    return max(4 if pictures.pre.fit == "pad" else 16, min(500, 500 * 64**2 // (height * width)))


class Passed(NamedTuple):
    """One batch of evaluation."""

    batch: Batch
    outputs: Any
    features: Tensor | None


@torch.inference_mode()
def passes(
    net: nn.Module,
    task: Task,
    split: Split,
    device: Device,
    *,
    tta: str = "none",
    mirror: bool = True,
    features: bool = False,
    **how: Any,
) -> Iterator[Passed]:
    """What a net answers for the pictures of a split; further arguments are those of `batches_of`."""
    for batch in batches_of(net, split.pictures, device, known=split.known, **how):
        with device.autocast():
            outputs, traits = averaged(net, task, batch, tta, mirror, features=features)
        yield Passed(batch, outputs, traits)


@torch.inference_mode()
def batches_of(
    net: nn.Module,
    pictures: Sequence[Held | Streamed | Ready],
    device: Device,
    *,
    known: Known = NOTHING,
    batch_size: int | None = None,
    chosen: np.ndarray | None = None,
    world: World | None = None,
    show: Callable[[float, str], None] | None = None,
) -> Iterator[Batch]:
    """Batches of pictures that can be read, with `net` in eval mode meanwhile; its mode is restored.

    Args:
        batch_size: pictures at a time; None: `usual_batch`.
        chosen: rows of the pictures (default all). Several processes share them.
    """
    world = world or World()
    wanted = torch.arange(len(pictures[0])) if chosen is None else torch.from_numpy(np.asarray(chosen, dtype=np.int64))
    wanted = wanted[world.rank :: world.size]
    size, mode, done = batch_size or usual_batch(pictures[0]), net.training, 0
    net.eval()
    try:
        for batch in in_order(
            pictures, size, device.torch, known=known, channels_last=device.channels_last, chosen=wanted
        ):
            yield batch
            done += len(batch)
            if show:
                show(done / max(1, len(wanted)), "")
    finally:
        net.train(mode)


def by_row(rows: Sequence[Tensor], values: Sequence[Tensor], world: World) -> tuple[np.ndarray, np.ndarray]:
    """The rows int64 (N,) of all processes in their order, and the values (N, ...) of each."""
    found = gathered(torch.cat([torch.zeros(0, dtype=torch.int64), *rows]), world)
    answers = gathered(torch.cat(tuple(values)) if values else torch.zeros(0, 0), world)
    order = torch.argsort(found)
    return found[order].numpy(), answers[order].numpy()


def observed(
    net: nn.Module, task: Task, split: Split, device: Device, *, world: World | None = None, **how: Any
) -> tuple[Seen, np.ndarray]:
    """What the task keeps of a split (`Task.observe`), and features float32 (N, D) in the order of its rows.

    Further arguments are those of `passes`; every process gets what all have seen.
    """
    world, meter = world or World(), Meter(task)
    rows, traits = list[Tensor](), list[Tensor]()
    for batch, outputs, found in passes(net, task, split, device, world=world, **how):
        meter.add(outputs, batch)
        rows.append(batch.rows)
        if found is not None:
            traits.append(found.cpu())
    seen = meter.seen(lambda own: of_all(own, world))
    return seen, by_row(rows, traits, world)[1] if how.get("features") else np.zeros((0, 0), np.float32)
