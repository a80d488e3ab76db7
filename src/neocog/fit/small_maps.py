"""Gradients of filters on small maps, computed on maps that lie side by side.

What PyTorch calls on a CPU for the gradient of a convolution's filters is slow where maps are only a few pixels wide
(2 cores of a Xeon with AMX, bfloat16, 500 maps, 256 to 256 channels: 44 ms on 7x7 and 25 ms on 3x3, where the forward
pass takes 13 and 4 ms). With several maps side by side in one wide map, a margin of zeros between them, the sum is the
same, and takes 25 and 6 ms.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from neocog.engine.speed import seconds_of

_WIDEST = 8  # maps up to this many pixels wide are put side by side
_ROW = 32  # until a row is this wide
_ARGUMENTS = ("input", "weight", "bias", "stride", "padding", "dilation", "groups")  # of torch.conv2d


class SideBySide(TorchFunctionMode):
    """Within this context, convolutions of small maps have the same gradients, computed faster."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.conv2d and torch.is_grad_enabled():
            given = dict(zip(_ARGUMENTS, args, strict=False)) | (kwargs or {})
            if (pad := _same(**given)) is not None:
                x, filters = given["input"], given["weight"]
                if torch.is_autocast_enabled("cpu"):
                    dtype = torch.get_autocast_dtype("cpu")
                    x, filters = x.to(dtype), filters.to(dtype)
                return _Convolution.apply(x, filters, pad)
        return func(*args, **(kwargs or {}))


def _same(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> int | None:
    """The padding of a convolution to which this applies: small square filters at every position of a small map."""
    size = weight.shape[-1]
    pads = (padding, padding) if isinstance(padding, int) else tuple(padding)
    ones = all(one in (1, (1, 1), [1, 1]) for one in (stride, dilation))
    if not (ones and groups == 1 and bias is None and weight.requires_grad and weight.shape[-2] == size):
        return None
    wide = input.ndim == 4 and 0 < input.shape[-1] <= _WIDEST and len(input) > 1
    return size // 2 if wide and size % 2 and size > 1 and pads == (size // 2,) * 2 else None


class _Convolution(torch.autograd.Function):
    """A convolution without bias, stride 1, with padding that keeps the size."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, filters: Tensor, pad: int) -> Tensor:  # type: ignore[override]
        ctx.save_for_backward(x, filters)
        ctx.pad = pad
        return torch.conv2d(x, filters, None, 1, pad)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, None]:  # type: ignore[override]
        x, filters = ctx.saved_tensors
        of_input = of_filters = None
        if ctx.needs_input_grad[0]:
            of_input = _backward(gradient, x, filters, ctx.pad, of_filters=False)
        if ctx.needs_input_grad[1]:
            of_filters = filter_gradient(gradient, x, filters, ctx.pad)
        return of_input, of_filters, None


def filter_gradient(gradient: Tensor, x: Tensor, filters: Tensor, pad: int) -> Tensor:
    """Return the gradient of filters (O, C, k, k) from that of the output (B, O, H, W) and the input (B, C, H, W)."""
    count = -(-_ROW // (x.shape[-1] + pad))
    return _backward(side_by_side(gradient, count, pad), side_by_side(x, count, pad), filters, pad, of_filters=True)


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


def _backward(gradient: Tensor, x: Tensor, filters: Tensor, pad: int, *, of_filters: bool) -> Tensor:
    wanted = [not of_filters, of_filters, False]
    found = torch.ops.aten.convolution_backward(
        gradient, x, filters, None, [1, 1], [pad, pad], [1, 1], False, [0, 0], 1, wanted
    )
    return found[1 if of_filters else 0]


def pays(dtype: torch.dtype, machine: str) -> bool:
    """Whether the gradient of filters is at least 1.15 times as fast here; see `speed.seconds_of`."""
    g = torch.Generator().manual_seed(0)
    x, gradient = (
        torch.randn(64, 128, 7, 7, generator=g).to(dtype).contiguous(memory_format=torch.channels_last)
        for _ in range(2)
    )
    filters = torch.randn(128, 128, 3, 3, generator=g).to(dtype).contiguous(memory_format=torch.channels_last)
    taken = seconds_of(
        f"gradient of filters on small maps, 64x128x7x7 {dtype}",
        machine,
        {
            "plain": lambda: _backward(gradient, x, filters, 1, of_filters=True),
            "side by side": lambda: filter_gradient(gradient, x, filters, 1),
        },
    )
    return taken["plain"] > 1.15 * taken["side by side"]
