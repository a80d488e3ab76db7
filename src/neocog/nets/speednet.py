"""SpeedNet: a small net for 32x32 pictures, built to reach 94 % on CIFAR-10 with little arithmetic.

Written for neocog after the ideas of the published CIFAR-10 speed records: the whitening first layer (Page 2018,
"How to train your ResNet"), pooling after the first convolution of each group, BN without scale, identity
initialisation and scaled logits (Balsam, hlb-CIFAR10 2023; Jordan 2024, "94 % on CIFAR-10 in 3.29 seconds", the
record that neocog is measured against: bench/cifar10.py).

=========  ================================  =============
layer      what                              output, 32x32
=========  ================================  =============
whiten     2x2 conv, 24, fixed weight; GELU  24 x 31 x 31
groups.0   3x3 conv, max pool, 3x3 conv      64 x 15 x 15
groups.1   3x3 conv, max pool, 3x3 conv      256 x 7 x 7
groups.2   3x3 conv, max pool, 3x3 conv      256 x 3 x 3
           maximum over the map              256
head       linear without bias, / 256        classes
=========  ================================  =============
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..records import Facts
from .registry import CIFAR, register

_PAPER = "neocog; after Page 2018, Balsam 2023 and Jordan 2024 (arXiv:2404.00498)"


class _Norm(nn.BatchNorm2d):
    """BN with a fixed scale of 1: the convolution before it is normalised anyway, only the shift is learned.

    The running statistics remember about ten pieces of 500 pictures, as many pictures as the record's remember.
    """

    def __init__(self, channels: int) -> None:
        super().__init__(channels, eps=1e-12, momentum=0.1)
        self.weight.requires_grad_(False)


class _Conv(nn.Conv2d):
    """3x3 convolution without bias; the first in_channels filters begin as the identity (partial dirac)."""

    def __init__(self, channels: int, filters: int) -> None:
        super().__init__(channels, filters, 3, padding=1, bias=False)

    def reset_parameters(self) -> None:
        super().reset_parameters()
        nn.init.dirac_(self.weight.data[: self.in_channels])


class _Group(nn.Module):
    def __init__(self, channels: int, filters: int, depth: int) -> None:
        super().__init__()
        self.conv1, self.norm1 = _Conv(channels, filters), _Norm(filters)
        self.conv2, self.norm2 = _Conv(filters, filters), _Norm(filters)
        self.deep = depth > 2
        if self.deep:
            self.conv3, self.norm3 = _Conv(filters, filters), _Norm(filters)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(self.conv1(x), 2)  # (B, C, H/2, W/2); before the norm, which then sees a quarter
        x = F.gelu(self.norm1(x))
        y = F.gelu(self.norm2(self.conv2(x)))
        if not self.deep:
            return y
        return F.gelu(self.norm3(self.conv3(y))) + x  # residual only where a third convolution makes it deep


class SpeedNet(nn.Module):
    """The net of this file.

    Args:
        in_channels: channels of the picture; the whitening layer has 2 x 4 x in_channels filters.
        widths: channels of the three groups.
        depth: convolutions in a group, 2 or 3 (3 adds a residual connection).
    """

    head = "linear"

    def __init__(
        self, classes: int, in_channels: int = 3, widths: Sequence[int] = (64, 256, 256), depth: int = 2
    ) -> None:
        super().__init__()
        filters = 2 * 4 * in_channels
        self.whiten = nn.Conv2d(in_channels, filters, 2)
        self.whiten.weight.requires_grad_(False)
        nn.init.zeros_(self.whiten.bias)  # type: ignore[arg-type]
        # the bias has found its place after 3/8 of the training; freezing it saves the gradient of the first maps
        self.whiten.bias.train_until = 0.375  # type: ignore[union-attr]
        ins = (filters, *widths[:-1])
        self.groups = nn.Sequential(*(_Group(i, o, depth) for i, o in zip(ins, widths, strict=True)))
        self.linear = nn.Linear(widths[-1], classes, bias=False)
        self.init_head(self.linear)

    @staticmethod
    def init_head(layer: nn.Linear) -> None:
        """Unit variance: the logits are divided by the number of features instead."""
        layer.weight.data.div_(layer.weight.data.std())

    def forward_features(self, x: Tensor) -> Tensor:
        """Pictures (B, C, H, W) to features (B, widths[-1])."""
        x = F.gelu(self.whiten(x))  # (B, 8C, H-1, W-1)
        x = self.groups(x)  # (B, widths[-1], H/8, W/8)
        return F.adaptive_max_pool2d(x, 1).flatten(1)

    def forward(self, x: Tensor) -> Tensor:
        """Pictures (B, C, H, W) to logits (B, classes)."""
        features = self.forward_features(x)
        return self.linear(features) / features.size(-1)

    @torch.no_grad()
    def prepare(self, pictures: Tensor, eps: float = 5e-4) -> None:
        """Set the whitening filters from normalised pictures (N, C, H, W), before training.

        The filters are the eigenvectors of the 2x2 patches' second moments, scaled to unit variance, each also
        with the other sign (Page 2018, part 8).
        """
        c = pictures.size(1)
        patches = pictures.float().unfold(2, 2, 1).unfold(3, 2, 1)  # (N, C, H-1, W-1, 2, 2)
        patches = patches.permute(0, 2, 3, 1, 4, 5).reshape(-1, 4 * c).double()
        values, vectors = torch.linalg.eigh(patches.T @ patches / len(patches))
        filters = (vectors / (values.clamp(min=0) + eps).sqrt()).T.flip(0).reshape(4 * c, c, 2, 2)
        self.whiten.weight.copy_(torch.cat((filters, -filters)))


for _name, _widths, _depth, _params, _macs in (
    ("speednet", (64, 256, 256), 2, 1_971_352, 118_147_360),
    ("speednet_wide", (128, 384, 384), 2, 4_604_440, 301_560_864),
    ("speednet_deep", (128, 512, 512), 3, 12_717_464, 615_201_056),
):
    _facts = Facts(_name, "speednet", 2026, _PAPER, _params, _macs, **CIFAR, smallest=9)
    register(_facts, widths=_widths, depth=_depth)(SpeedNet)
