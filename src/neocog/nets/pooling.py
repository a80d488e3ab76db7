"""Output sizes, and the pooling layers that PyTorch lacks.

A window of F values moves in steps of S over W values with P zeros at either end. It stops at
``(W - F + 2P) / S + 1`` places, if that is a whole number; what happens otherwise is the rule, called `fit` here:

    strict   the layer is refused, as in the lectures
    floor    the values at the end that fill no window are not read (PyTorch, and convolution in Caffe)
    ceil     one more window, which reads beyond the end; it is dropped if it would begin there (pooling in Caffe)

7 values, window 3, step 3: refused; 2 places; 3 places.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import NetError
from .layers import check_choice

FITS = ("strict", "floor", "ceil")


def output_size(
    size: int, kernel: int, stride: int = 1, padding: int = 0, dilation: int = 1, fit: str = "floor"
) -> int:
    """Return at how many places a window of `kernel` values stops, along one side of `size` values.

    Raises: NetError if the window is larger than the padded side, or if `fit` is "strict" and the steps do not come
    out even; the message names the nearest sizes that would fit.
    """
    _check_fit(fit)
    span = dilation * (kernel - 1) + 1
    steps, rest = divmod(size - span + 2 * padding, stride)
    if size < 1 or steps < 0:
        needed = max(1, span - 2 * padding)
        raise NetError(
            f"doesn't fit: cannot apply {span}x{span} filter on {size}x{size} input with padding {padding}; "
            f"the input must be at least {needed}x{needed}"
        )
    if not rest:
        return steps + 1
    if fit == "strict":
        # below the smallest of these no window fits at all
        near = [other for other in (size - rest, size - rest + stride) if other >= max(1, span - 2 * padding)]
        raise NetError(
            f"doesn't fit: cannot apply {span}x{span} filter on {size}x{size} input with stride {stride}: "
            f"({size} - {span} + 2*{padding})/{stride} + 1 = {steps + 1 + rest / stride:.2f} is not a whole number; "
            f"{' or '.join(f'{other}x{other}' for other in near)} would fit, or choose fit='floor' or fit='ceil'"
        )
    if fit == "floor" or (steps + 1) * stride >= size + padding:  # the extra window would begin beyond the input
        return steps + 1
    return steps + 2


def _check_fit(fit: str) -> None:
    check_choice("fit", fit, FITS)


def _check_strict(fit: str, x: Tensor, kernel: int, stride: int, padding: int, dilation: int = 1) -> None:
    """Raise NetError if the rule is strict and the layer does not fit the height or the width of `x`."""
    if fit == "strict":
        for side in x.shape[-2:]:
            output_size(side, kernel, stride, padding, dilation, fit=fit)


class FitConv2d(nn.Conv2d):
    """Convolution with square filters and a rule for its output size, `fit`. Otherwise as `nn.Conv2d`.

    With fit="ceil" the windows at the lower and the right end read zeros beyond the padding. With "strict" filters that
    do not fit raise a NetError in forward, as in the poolings below.
    """

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: int, *args: Any, fit: str = "strict", **more: Any
    ) -> None:
        _check_fit(fit)
        super().__init__(in_channels, out_channels, kernel_size, *args, **more)
        self.fit = fit

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, H, W) -> (B, out_channels, H', W')."""
        kernel, stride, dilation = self.kernel_size[0], self.stride[0], self.dilation[0]
        padding = int(self.padding[0])
        _check_strict(self.fit, x, kernel, stride, padding, dilation)
        if self.fit == "ceil":
            span = dilation * (kernel - 1) + 1
            beyond = []  # how far the last window reaches beyond the padding, downwards and to the right
            for side in x.shape[-2:]:
                start = (output_size(side, kernel, stride, padding, dilation, fit="ceil") - 1) * stride
                beyond.append(max(0, start + span - side - 2 * padding))
            x = F.pad(x, (0, beyond[1], 0, beyond[0]))
        return super().forward(x)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, fit={self.fit!r}"


class FitMaxPool2d(nn.MaxPool2d):
    """Maximum over square windows, with a rule for the output size, `fit`. Otherwise as `nn.MaxPool2d`."""

    def __init__(
        self, kernel_size: int, stride: int | None = None, padding: int = 0, *, fit: str = "strict", **more: Any
    ) -> None:
        _check_fit(fit)
        super().__init__(kernel_size, stride, padding, ceil_mode=fit == "ceil", **more)
        self.fit = fit

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H', W')."""
        _check_strict(self.fit, x, self.kernel_size, self.stride, self.padding, self.dilation)  # type: ignore[arg-type]
        return super().forward(x)  # type: ignore[no-any-return]


class FitAvgPool2d(nn.AvgPool2d):
    """Mean over square windows, with a rule for the output size, `fit`.

    A mean counts the zeros of the padding, but not what a last window reads beyond them, as in Caffe and PyTorch.
    """

    def __init__(self, kernel_size: int, stride: int | None = None, padding: int = 0, *, fit: str = "strict") -> None:
        _check_fit(fit)
        super().__init__(kernel_size, stride, padding, ceil_mode=fit == "ceil")
        self.fit = fit

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H', W')."""
        _check_strict(self.fit, x, self.kernel_size, self.stride, self.padding)  # type: ignore[arg-type]
        return super().forward(x)


