"""PlaceNet: a small net for masks, boxes and points on small pictures, cheap enough to learn in minutes.

Written for neocog. Maps lie exactly over the picture: they are halved by 4x4 convolutions of stride 2, whose cells are
centred on the pixels that they stand for, so a head may enlarge and join them (SpeedNet's maps lose a pixel at each
border).

=========  =======================================  =============
layer      what                                     output, 64x64
=========  =======================================  =============
stem       3x3 conv                                 16 x 64 x 64
stages.0   4x4 conv of stride 2, block              32 x 32 x 32
stages.1   4x4 conv of stride 2, block              64 x 16 x 16
stages.2   4x4 conv of stride 2, block              128 x 8 x 8
stages.3   4x4 conv of stride 2, block              128 x 4 x 4
           mean over the map                        128
head       linear                                   classes
=========  =======================================  =============

Every convolution is followed by BN, and all but the last of a block by ReLU; a block is two 3x3 convolutions and a
shortcut (He et al. 2015).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from ..records import Facts
from .layers import Classifier, conv_bn, he_init
from .registry import register


class _Block(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.branch = nn.Sequential(*conv_bn(channels, channels, relu=nn.ReLU), *conv_bn(channels, channels))

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x + self.branch(x))


def _stage(channels: int, filters: int, blocks: int) -> nn.Sequential:
    down = nn.Conv2d(channels, filters, 4, 2, 1, bias=False)  # (B, filters, H/2, W/2)
    return nn.Sequential(
        down, nn.BatchNorm2d(filters), nn.ReLU(inplace=True), *(_Block(filters) for _ in range(blocks))
    )


class PlaceNet(Classifier):
    """The net of this file; `widths` are channels of the stem and of each stage, `blocks` those of each stage."""

    head = "linear"

    def __init__(
        self,
        classes: int,
        in_channels: int = 3,
        widths: Sequence[int] = (16, 32, 64, 128, 128),
        blocks: Sequence[int] = (1, 1, 1, 1),
    ) -> None:
        super().__init__()
        self.stem = nn.Sequential(*conv_bn(in_channels, widths[0], relu=nn.ReLU))
        each = zip(widths[:-1], widths[1:], blocks, strict=True)
        self.stages = nn.Sequential(*(_stage(channels, filters, count) for channels, filters, count in each))
        self.linear = nn.Linear(widths[-1], classes)
        he_init(self)

    def forward_features(self, x: Tensor) -> Tensor:
        """Pictures (B, C, H, W) to features (B, widths[-1])."""
        x = self.stages(self.stem(x))  # (B, widths[-1], H/16, W/16)
        return x.mean((2, 3))


_PAPER = "neocog; blocks after He et al. 2015 (arXiv:1512.03385)"
register(Facts("placenet", "placenet", 2026, _PAPER, 1_120_026, 92_472_576, (3, 64, 64), 10, smallest=16))(PlaceNet)
