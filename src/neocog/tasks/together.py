"""Rows of all processes, for losses that compare the samples of a batch."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


class _Gather(torch.autograd.Function):
    """Rows of all processes, one after another; the gradient is the sum of what all processes ask of these rows."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor) -> Tensor:
        parts = [torch.empty_like(rows) for _ in range(dist.get_world_size())]
        dist.all_gather(parts, rows.contiguous())
        ctx.count = len(rows)
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:  # type: ignore[override]
        whole = gradient.clone()
        dist.all_reduce(whole)
        first = dist.get_rank() * ctx.count
        return whole[first : first + ctx.count]


def all_rows(rows: Tensor) -> Tensor:
    """Rows (B, ...) of every process as (world x B, ...), in the order of the processes; gradients flow back.

    Every process must hold as many rows. The mean over processes of the gradients of a loss that each computes of all
    rows is then the gradient of that loss.
    """
    if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
        return rows
    return _Gather.apply(rows)  # type: ignore[no-any-return]