def _root(squares: Tensor) -> Tensor:
    """Square root whose gradient at 0 is 0, not infinite: a window of zeros must not spoil the training."""
    positive = squares > 0
    return torch.where(positive, squares, 1.0).sqrt() * positive


class L2Pool2d(nn.Module):
    """L2 pooling: the square root of the sum of squares in each window, (B, C, H, W) -> (B, C, H', W').

    With `mean` the sum is divided by the number of values in the window, as some texts do (the lectures do not).
    """

    def __init__(
        self, kernel_size: int, stride: int | None = None, padding: int = 0, *, mean: bool = False, fit: str = "floor"
    ) -> None:
        super().__init__()
        _check_fit(fit)
        self.kernel_size, self.stride, self.padding = kernel_size, stride or kernel_size, padding
        self.mean, self.fit = mean, fit

    def forward(self, x: Tensor) -> Tensor:
        _check_strict(self.fit, x, self.kernel_size, self.stride, self.padding)
        ceil, by = self.fit == "ceil", None if self.mean else 1
        windows = (self.kernel_size, self.stride, self.padding)
        return _root(F.avg_pool2d(x.square(), *windows, ceil_mode=ceil, divisor_override=by))

    def extra_repr(self) -> str:
        return f"{self.kernel_size}, stride={self.stride}, padding={self.padding}, mean={self.mean}, fit={self.fit!r}"


class L2PoolFeatures(nn.Module):
    """L2 pooling over features: the root of the sum of squares of `size` maps, at each place.

    groups=False: each map j with its neighbours j - size // 2 to j + size // 2 (fewer at either end), so that the
    number of maps stays; (B, C, ...) -> (B, C, ...).
    groups=True: maps 0 to size - 1, then the next `size`, and so on; (B, C, ...) -> (B, C / size, ...).
    """

    def __init__(self, size: int, *, groups: bool = False) -> None:
        super().__init__()
        if size < 1 or (size % 2 == 0 and not groups):
            raise NetError(f"a map has as many neighbours on either side, so size must be odd, got {size}")
        self.size, self.groups = size, groups

    def forward(self, x: Tensor) -> Tensor:
        maps, squares = x.shape[1], x.square()
        if self.groups:
            if maps % self.size:
                raise NetError(f"cannot form groups of {self.size} from {maps} maps; choose a size that divides {maps}")
            return _root(squares.unflatten(1, (-1, self.size)).sum(2))
        side = self.size // 2
        around = F.pad(squares, (0, 0) * (x.dim() - 2) + (side, side))
        return _root(torch.stack([around[:, shift : shift + maps] for shift in range(self.size)]).sum(0))

    def extra_repr(self) -> str:
        return f"{self.size}, groups={self.groups}"


class SwitchedMaxPool2d(FitMaxPool2d):
    """Max pooling that also says where each maximum was: its switches.

    (B, C, H, W) -> maxima and switches, both (B, C, H', W'). A switch is the position of the maximum in its map,
    row * W + column; `MaxUnpool2d` puts values back there. Zeiler and Fergus 2014; Noh et al. 2015.
    """

    def __init__(self, kernel_size: int, stride: int | None = None, padding: int = 0, *, fit: str = "floor") -> None:
        super().__init__(kernel_size, stride, padding, fit=fit, return_indices=True)


class MaxUnpool2d(nn.Module):
    """Put values back to where `SwitchedMaxPool2d` found them; all other places are 0.

    Where windows overlap and share a maximum, its values are added, so that for fixed switches this is the exact
    transpose of pooling (``nn.MaxUnpool2d`` keeps one of them, and needs the windows and steps).
    """

    def forward(self, x: Tensor, switches: Tensor, size: tuple[int, int] | torch.Size) -> Tensor:
        """x, switches (B, C, H', W') -> (B, C, *size); `size` is the height and width before pooling."""
        if x.shape != switches.shape:
            raise NetError(
                f"expected a switch for every value, got values {tuple(x.shape)} and switches {tuple(switches.shape)}"
            )
        height, width = size
        empty = x.new_zeros(*x.shape[:2], height * width)
        return empty.scatter_add(2, switches.flatten(2), x.flatten(2)).unflatten(2, (height, width))
