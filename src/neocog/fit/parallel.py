"""Several processes, one training: ``torchrun --nproc-per-node N -m neocog train ...``.

Each process takes its part of every batch; gradients and batch statistics are those of the whole batch. So N
processes compute what one would, up to the order of additions.
"""

from __future__ import annotations

import atexit
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn


@dataclass(frozen=True, slots=True)
class World:
    """Which process this is, of how many."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0

    @property
    def first(self) -> bool:
        """Whether this process writes the run folder and speaks."""
        return self.rank == 0


def join() -> World:
    """Join the group that torchrun started (environment RANK, WORLD_SIZE, LOCAL_RANK), or be alone."""
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        return World()
    if not dist.is_initialized():
        dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
        atexit.register(leave)  # not before: torchrun's processes can meet only once
    return World(dist.get_rank(), dist.get_world_size(), int(os.environ.get("LOCAL_RANK", "0")))


def leave() -> None:
    """Leave the group, if there is one. A program that trains several times stays in it until it ends."""
    if dist.is_available() and dist.is_initialized():
        dist.destroy_process_group()


def wait_for_all(world: World) -> None:
    """Go on when every process has come here."""
    if world.size > 1:
        dist.barrier()


def share_gradients(net: nn.Module, count: Tensor, world: World) -> Tensor:
    """Replace every gradient by its sum over the processes, divided by the sum of their `count`, which is returned.

    One message for all of them. Before, gradients are those of sums over `count` things.
    """
    if world.size == 1:
        for p in net.parameters():
            if p.grad is not None:
                p.grad /= count.clamp(min=1e-6).to(p.grad)
        return count
    gradients = []
    for p in net.parameters():
        if p.requires_grad:
            if p.grad is None:  # a block that stochastic depth left out here may have been used elsewhere
                p.grad = torch.zeros_like(p)
            gradients.append(p.grad)
    flat = torch.cat([*(g.reshape(-1) for g in gradients), count.to(gradients[0]).reshape(1)])
    dist.all_reduce(flat)
    whole = flat[-1].clone()
    flat /= whole.clamp(min=1e-6)
    first = 0
    for g in gradients:
        g.copy_(flat[first : first + g.numel()].view_as(g))
        first += g.numel()
    return whole


def same_everywhere(value: Any, world: World) -> Any:
    """The first process's `value` (anything small), in all of them."""
    if world.size == 1:
        return value
    box = [value]
    dist.broadcast_object_list(box, src=0)
    return box[0]


def total(values: Tensor, world: World) -> Tensor:
    """The sum of `values` over the processes."""
    if world.size > 1:
        dist.all_reduce(values)
    return values


def of_all(value: Any, world: World) -> list[Any]:
    """The values of all processes, in their order (arrays, dicts: anything that can be sent)."""
    if world.size == 1:
        return [value]
    parts: list[Any] = [None] * world.size
    dist.all_gather_object(parts, value)
    return parts


def gathered(values: Tensor, world: World) -> Tensor:
    """Rows (n_i, ...) of all processes, one after another; the numbers of rows may differ."""
    return (
        values
        if world.size == 1
        else torch.cat([part for part in of_all(values.cpu(), world) if len(part)] or [values])
    )


class _Sum(torch.autograd.Function):
    """All-reduce whose gradient is the all-reduce of the gradients."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        y = x.clone()
        dist.all_reduce(y)
        return y

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:  # type: ignore[override]
        g = gradient.clone()
        dist.all_reduce(g)
        return g


class GlobalBatchNorm2d(nn.BatchNorm2d):
    """BN with the statistics of all processes' pictures. PyTorch's SyncBatchNorm refuses CPU tensors."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to the same shape."""
        if not self.training:
            return super().forward(x)
        y = x if x.dtype == torch.float64 else x.float()  # sums in at least float32
        count = y.new_tensor([y.numel() // y.size(1)])
        sums = _Sum.apply(torch.cat((y.sum((0, 2, 3)), (y * y).sum((0, 2, 3)), count)))
        c = y.size(1)
        n = sums[-1].detach()
        mean = sums[:c] / n
        var = (sums[c : 2 * c] / n - mean * mean).clamp(min=0)
        if self.track_running_stats and self.running_mean is not None and self.running_var is not None:
            momentum = 0.1 if self.momentum is None else self.momentum
            with torch.no_grad():
                self.running_mean.lerp_(mean, momentum)
                self.running_var.lerp_(var * (n / (n - 1)), momentum)
                if self.num_batches_tracked is not None:
                    self.num_batches_tracked += 1
        y = (y - mean[:, None, None]) * (var + self.eps).rsqrt()[:, None, None]
        if self.weight is not None:
            y = y * self.weight[:, None, None] + self.bias[:, None, None]
        return y.to(x.dtype)


def with_global_norms(net: nn.Module, world: World) -> nn.Module:
    """Let every BN layer of `net` use the statistics of all processes. Names and weights stay; the net is changed."""
    if world.size == 1:
        return net
    if next(net.parameters()).is_cuda:
        return nn.SyncBatchNorm.convert_sync_batchnorm(net)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.__class__ = GlobalBatchNorm2d  # same state, another forward
    return net


@contextmanager
def alone(net: nn.Module) -> Iterator[None]:
    """Let the BN layers of `net` use this process's statistics only, for what one process does by itself.

    Otherwise they would wait for sums that the others never send.
    """
    changed = [(m, type(m)) for m in net.modules() if isinstance(m, (GlobalBatchNorm2d, nn.SyncBatchNorm))]
    for module, _ in changed:
        module.__class__ = nn.BatchNorm2d  # type: ignore[assignment]
    try:
        yield
    finally:
        for module, kind in changed:
            module.__class__ = kind  # type: ignore[assignment]
