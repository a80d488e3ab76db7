"""PlaceNet: a small net for masks, boxes and points on small pictures, cheap enough to learn in minutes.

Written for neocog. Maps lie exactly over the picture: they are halved by 4x4 convolutions of stride 2, whose cells are
centred on the pixels that they stand for, so a head may enlarge and join them (SpeedNet's maps lose a pixel at each
border). The last stage also reads where it is (Liu et al. 2018, "An Intriguing Failing of Convolutional Neural
Networks and the CoordConv Solution"), so that the maximum over its map can say how far something reaches; the mean
beside it can say how many there are.

=========  =======================================  =============
layer      what                                     output, 64x64
=========  =======================================  =============
stem       3x3 conv                                 16 x 64 x 64
stages.0   4x4 conv of stride 2, two blocks         32 x 32 x 32
stages.1   4x4 conv of stride 2, two blocks         64 x 16 x 16
stages.2   4x4 conv of stride 2, two blocks         128 x 8 x 8
stages.3   4x4 conv of stride 2, one block          128 x 4 x 4
           maximum and mean over the map, BN        256
head       linear                                   classes
=========  =======================================  =============

Every convolution is followed by BN, and all but the last of a block by ReLU; a block is two 3x3 convolutions and a
shortcut (He et al. 2015). Much of the depth is at fine strides: small things are told apart there.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..records import Facts
from .layers import he_init
from .registry import register


def _conv(channels: int, filters: int, size: int = 3, stride: int = 1) -> list[nn.Module]:
    return [nn.Conv2d(channels, filters, size, stride, padding=1, bias=False), nn.BatchNorm2d(filters)]


class _Block(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        first, second = _conv(channels, channels), _conv(channels, channels)
        self.branch = nn.Sequential(*first, nn.ReLU(inplace=True), *second)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x + self.branch(x))


class _Stage(nn.Module):
    def __init__(self, channels: int, filters: int, blocks: int, places: bool) -> None:
        super().__init__()
        self.places = places
        self.down = nn.Sequential(*_conv(channels + 2 * places, filters, 4, 2), nn.ReLU(inplace=True))
        self.blocks = nn.Sequential(*(_Block(filters) for _ in range(blocks)))

    def forward(self, x: Tensor) -> Tensor:
        if self.places:
            x = torch.cat((x, _places(x)), 1)
        return self.blocks(self.down(x))  # type: ignore[no-any-return]  # (B, filters, H/2, W/2)


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
        blocks: of each stage.
    """

    head = "linear"

    def __init__(
        self,
        classes: int,
        in_channels: int = 3,
        widths: Sequence[int] = (16, 32, 64, 128, 128),
        blocks: Sequence[int] = (2, 2, 2, 1),
    ) -> None:
        super().__init__()
        self.stem = nn.Sequential(*_conv(in_channels, widths[0]), nn.ReLU(inplace=True))
        last = len(blocks) - 1
        self.stages = nn.Sequential(
            *(
                _Stage(channels, filters, count, places=k == last)
                for k, (channels, filters, count) in enumerate(zip(widths[:-1], widths[1:], blocks, strict=True))
            )
        )
        self.norm = nn.BatchNorm1d(2 * widths[-1])
        self.linear = nn.Linear(2 * widths[-1], classes)
        he_init(self)

    def forward_features(self, x: Tensor) -> Tensor:
        """Pictures (B, C, H, W) to features (B, 2 * widths[-1])."""
        x = self.stages(self.stem(x))  # (B, widths[-1], H/16, W/16)
        # maxima are large and of one sign: without the norm, a step of the last layer would move all logits together
        return self.norm(torch.cat((F.adaptive_max_pool2d(x, 1), F.adaptive_avg_pool2d(x, 1)), 1).flatten(1))  # type: ignore[no-any-return]

    def forward(self, x: Tensor) -> Tensor:
        """Pictures (B, C, H, W) to logits (B, classes)."""
        return self.linear(self.forward_features(x))


register(
    Facts(
        name="placenet",
        family="placenet",
        year=2026,
        paper="neocog; coordinates after Liu et al. 2018 (arXiv:1807.03247)",
        params=1_513_882,
        macs=149_162_496,
        input=(3, 64, 64),
        classes=10,
        smallest=16,
    )
)(PlaceNet)
