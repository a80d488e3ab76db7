"""Gradients of convolutions on a CPU, where what PyTorch calls for them is slow.

- Of filters on maps that are only a few pixels wide (2 cores of a Xeon with AMX, bfloat16, 500 maps, 256 to 256
  channels: 44 ms on 7x7 and 25 ms on 3x3, where the forward pass takes 13 and 4 ms). With several maps side by side in
  one wide map, a margin of zeros between them, the sum is the same, and takes 25 and 6 ms.
- Of depthwise convolutions in bfloat16 (2 cores of an EPYC with AVX512-BF16, 8 maps of 240 channels, 44x60, 5x5: 119 ms
  for the filters' and 6 for the input's). In float32 they take 32 and 7 ms.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from neocog.engine.speed import seconds_of

_WIDEST = 8  # maps up to this many pixels wide are put side by side
_ROW = 32  # until a row is this wide

Sizes = tuple[list[int], list[int], list[int]]  # stride, padding and dilation of a convolution


class FasterGradients(TorchFunctionMode):
    """Within this context, some convolutions have the same gradients, computed faster.

    Args:
        side_by_side: those of filters on small maps.
        depthwise: those of depthwise convolutions that autocast computes in bfloat16.
    """

    def __init__(self, side_by_side: bool = True, depthwise: bool = True) -> None:
        super().__init__()
        self.side_by_side, self.depthwise = side_by_side, depthwise

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.conv2d and torch.is_grad_enabled() and (given := _learning(*args, **(kwargs or {}))):
            x, filters, groups, sizes = given
            low = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else None
            if self.side_by_side and groups == 1 and _small(x, filters, sizes):
                x, filters = x.to(low or x.dtype), filters.to(low or filters.dtype)
                return _Convolution.apply(x, filters, sizes, _of_small_maps)
            if self.depthwise and low is torch.bfloat16 and groups > 1 and filters.shape[:2] == (groups, 1):
                return _Convolution.apply(x.to(low), filters, sizes, _in_float32)
        return func(*args, **(kwargs or {}))


def _learning(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> tuple[Tensor, Tensor, int, Sizes] | None:
    """A convolution as `torch.conv2d` takes it, if its filters learn and it has no bias; else None."""
    if bias is not None or input.ndim != 4 or isinstance(padding, str) or not weight.requires_grad:
        return None
    stride, padding, dilation = ([v, v] if isinstance(v, int) else list(v) for v in (stride, padding, dilation))
    return input, weight, groups, (stride, padding, dilation)


def _small(x: Tensor, filters: Tensor, sizes: Sizes) -> bool:
    """Whether small square filters are applied at every position of a small map."""
    height, size = filters.shape[2:]
    same = height == size > 1 and size % 2 == 1 and sizes == ([1, 1], [size // 2] * 2, [1, 1])
    return same and 0 < x.shape[-1] <= _WIDEST and len(x) > 1


class _Convolution(torch.autograd.Function):
    """A convolution without bias, computed in the type of `x`, whose gradients are those that `gradients` gives."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, filters: Tensor, sizes: Sizes, gradients: Any) -> Tensor:  # type: ignore[override]
        ctx.save_for_backward(x, filters)
        ctx.sizes, ctx.gradients = sizes, gradients
        return torch.conv2d(x, filters.to(x.dtype), None, *sizes, x.shape[1] // filters.shape[1])

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        found = ctx.gradients(gradient, *ctx.saved_tensors, ctx.sizes, ctx.needs_input_grad[:2])
        return *found, None, None


def _plain(gradient: Tensor, x: Tensor, filters: Tensor, sizes: Sizes, wanted: Any) -> tuple[Tensor | None, ...]:
    """Gradients of the input and of the filters, those that are wanted, as PyTorch computes them."""
    groups = x.shape[1] // filters.shape[1]
    found: tuple[Tensor | None, ...] = torch.ops.aten.convolution_backward(
        gradient, x, filters, None, *sizes, False, [0, 0], groups, [*wanted, False]
    )
    return found[:2]


def _of_small_maps(gradient: Tensor, x: Tensor, filters: Tensor, sizes: Sizes, wanted: Any) -> list[Tensor | None]:
    found: list[Tensor | None] = [None, None]
    if wanted[0]:
        found[0] = _plain(gradient, x, filters, sizes, (True, False))[0]
    if wanted[1]:
        margin = sizes[1][0]
        count = -(-_ROW // (x.shape[-1] + margin))
        wide = side_by_side(gradient, count, margin), side_by_side(x, count, margin)
        found[1] = _plain(*wide, filters, sizes, (False, True))[1]
    return found


def _in_float32(gradient: Tensor, x: Tensor, filters: Tensor, sizes: Sizes, wanted: Any) -> list[Tensor | None]:
    of_input, of_filters = _plain(gradient.float(), x.float(), filters.float(), sizes, wanted)
    return [None if of_input is None else of_input.to(x.dtype), of_filters]


def side_by_side(maps: Tensor, count: int, margin: int) -> Tensor:
    """Maps (B, C, H, W) to (B / count, C, H, count * (W + margin)), channels-last; what is missing is 0."""
    b, c, h, w = maps.shape
    rows = -(-b // count)
    out = maps.new_zeros(rows, h, count, w + margin, c)
    whole = b // count
    flat = maps.permute(0, 2, 3, 1)  # (B, H, W, C)
    out[:whole, :, :, :w] = flat[: whole * count].view(whole, count, h, w, c).transpose(1, 2)
    if rest := b - whole * count:
        out[whole, :, :rest, :w] = flat[whole * count :].transpose(0, 1)
    return out.view(rows, h, count * (w + margin), c).permute(0, 3, 1, 2)


def pays(dtype: torch.dtype, machine: str) -> bool:
    """Whether the gradient of filters on small maps is at least 1.15 times as fast here; see `speed.seconds_of`."""
    what = f"gradient of filters on small maps, 64x128x7x7 {dtype}"
    return _faster(
        "side by side", _of_small_maps, what, machine, (64, 128, 7, 7), (128, 128, 3, 3), dtype, (False, True)
    )


def depthwise_pays(machine: str) -> bool:
    """Whether gradients of depthwise convolutions of bfloat16 are at least 1.15 times as fast in float32 here."""
    what = "gradients of a depthwise convolution, 8x240x14x14 bfloat16"
    return _faster(
        "float32", _in_float32, what, machine, (8, 240, 14, 14), (240, 1, 5, 5), torch.bfloat16, (True, True)
    )


def _faster(
    name: str, ours: Any, what: str, machine: str, maps: Any, shape: Any, dtype: torch.dtype, wanted: Any
) -> bool:
    """Whether `ours` gives gradients faster, for maps (B, C, H, W) and filters of this `shape`."""
    g = torch.Generator().manual_seed(0)
    x, gradient, filters = (
        torch.randn(*size, generator=g).to(dtype).contiguous(memory_format=torch.channels_last)
        for size in (maps, maps, shape)
    )
    sizes = [1, 1], [shape[-1] // 2] * 2, [1, 1]
    ways = {
        "plain": lambda: _plain(gradient, x, filters, sizes, wanted),
        name: lambda: ours(gradient, x, filters, sizes, wanted),
    }
    taken = seconds_of(what, machine, ways)
    return taken["plain"] > 1.15 * taken[name]
