"""Layers beside the usual convolution: one without shared filters, one with flipped filters, and maxout.

And the lectures' example of why filters are shared, `three_ways`: for a picture of 200x200 a fully connected layer
of 40,000 units has 1,600,000,000 weights, a locally connected one with windows of 10x10 has 4,000,000, and a
convolution with 100 filters of 10x10 has 10,000.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import NetError
from .layers import check_choice
from .pooling import output_size


class LocallyConnected2d(nn.Module):
    """Like a convolution, but with filters of its own at every position.

    (B, in_channels, *input_size) -> (B, out_channels, H', W'). ``weight[i, j]`` are the filters at output position
    (i, j), shaped like those of a convolution, (out_channels, in_channels, k, k); ``bias`` is (out_channels, H', W').
    So there are H' W' k k in_channels out_channels weights, and as many multiply-adds for one picture.

    Args:
        input_size: height and width of the input, or one number for both; the layer takes no other.
        padding: rows of zeros at each side, or "same" (stride 1 only): as many outputs as inputs.
        fit: what happens if the windows do not fit; see `pooling`. "ceil" is not offered here.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        input_size: int | tuple[int, int],
        kernel_size: int,
        stride: int = 1,
        padding: int | str = 0,
        bias: bool = True,
        *,
        fit: str = "floor",
    ) -> None:
        super().__init__()
        check_choice("fit", fit, ("strict", "floor"))
        if isinstance(padding, str) and (padding != "same" or stride != 1):
            raise NetError(f"padding must be a number, or 'same' with stride 1, got {padding!r} with stride {stride}")
        height, width = (input_size, input_size) if isinstance(input_size, int) else input_size
        self.in_channels, self.out_channels, self.input_size = in_channels, out_channels, (height, width)
        self.kernel_size, self.stride, self.padding, self.fit = kernel_size, stride, padding, fit
        if isinstance(padding, str):
            before = (kernel_size - 1) // 2  # of an even window the larger part lies behind, as nn.Conv2d has it
            self._pads = (before, kernel_size - 1 - before)
            self.output_size = (height, width)
        else:
            self._pads = (padding, padding)
            rows, columns = (output_size(n, kernel_size, stride, padding, fit=fit) for n in (height, width))
            self.output_size = (rows, columns)
        self.weight = nn.Parameter(torch.empty(*self.output_size, out_channels, in_channels, kernel_size, kernel_size))
        self.bias = nn.Parameter(torch.empty(out_channels, *self.output_size)) if bias else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw weights and biases as `nn.Conv2d` does: uniformly within 1 / sqrt(inputs of a unit)."""
        bound = 1 / math.sqrt(self.weight[0, 0, 0].numel())
        nn.init.uniform_(self.weight, -bound, bound)
        if self.bias is not None:
            nn.init.uniform_(self.bias, -bound, bound)

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, *input_size) -> (B, out_channels, H', W')."""
        if x.dim() != 4 or tuple(x.shape[1:]) != (self.in_channels, *self.input_size):
            raise NetError(
                f"this layer has filters for inputs of shape (B, {self.in_channels}, {self.input_size[0]}, "
                f"{self.input_size[1]}), got {tuple(x.shape)}; build it with that input_size"
            )
        if any(self._pads):
            x = F.pad(x, self._pads * 2)
        patches = F.unfold(x, self.kernel_size, stride=self.stride)  # (B, C k k, positions)
        filters = self.weight.flatten(0, 1).flatten(2)  # (positions, K, C k k)
        # one matrix product for each position, with the pictures as columns
        out = torch.bmm(filters, patches.permute(2, 1, 0))  # (positions, K, B)
        out = out.permute(2, 1, 0).unflatten(2, self.output_size)
        return out if self.bias is None else out + self.bias

    def extra_repr(self) -> str:
        return (
            f"{self.in_channels}, {self.out_channels}, input_size={self.input_size}, kernel_size={self.kernel_size}, "
            f"stride={self.stride}, padding={self.padding!r}, bias={self.bias is not None}"
        )


