"""Caffe's two nets for CIFAR-10, after Krizhevsky's cuda-convnet (2011): "quick" and "full". Jia et al. 2014.

CIFAR-10 test accuracy of the quick one: 75 % after ten epochs (Caffe's tutorial).

Output shapes for 3 x 32 x 32:

    conv1, 5x5                          B  32  32  32
    pool1, maximum 3x3/2, relu1         B  32  16  16
    norm1 (full only)                   B  32  16  16
    conv2, 5x5, relu2                   B  32  16  16
    pool2, mean 3x3/2                   B  32   8   8
    norm2 (full only)                   B  32   8   8
    conv3, 5x5, relu3                   B  64   8   8
    pool3, mean 3x3/2                   B  64   4   4
    ip1 (quick only)                    B  64
    head                                B  10

Poolings count a last window that does not fit.

ConvNetJS's net for CIFAR-10, which its page trained in the browser; its layers can be chosen. Karpathy 2014.

Output shapes for 3 x 32 x 32, each convolution followed by a rectifier:

    conv1, 5x5, pool1, maximum 2x2/2    B  16  16  16
    conv2, 5x5, pool2                   B  20   8   8
    conv3, 5x5, pool3                   B  20   4   4
    classifier                          B  10
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import NetError
from ..records import Facts
from .layers import Classifier, check_input, he_init
from .registry import register


class SpatialResponseNorm(nn.Module):
    """Local response normalisation within each channel: ``a / (1 + alpha mean(a^2))^beta``, (B, C, H, W) -> the same.

    The mean is that of the size x size window around a place, with zeros beyond the border; Caffe's WITHIN_CHANNEL.
    """

    def __init__(self, size: int = 3, alpha: float = 5e-5, beta: float = 0.75) -> None:
        super().__init__()
        self.size, self.alpha, self.beta = size, alpha, beta

    def forward(self, x: Tensor) -> Tensor:
        power = F.avg_pool2d(x.square(), self.size, stride=1, padding=self.size // 2)
        return x / (1 + self.alpha * power).pow(self.beta)

    def extra_repr(self) -> str:
        return f"{self.size}, alpha={self.alpha:g}, beta={self.beta:g}"


class CaffeCifar(Classifier):
    """Three 5x5 convolutions with poolings, then the linear layers.

    Args:
        hidden: units of the linear layers before the last; no activation follows them, as in Caffe's definition.
        norm: normalise within each channel behind the first two poolings.
    """

    head = "classifier"

    def __init__(self, hidden: Sequence[int], norm: bool, *, classes: int, in_channels: int, input_size: int) -> None:
        super().__init__()
        self.input_size = input_size
        self.conv1 = nn.Conv2d(in_channels, 32, 5, padding=2)
        self.pool1 = nn.MaxPool2d(3, 2, ceil_mode=True)
        self.relu1 = nn.ReLU(inplace=True)
        self.norm1 = SpatialResponseNorm() if norm else nn.Identity()
        self.conv2 = nn.Conv2d(32, 32, 5, padding=2)
        self.relu2 = nn.ReLU(inplace=True)
        self.pool2 = nn.AvgPool2d(3, 2, ceil_mode=True)
        self.norm2 = SpatialResponseNorm() if norm else nn.Identity()
        self.conv3 = nn.Conv2d(32, 64, 5, padding=2)
        self.relu3 = nn.ReLU(inplace=True)
        self.pool3 = nn.AvgPool2d(3, 2, ceil_mode=True)
        units = [64 * (input_size // 8) ** 2, *hidden]  # a 3x3/2 window with the rounding up halves, and rounds down
        self.hidden = nn.Sequential()
        for number, (before, after) in enumerate(zip(units, hidden, strict=False), start=1):
            self.hidden.add_module(f"ip{number}", nn.Linear(before, after))
        self.classifier = nn.Linear(units[-1], classes)
        he_init(self)

    def forward_features(self, x: Tensor) -> Tensor:
        """(B, in_channels, H, W) -> (B, D): 64 of the quick net, 1024 of the full one for 32 x 32."""
        check_input(x, self.conv1.in_channels, side=self.input_size)
        x = self.norm1(self.relu1(self.pool1(self.conv1(x))))  # (B, 32, 16, 16)
        x = self.norm2(self.pool2(self.relu2(self.conv2(x))))  # (B, 32, 8, 8)
        x = self.pool3(self.relu3(self.conv3(x)))  # (B, 64, 4, 4)
        return self.hidden(x.flatten(1))


_PAPER = "Jia et al. 2014, arXiv:1408.5093, after Krizhevsky's cuda-convnet"

register(
    Facts("caffe_cifar10_quick", "caffe_cifar", 2013, _PAPER, 145_578, 12_354_176, (3, 32, 32), 10, smallest=8,
          accuracy="CIFAR-10 75 % (Caffe's tutorial)"),
    hidden=(64,),
    norm=False,
)(CaffeCifar)  # fmt: skip
_facts = Facts("caffe_cifar10_full", "caffe_cifar", 2013, _PAPER, 89_578, 12_298_240, (3, 32, 32), 10, smallest=8)
register(_facts, hidden=(), norm=True)(CaffeCifar)

_LAYERS = ((16, 5, 1), (20, 5, 1), (20, 5, 1))


class ConvNetJS(Classifier):
    """Convolutions with rectifiers and pooling in between, and one linear layer on the last map.

    Args:
        layers: for each convolution its filters, the side of its window (odd), and 1 where 2x2 pooling follows, else 0.
    """

    head = "classifier"

    def __init__(
        self, layers: Sequence[Sequence[int]] = _LAYERS, *, classes: int, in_channels: int, input_size: int
    ) -> None:
        super().__init__()
        self.in_channels, self.input_size, before, side = in_channels, input_size, in_channels, input_size
        self.features = nn.Sequential()
        for number, (filters, size, pool) in enumerate(layers, start=1):
            if filters < 1 or size < 1 or size % 2 == 0:
                raise NetError(f"layer {number}: expected filters and an odd window, got {filters} of {size}x{size}")
            self.features.add_module(f"conv{number}", nn.Conv2d(before, filters, size, padding=size // 2))
            self.features.add_module(f"relu{number}", nn.ReLU(inplace=True))
            if pool:
                self.features.add_module(f"pool{number}", nn.MaxPool2d(2))
            before, side = filters, side // 2 if pool else side
        if side < 1:
            raise NetError(f"pictures of {input_size}x{input_size} are too small for so much pooling; leave some out")
        self.classifier = nn.Linear(before * side**2, classes)
        he_init(self)

    @staticmethod
    def smallest_input(options: dict[str, Any]) -> int:
        """Each pooling halves the map."""
        return 2 ** sum(bool(pool) for _, _, pool in options.get("layers", _LAYERS))  # type: ignore[no-any-return]

    def forward_features(self, x: Tensor) -> Tensor:
        """(B, in_channels, H, W) -> (B, 320) for 32 x 32."""
        check_input(x, self.in_channels, side=self.input_size)
        return self.features(x).flatten(1)  # type: ignore[no-any-return]


_PAGE = "Karpathy 2014, ConvNetJS, cs.stanford.edu/people/karpathy/convnetjs/demo/cifar10.html"
register(Facts("convnetjs", "convnetjs", 2014, _PAGE, 22_466, 3_920_000, (3, 32, 32), 10, smallest=8))(ConvNetJS)
