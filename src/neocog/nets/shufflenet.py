"""ShuffleNet v1: Zhang et al. 2018, arXiv:1707.01083. ShuffleNet v2: Ma et al. 2018, arXiv:1807.11164.

v1 comes in two dresses: `shufflenet_v1_1x_g*` as the paper draws them (channel shuffle right after the first grouped
convolution, head with a bias), and the others as the authors' released code has them (shuffle after the depthwise
convolution, the other way round, and a head without bias). Parameter names are the released code's for v1, and
torchvision's for v2.

Output shapes for 3 x 224 x 224:

    v1, 1x, g=3: first_conv, 3x3/2   B   24  112  112    v2, 1x: conv1, 3x3/2     B   24  112  112
                 maxpool, 3x3/2      B   24   56   56            maxpool, 3x3/2   B   24   56   56
                 features.0-3        B  240   28   28            stage2, 4 units  B  116   28   28
                 features.4-11       B  480   14   14            stage3, 8 units  B  232   14   14
                 features.12-15      B  960    7    7            stage4, 4 units  B  464    7    7
                                                                 conv5, 1x1       B 1024    7    7
                 mean                B  960                      mean             B 1024
                 classifier          B 1000                      fc               B 1000
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import NetError
from ..records import Facts
from .gates import ChannelShuffle
from .layers import Classifier, check_dropout, check_input, conv_bn, he_init
from .registry import IMAGENET, TORCHVISION, register

_UNITS = (4, 8, 4)  # units of each stage, in both versions; the first of each has stride 2


class ShuffleUnit(nn.Module):
    """ShuffleNet v1: grouped 1x1, shuffle, 3x3 of each map, grouped 1x1; a quarter of the width inside.

    Stride 1 adds x. Stride 2 appends its own maps to the means of x over 3x3 windows:
    (B, C, H, W) -> (B, out, H / 2, W / 2), of which `out` - C are computed.
    """

    def __init__(self, channels: int, out: int, stride: int, groups: int, first_groups: int, shuffle: str) -> None:
        super().__init__()
        inner = out // 4
        self.branch_main_1 = nn.Sequential(
            *conv_bn(channels, inner, 1, 1, first_groups, nn.ReLU), *conv_bn(inner, inner, 3, stride, inner)
        )
        computed = out - channels if stride == 2 else out
        self.branch_main_2 = nn.Sequential(*conv_bn(inner, computed, 1, 1, groups))
        self.branch_proj = nn.AvgPool2d(3, 2, 1) if stride == 2 else None
        self.shuffle_after = 2 if shuffle == "paper" else 4  # the ReLU, or the BN of the depthwise convolution
        self.shuffle = ChannelShuffle(groups, inverse=shuffle != "paper") if groups > 1 else nn.Identity()
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        out = x
        for number, layer in enumerate(self.branch_main_1):
            out = layer(out)
            if number == self.shuffle_after:
                out = self.shuffle(out)
        out = self.branch_main_2(out)
        if self.branch_proj is None:
            return self.relu(x + out)
        return torch.cat((self.branch_proj(x), self.relu(out)), 1)


class ShuffleNetV1(Classifier):
    """Stem, three stages of units, mean over the map, linear head.

    Args:
        groups: groups of the 1x1 convolutions; the very first one is not grouped, for it reads few channels.
        shuffle: "paper" or "released", see the top of this file.
        width: factor on all channels (the paper's "s x").
    """

    head = "classifier.0"

    def __init__(
        self,
        stem: int,
        planes: Sequence[int],
        groups: int,
        shuffle: str,
        head_bias: bool,
        *,
        classes: int,
        in_channels: int,
        width: float = 1.0,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        check_dropout(dropout)
        if isinstance(width, bool) or not isinstance(width, int | float) or width <= 0:
            raise NetError(f"width is a factor on the channels and must be a number above 0, got {width!r}")
        stem, planes = int(stem * width), [int(plane * width) for plane in planes]
        sizes = [plane // 4 % groups for plane in planes] + [(plane - stem) % groups for plane in planes[:1]]
        if stem < 1 or planes[0] <= stem or any(sizes) or any(plane % 4 for plane in planes):
            raise NetError(
                f"width={width!r} gives stages of {', '.join(map(str, planes))} channels, whose quarters cannot be "
                f"split into {groups} groups; choose another width, such as 0.25, 0.5 or 2"
            )
        self.in_channels, channels = in_channels, stem
        self.first_conv = nn.Sequential(*conv_bn(in_channels, channels, 3, 2, relu=nn.ReLU))
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        units: list[nn.Module] = []
        for plane, number in zip(planes, _UNITS, strict=True):
            for index in range(number):
                first = groups if units else 1
                units.append(ShuffleUnit(channels, plane, 2 if index == 0 else 1, groups, first, shuffle))
                channels = plane
        self.features = nn.Sequential(*units)
        self.globalpool = nn.AdaptiveAvgPool2d(1)
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Sequential(nn.Linear(channels, classes, bias=head_bias))
        he_init(self)

    def forward_features(self, x: Tensor) -> Tensor:
        """(B, in_channels, H, W) -> (B, D), D = last stage's channels."""
        check_input(x, self.in_channels)
        x = self.maxpool(self.first_conv(x))  # (B, stem, H / 4, W / 4)
        x = self.features(x)  # (B, D, H / 32, W / 32)
        return self.dropout(self.globalpool(x).flatten(1))


class ShuffleUnitV2(nn.Module):
    """ShuffleNet v2: half of the channels pass, the other half goes through 1x1, 3x3 of each map, 1x1; then shuffle.

    With stride 2 both halves are made from all of x: (B, C, H, W) -> (B, out, H / 2, W / 2).
    """

    def __init__(self, channels: int, out: int, stride: int) -> None:
        super().__init__()
        half = out // 2
        self.splits = stride == 1
        inside = half if self.splits else channels
        first, last = conv_bn(inside, half, 1, relu=nn.ReLU), conv_bn(half, half, 1, relu=nn.ReLU)
        self.branch1 = nn.Sequential()
        if not self.splits:
            self.branch1 = nn.Sequential(
                *conv_bn(channels, channels, 3, stride, channels), *conv_bn(channels, half, 1, relu=nn.ReLU)
            )
        self.branch2 = nn.Sequential(*first, *conv_bn(half, half, 3, stride, half), *last)
        self.shuffle = ChannelShuffle(2)

    def forward(self, x: Tensor) -> Tensor:
        left, right = x.chunk(2, 1) if self.splits else (x, x)
        return self.shuffle(torch.cat((self.branch1(left), self.branch2(right)), 1))


class ShuffleNetV2(Classifier):
    """Stem, three stages of units, a 1x1 convolution, mean over the map, linear head.

    Args:
        planes: channels that each stage and the last convolution put out.
    """

    head = "fc"
    stage2: nn.Module
    stage3: nn.Module
    stage4: nn.Module

    def __init__(self, planes: Sequence[int], *, classes: int, in_channels: int, dropout: float = 0.0) -> None:
        super().__init__()
        check_dropout(dropout)
        self.in_channels, channels = in_channels, 24
        self.conv1 = nn.Sequential(*conv_bn(in_channels, channels, 3, 2, relu=nn.ReLU))
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        for stage, (plane, number) in enumerate(zip(planes[:-1], _UNITS, strict=True), start=2):
            units = []
            for index in range(number):
                units.append(ShuffleUnitV2(channels, plane, 2 if index == 0 else 1))
                channels = plane
            self.add_module(f"stage{stage}", nn.Sequential(*units))
        self.conv5 = nn.Sequential(*conv_bn(channels, planes[-1], 1, relu=nn.ReLU))
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.dropout = nn.Dropout(dropout)
        self.fc = nn.Linear(planes[-1], classes)
        he_init(self)

    def forward_features(self, x: Tensor) -> Tensor:
        """(B, in_channels, H, W) -> (B, D), D = 1024 or 2048."""
        check_input(x, self.in_channels)
        x = self.maxpool(self.conv1(x))  # (B, 24, H / 4, W / 4)
        x = self.conv5(self.stage4(self.stage3(self.stage2(x))))  # (B, D, H / 32, W / 32)
        return self.dropout(self.avgpool(x).flatten(1))


_PAPER_V1 = "Zhang et al. 2018, arXiv:1707.01083"
_PAPER_V2 = "Ma et al. 2018, arXiv:1807.11164"
_ZHANG = "ImageNet top-1 {} % (paper, 1 crop)"
_README = "ImageNet top-1 {} %, top-5 {} % (authors' README, 1 crop)"

# name, groups, stem, channels of the first stage (the others have twice and four times as many), shuffle, parameters,
# MACs, published accuracy
_VARIANTS_V1 = [
    ("shufflenet_v1_1x_g1", 1, 24, 144, "paper", 1_531_936, 143_078_976, _ZHANG.format("66.4")),
    ("shufflenet_v1_1x_g2", 2, 24, 200, "paper", 1_733_848, 140_836_512, _ZHANG.format("67.3")),
    ("shufflenet_v1_1x_g3", 3, 24, 240, "paper", 1_865_728, 137_460_672, _ZHANG.format("67.4")),
    ("shufflenet_v1_1x_g4", 4, 24, 272, "paper", 1_968_344, 134_339_776, _ZHANG.format("67.2")),
    ("shufflenet_v1_1x_g8", 8, 24, 384, "paper", 2_434_768, 138_365_952, _ZHANG.format("67.6")),
    ("shufflenet_v1_0_5x_g3", 3, 12, 120, "released", 717_324, 37_589_856, _README.format("57.3", "80.0")),
    ("shufflenet_v1_0_5x_g8", 8, 16, 192, "released", 1_010_448, 40_469_760, _README.format("58.8", "81.0")),
    ("shufflenet_v1_1_5x_g3", 3, 24, 360, "released", 3_441_168, 292_443_552, _README.format("71.6", "90.2")),
    ("shufflenet_v1_1_5x_g8", 8, 24, 576, "released", 4_268_952, 290_188_800, _README.format("71.0", "89.6")),
    ("shufflenet_v1_2x_g3", 3, 48, 480, "released", 5_449_776, 524_045_184, _README.format("74.1", "91.4")),
    ("shufflenet_v1_2x_g8", 8, 48, 768, "released", 6_521_232, 521_942_016, _README.format("72.9", "90.8")),
]

for _name, _groups, _stem, _first, _shuffle, _params, _macs, _accuracy in _VARIANTS_V1:
    _facts = Facts(_name, "shufflenet", 2018, _PAPER_V1, _params, _macs, **IMAGENET, smallest=32, accuracy=_accuracy)
    _how: dict[str, Any] = {"stem": _stem, "planes": (_first, 2 * _first, 4 * _first), "groups": _groups}
    register(_facts, **_how, shuffle=_shuffle, head_bias=_shuffle == "paper")(ShuffleNetV1)

# name, channels, parameters, MACs, published accuracy
_VARIANTS_V2 = [
    ("shufflenet_v2_x0_5", (48, 96, 192, 1024), 1_366_792, 40_476_448, TORCHVISION.format("60.55", "81.75")),
    ("shufflenet_v2_x1_0", (116, 232, 464, 1024), 2_278_604, 144_907_992, TORCHVISION.format("69.36", "88.32")),
    ("shufflenet_v2_x1_5", (176, 352, 704, 1024), 3_503_624, 295_759_392, _README.format("72.6", "90.6")),
    ("shufflenet_v2_x2_0", (244, 488, 976, 2048), 7_393_996, 583_253_464, _README.format("75.0", "92.4")),
]

for _name, _planes, _params, _macs, _accuracy in _VARIANTS_V2:
    _facts = Facts(_name, "shufflenet", 2018, _PAPER_V2, _params, _macs, **IMAGENET, smallest=32, accuracy=_accuracy)
    register(_facts, planes=_planes)(ShuffleNetV2)