def true_convolution(
    x: Tensor, weight: Tensor, bias: Tensor | None = None, stride: int = 1, padding: int = 0
) -> Tensor:
    """Convolution as mathematics defines it: sum over k, m, n of ``weight[l, k, m, n] x[k, i - m, j - n]``.

    What frameworks (and `nn.Conv2d`) call convolution is cross-correlation, with a plus in place of the minus; the two
    differ by a rotation of the filters by 180 degrees. ``padding = k - 1`` gives the full convolution.

    x (B, C, H, W), weight (K, C, k, k), bias (K,) -> (B, K, H', W').
    """
    return F.conv2d(x, weight.flip(2, 3), bias, stride, padding)


class TrueConv2d(nn.Conv2d):
    """`nn.Conv2d` that convolves, that is with its filters rotated by 180 degrees; see `true_convolution`."""

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return super()._conv_forward(input, weight.flip(2, 3), bias)


class Maxout(nn.Module):
    """Each unit is the maximum of `pieces` linear functions. Goodfellow et al. 2013, arXiv:1302.4389.

    (..., in_features) -> (..., out_features). There is no other non-linearity: k pieces form any convex function of k
    slopes; with two of them |x| and max(0, x) can be learned.
    """

    def __init__(self, in_features: int, out_features: int, pieces: int = 2, bias: bool = True) -> None:
        super().__init__()
        self.pieces = _check_pieces(pieces)
        # outputs i * pieces to i * pieces + pieces - 1 are the pieces of unit i
        self.linear = nn.Linear(in_features, out_features * pieces, bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x).unflatten(-1, (-1, self.pieces)).amax(-1)  # type: ignore[no-any-return]

    def extra_repr(self) -> str:
        return f"pieces={self.pieces}"


class MaxoutConv2d(nn.Module):
    """Convolution whose maps are each the maximum of `pieces` maps, place by place. Goodfellow et al. 2013.

    (B, in_channels, H, W) -> (B, out_channels, H', W'). Further arguments are those of `nn.Conv2d`.
    """

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int, pieces: int = 2, **more: Any) -> None:
        super().__init__()
        self.pieces = _check_pieces(pieces)
        self.conv = nn.Conv2d(in_channels, out_channels * pieces, kernel_size, **more)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x).unflatten(1, (-1, self.pieces)).amax(2)  # type: ignore[no-any-return]

    extra_repr = Maxout.extra_repr  # type: ignore[assignment]


def _check_pieces(pieces: int) -> int:
    if pieces < 1:
        raise NetError(f"maxout takes the maximum of at least 1 piece, got pieces={pieces}")
    return pieces


class Way(NamedTuple):
    """One of the layers of `three_ways`, its parameters, and its multiply-adds for one picture."""

    module: nn.Module
    params: int
    macs: int


def three_ways(
    size: int = 200, kernel: int = 10, filters: int = 100, channels: int = 1, bias: bool = False
) -> dict[str, Way]:
    """Return the same layer fully connected, locally connected and convolutional, for a picture of `size` x `size`.

    From (B, channels, size, size) ``fully_connected`` makes (B, size size), ``locally_connected`` (B, 1, size, size)
    and ``convolutional`` (B, filters, size, size). The lectures count no biases. At their sizes the first alone takes
    6.4 GB; inside ``with torch.device("meta")`` none takes memory.
    """
    pixels, window = size * size, kernel * kernel * channels
    full = nn.Sequential(nn.Flatten(), nn.Linear(pixels * channels, pixels, bias))
    local = LocallyConnected2d(channels, 1, size, kernel, padding="same", bias=bias)
    before = (kernel - 1) // 2
    pad = nn.ZeroPad2d((before, kernel - 1 - before) * 2)  # nn.Conv2d warns of padding="same" for even windows
    shared = nn.Sequential(pad, nn.Conv2d(channels, filters, kernel, bias=bias))
    macs = (pixels * channels * pixels, pixels * window, pixels * filters * window)
    ways = {"fully_connected": full, "locally_connected": local, "convolutional": shared}
    return {
        name: Way(layer, sum(weights.numel() for weights in layer.parameters()), count)
        for (name, layer), count in zip(ways.items(), macs, strict=True)
    }
