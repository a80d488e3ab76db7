"""Layers of the light nets: SE gate, channel shuffle, and TensorFlow's "SAME" padding."""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import NetError


class SEGate(nn.Module):
    """Squeeze and excitation: (B, C, H, W) -> the same shape, every map multiplied by a number from 0 to 1.

    The means of the maps go through two layers, C -> C / reduction -> C, with ReLU and sigmoid. Both are 1x1
    convolutions with a bias, as in the authors' Caffe models. Hu et al. 2018, arXiv:1709.01507, section 3.
    """

    def __init__(self, channels: int, reduction: int = 16) -> None:
        super().__init__()
        if channels < reduction:
            raise NetError(f"an SE gate needs at least {reduction} maps at reduction {reduction}, got {channels}")
        self.avg_pool = nn.AdaptiveAvgPool2d(1)
        self.fc1 = nn.Conv2d(channels, channels // reduction, 1)
        self.relu = nn.ReLU(inplace=True)
        self.fc2 = nn.Conv2d(channels // reduction, channels, 1)
        self.sigmoid = nn.Sigmoid()

    def forward(self, x: Tensor) -> Tensor:
        return x * self.sigmoid(self.fc2(self.relu(self.fc1(self.avg_pool(x)))))


class ChannelShuffle(nn.Module):
    """Reorder maps so that each of the next convolution's groups reads from all groups: (B, C, H, W) -> the same.

    The channels, seen as a table of `groups` rows, are read column by column (Zhang et al. 2018, arXiv:1707.01083,
    section 3.1): channel ``i * groups + g`` comes from channel ``g * C / groups + i``. ``inverse=True`` puts them back.
    """

    def __init__(self, groups: int, inverse: bool = False) -> None:
        super().__init__()
        self.groups, self.inverse = groups, inverse

    def forward(self, x: Tensor) -> Tensor:
        channels = x.shape[1]
        if channels % self.groups:
            raise NetError(f"cannot shuffle {channels} channels among {self.groups} groups; it must divide evenly")
        rows = channels // self.groups if self.inverse else self.groups
        return x.unflatten(1, (rows, channels // rows)).transpose(1, 2).flatten(1, 2)

    def extra_repr(self) -> str:
        return f"groups={self.groups}" + (", inverse=True" if self.inverse else "")


def same_padding(size: int, kernel: int, stride: int, dilation: int = 1) -> tuple[int, int]:
    """Return TensorFlow's "SAME" padding (before, after) of one side: outputs = ceil(size / stride), odd rest after.

    A 3x3 convolution with stride 2 pads (0, 1) at 224 pixels, and (1, 1) at 225, where PyTorch nets always pad (1, 1).
    """
    outputs = -(-size // stride)
    total = max((outputs - 1) * stride + dilation * (kernel - 1) + 1 - size, 0)
    return total // 2, total - total // 2


class SamePad(nn.Module):
    """Pads (B, C, H, W) with `value` for a following unpadded convolution or pooling, as TensorFlow's "SAME" does.

    Before a maximum, give ``value=float("-inf")``; an average with SAME padding in TensorFlow counts real pixels
    only, which this module cannot do.
    """

    def __init__(self, kernel_size: int, stride: int = 1, dilation: int = 1, value: float = 0.0) -> None:
        super().__init__()
        self.kernel_size, self.stride, self.dilation, self.value = kernel_size, stride, dilation, value

    def forward(self, x: Tensor) -> Tensor:
        top, bottom = same_padding(x.shape[2], self.kernel_size, self.stride, self.dilation)
        left, right = same_padding(x.shape[3], self.kernel_size, self.stride, self.dilation)
        return F.pad(x, (left, right, top, bottom), value=self.value) if top + bottom + left + right else x

    def extra_repr(self) -> str:
        value = f", value={self.value:g}" if self.value else ""
        return f"kernel_size={self.kernel_size}, stride={self.stride}, dilation={self.dilation}{value}"


class SameConv2d(nn.Conv2d):
    """`nn.Conv2d` that pads by TensorFlow's "SAME" rule, computed from the size of each input; `padding` is ignored.

    (B, C, H, W) -> (B, C_out, ceil(H / stride), ceil(W / stride)).
    """

    def forward(self, x: Tensor) -> Tensor:
        (top, bottom), (left, right) = (
            same_padding(x.shape[2 + i], self.kernel_size[i], self.stride[i], self.dilation[i]) for i in (0, 1)
        )
        if (top, left) != (bottom, right):
            x, top, left = F.pad(x, (left, right, top, bottom)), 0, 0
        return F.conv2d(x, self.weight, self.bias, self.stride, (top, left), self.dilation, self.groups)

    def extra_repr(self) -> str:
        return super().extra_repr() + ", padding='same as TensorFlow'"


def with_weights(kind: type[nn.Conv2d], conv: nn.Conv2d) -> nn.Conv2d:
    """Return a convolution of another kind with the weights of `conv`, and padded by half of its filters."""
    names = ("in_channels", "out_channels", "kernel_size", "stride", "dilation", "groups")
    how: dict[str, Any] = {name: getattr(conv, name) for name in names}
    how |= {"padding": tuple(side // 2 for side in conv.kernel_size), "bias": conv.bias is not None}
    made = kind(**how, device="meta")
    made.weight, made.bias = conv.weight, conv.bias
    return made.train(conv.training)
