"""Network in Network. Lin, Chen, Yan 2013, arXiv:1312.4400.

Behind each convolution stand two of 1x1: a small perceptron that slides over the map ("mlpconv"; the authors call its
layers cccp, cascaded cross-channel parametric pooling). The last one puts out one map for each class, and the logits
are the means of these maps. CIFAR-10 test error 10.41 %, and 8.81 % with translations and mirrored pictures.

Output shapes of nin_cifar for 3 x 32 x 32, and of nin_imagenet (the authors' Caffe release) for 3 x 224 x 224:

    conv1, 5x5 [11x11/4]        B  192  32  32    [  96  54  54]
    cccp1, cccp2, 1x1           B   96  32  32    [  96  54  54]
    pool1, maximum 3x3/2        B   96  16  16    [  96  27  27]
    conv2, 5x5                  B  192  16  16    [ 256  27  27]
    cccp3, cccp4, 1x1           B  192  16  16    [ 256  27  27]
    pool2, mean [maximum] 3x3/2 B  192   8   8    [ 256  13  13]
    conv3, 3x3                  B  192   8   8    [ 384  13  13]
    cccp5, 1x1                  B  192   8   8    [ 384  13  13]
    [cccp6, 1x1]                                  [ 384  13  13]
    [pool3, maximum 3x3/2]                        [ 384   6   6]
    [conv4, 3x3, cccp7, 1x1]                      [1024   6   6]
    head, 1x1, ReLU             B   10   8   8    [1000   6   6]
    mean over the map           B   10            [1000]
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor, nn

from ..records import Facts
from .layers import check_dropout, check_input, he_init
from .registry import register


class Block(NamedTuple):
    """A convolution, the widths of its 1x1 convolutions, and what follows: "max" or "mean" of 3x3/2, dropout or not."""

    channels: int
    kernel: int
    stride: int
    padding: int
    perceptron: tuple[int, ...]
    pool: str = ""
    dropout: bool = False


class NetworkInNetwork(nn.Module):
    """Convolutions with 1x1 convolutions behind them, one map for each class, mean over the map.

    Args:
        blocks: the last one lacks the last 1x1 convolution, which is the head.
    """

    head = "classifier"

    def __init__(self, blocks: Sequence[Block], *, classes: int, in_channels: int, dropout: float = 0.5) -> None:
        super().__init__()
        check_dropout(dropout)
        self.in_channels = in_channels
        self.features = nn.Sequential()
        channels, cccp = in_channels, 0
        for number, block in enumerate(blocks, start=1):
            conv = nn.Conv2d(channels, block.channels, block.kernel, block.stride, block.padding)
            self.features.add_module(f"conv{number}", conv)
            self.features.add_module(f"relu{number}", nn.ReLU(inplace=True))
            channels = block.channels
            for width in block.perceptron:
                cccp += 1
                self.features.add_module(f"cccp{cccp}", nn.Conv2d(channels, width, 1))
                self.features.add_module(f"cccp{cccp}_relu", nn.ReLU(inplace=True))
                channels = width
            # ceil_mode: Caffe counts a last window that does not fit
            if block.pool:
                kind = nn.MaxPool2d if block.pool == "max" else nn.AvgPool2d
                self.features.add_module(f"pool{number}", kind(3, 2, ceil_mode=True))
            if block.dropout:
                self.features.add_module(f"drop{number}", nn.Dropout(dropout))
        self.classifier = nn.Conv2d(channels, classes, 1)
        self.relu = nn.ReLU(inplace=True)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        he_init(self)

    @staticmethod
    def init_head(layer: nn.Module) -> None:
        """Draw the last convolution like the others."""
        he_init(layer)

    def forward_features(self, x: Tensor) -> Tensor:
        """(B, in_channels, H, W) -> (B, D, H', W'), what the last 1x1 convolution reads."""
        check_input(x, self.in_channels)
        return self.features(x)

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, H, W) -> logits (B, classes), which are never negative."""
        return self.avgpool(self.relu(self.classifier(self.forward_features(x)))).flatten(1)


_PAPER = "Lin et al. 2013, arXiv:1312.4400"

register(
    Facts("nin_cifar", "nin", 2013, _PAPER, 966_986, 222_486_528, (3, 32, 32), 10, smallest=4,
          accuracy="CIFAR-10 91.19 % (with augmentation)"),
    blocks=(
        Block(192, 5, 1, 2, (160, 96), "max", True),
        Block(192, 5, 1, 2, (192, 192), "mean", True),
        Block(192, 3, 1, 1, (192,)),
    ),
)(NetworkInNetwork)  # fmt: skip
register(
    Facts("nin_imagenet", "nin", 2014, "Caffe release of " + _PAPER, 7_595_176, 1_100_188_800, (3, 224, 224), 1000,
          smallest=39, accuracy="ImageNet top-1 59.36 % (Caffe release)"),
    blocks=(
        Block(96, 11, 4, 0, (96, 96), "max"),
        Block(256, 5, 1, 2, (256, 256), "max"),
        Block(384, 3, 1, 1, (384, 384), "max", True),
        Block(1024, 3, 1, 1, (1024,)),
    ),
)(NetworkInNetwork)  # fmt: skip
