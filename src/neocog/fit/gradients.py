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
_ARGUMENTS = ("input", "weight", "bias", "stride", "padding", "dilation", "groups")  # of torch.conv2d


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
        if func is torch.conv2d and torch.is_grad_enabled():
            given = dict(zip(_ARGUMENTS, args, strict=False)) | (kwargs or {})
            low = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else None
            if self.side_by_side and (pad := _same(**given)) is not None:
                x, filters = given["input"], given["weight"]
                return _Convolution.apply(x.to(low or x.dtype), filters.to(low or filters.dtype), pad)
            if self.depthwise and low is torch.bfloat16 and (how := _depthwise(**given)) is not None:
                return _Depthwise.apply(given["input"].to(low), given["weight"], *how)
        return func(*args, **(kwargs or {}))


def _depthwise(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> tuple[list[int], list[int], list[int]] | None:
    """Stride, padding and dilation of a convolution whose every filter reads one map, and gives one; else None."""
    fits = groups > 1 and weight.shape[:2] == (groups, 1) and bias is None and input.ndim == 4
    if not fits or isinstance(padding, str) or not weight.requires_grad:
        return None
    stride, padding, dilation = ([v, v] if isinstance(v, int) else list(v) for v in (stride, padding, dilation))
    return stride, padding, dilation


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


class _Depthwise(torch.autograd.Function):
    """A depthwise convolution without bias: computed in the type of `x`, its gradients in float32."""

    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any, x: Tensor, filters: Tensor, stride: list[int], padding: list[int], dilation: list[int]
    ) -> Tensor:
        ctx.save_for_backward(x, filters)
        ctx.how = stride, padding, dilation
        return torch.conv2d(x, filters.to(x.dtype), None, stride, padding, dilation, len(filters))

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        x, filters = ctx.saved_tensors
        stride, padding, dilation = ctx.how
        wanted = ctx.needs_input_grad[:2]
        of_input, of_filters = _depthwise_backward(gradient, x, filters, stride, padding, dilation, wanted)
        return of_input, of_filters, None, None, None


def _depthwise_backward(
    gradient: Tensor,
    x: Tensor,
    filters: Tensor,
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    wanted: tuple[bool, bool] = (True, True),
) -> tuple[Tensor | None, Tensor | None]:
    of_input, of_filters, _ = torch.ops.aten.convolution_backward(
        gradient.float(), x.float(), filters.float(), None, stride, padding, dilation, False, [0, 0], len(filters),
        [*wanted, False],
    )  # fmt: skip
    return (None if of_input is None else of_input.to(x.dtype)), of_filters


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


def depthwise_pays(machine: str) -> bool:
    """Whether gradients of depthwise convolutions of bfloat16 are at least 1.15 times as fast in float32 here."""
    g = torch.Generator().manual_seed(0)
    x, gradient = (
        torch.randn(8, 240, 14, 14, generator=g).bfloat16().contiguous(memory_format=torch.channels_last)
        for _ in range(2)
    )
    filters = torch.randn(240, 1, 5, 5, generator=g)
    how = [1, 1], [2, 2], [1, 1]
    low = filters.bfloat16()
    taken = seconds_of(
        "gradients of a depthwise convolution, 8x240x14x14 bfloat16",
        machine,
        {
            "plain": lambda: torch.ops.aten.convolution_backward(
                gradient, x, low, None, *how, False, [0, 0], 240, [True, True, False]
            ),
            "float32": lambda: _depthwise_backward(gradient, x, filters, *how),
        },
    )
    return taken["plain"] > 1.15 * taken["float32"]
