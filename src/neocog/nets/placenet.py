"""PlaceNet: a small net for small pictures and every task but one label each, cheap enough to learn in minutes.

Written for neocog. Maps lie exactly over the picture: they are halved by 4x4 convolutions of stride 2, whose cells are
centred on the pixels that they stand for, so a head may enlarge and join them (SpeedNet's maps lose a pixel at each
border). The last stage also reads where it is (Liu et al. 2018, "An Intriguing Failing of Convolutional Neural
Networks and the CoordConv Solution"), so that the maximum over its map can say how far something reaches; the mean
beside it can say how many there are.

=========  =======================================  =============
layer      what                                     output, 64x64
=========  =======================================  =============
stem       3x3 conv                                 16 x 64 x 64
stages.0   4x4 conv of stride 2, 3x3 conv           32 x 32 x 32
stages.1   4x4 conv of stride 2, two 3x3 convs      64 x 16 x 16
stages.2   4x4 conv of stride 2, two 3x3 convs      128 x 8 x 8
stages.3   4x4 conv of stride 2, two 3x3 convs      256 x 4 x 4
           maximum and mean over the map            512
head       linear                                   classes
=========  =======================================  =============

Every convolution is followed by BN and ReLU; two 3x3 convolutions are a residual branch.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..records import Facts
from .layers import he_init
from .registry import register


def _conv(channels: int, filters: int, size: int = 3, stride: int = 1) -> nn.Sequential:
    conv = nn.Conv2d(channels, filters, size, stride, padding=1, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(filters), nn.ReLU(inplace=True))


class _Stage(nn.Module):
    def __init__(self, channels: int, filters: int, depth: int, places: bool) -> None:
        super().__init__()
        self.places = places
        self.down = _conv(channels + 2 * places, filters, 4, 2)
        self.branch = nn.Sequential(*(_conv(filters, filters) for _ in range(depth)))

    def forward(self, x: Tensor) -> Tensor:
        if self.places:
            x = torch.cat((x, _places(x)), 1)
        x = self.down(x)  # (B, filters, H/2, W/2)
        return x + self.branch(x)


def _places(x: Tensor) -> Tensor:
    """How far right and how far down each cell lies, from -1 to 1: (B, 2, H, W) for maps (B, C, H, W)."""
    b, _, h, w = x.shape
    down = torch.linspace(-1.0, 1.0, h, device=x.device, dtype=x.dtype)[:, None].expand(h, w)
    across = torch.linspace(-1.0, 1.0, w, device=x.device, dtype=x.dtype).expand(h, w)
    return torch.stack((across, down)).expand(b, 2, h, w)


class PlaceNet(nn.Module):
    """The net of this file.

    Args:
        classes: outputs.
        in_channels: channels of the picture.
        widths: channels of the stem and of each stage.
        depths: 3x3 convolutions in the branch of each stage.
    """

    head = "linear"

    def __init__(
        self,
        classes: int,
        in_channels: int = 3,
        widths: Sequence[int] = (16, 32, 64, 128, 256),
        depths: Sequence[int] = (1, 2, 2, 2),
    ) -> None:
        super().__init__()
        self.stem = _conv(in_channels, widths[0])
        last = len(depths) - 1
        self.stages = nn.Sequential(
            *(
                _Stage(channels, filters, depth, places=k == last)
                for k, (channels, filters, depth) in enumerate(zip(widths[:-1], widths[1:], depths, strict=True))
            )
        )
        self.linear = nn.Linear(2 * widths[-1], classes)
        he_init(self)

    def forward_features(self, x: Tensor) -> Tensor:
        """Pictures (B, C, H, W) to features (B, 2 * widths[-1])."""
        x = self.stages(self.stem(x))  # (B, widths[-1], H/16, W/16)
        return torch.cat((F.adaptive_max_pool2d(x, 1), F.adaptive_avg_pool2d(x, 1)), 1).flatten(1)

    def forward(self, x: Tensor) -> Tensor:
        """Pictures (B, C, H, W) to logits (B, classes)."""
        return self.linear(self.forward_features(x))


register(
    Facts(
        name="placenet",
        family="placenet",
        year=2026,
        paper="neocog; coordinates after Liu et al. 2018 (arXiv:1807.03247)",
        params=2_270_426,
        macs=101_520_384,
        input=(3, 64, 64),
        classes=10,
        smallest=16,
    )
)(PlaceNet)
