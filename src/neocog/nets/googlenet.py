"""GoogLeNet: Going Deeper with Convolutions. Szegedy et al. 2014, arXiv:1409.4842 (Inception v1).

`googlenet_original` is the published net as Caffe's bvlc_googlenet defines it: 5x5 branches, biases, local response
normalisation, no BN. `googlenet` is torchvision's: BN after every convolution, 3x3 in place of 5x5 (a slip of the
TensorFlow implementation that it follows), and a 2x2 maximum before inception5a. Parameter names are torchvision's.

ILSVRC-2012 validation of the paper, 1 model, 1 crop: top-5 89.93 %. torchvision's weights expect pictures scaled to
-1 .. 1: mean and std of 0.5.

Output shapes for 3 x 224 x 224, and weights of each part of the original (no biases):

    conv1, 7x7/2                   B   64  112  112        9,408
    maxpool1, 3x3/2                B   64   56   56
    conv2, 1x1, and conv3, 3x3     B  192   56   56      114,688
    maxpool2, 3x3/2                B  192   28   28
    inception3a                    B  256   28   28      163,328
    inception3b                    B  480   28   28      388,096
    maxpool3, 3x3/2                B  480   14   14
    inception4a                    B  512   14   14      375,552    (aux1 reads this)
    inception4b                    B  512   14   14      448,512
    inception4c                    B  512   14   14      509,440
    inception4d                    B  528   14   14      604,672    (aux2 reads this)
    inception4e                    B  832   14   14      867,328
    maxpool4, 3x3/2                B  832    7    7
    inception5a                    B  832    7    7    1,042,432
    inception5b                    B 1024    7    7    1,442,816
    avgpool                        B 1024
    fc                             B 1000              1,024,000

The paper's table says 2.7 K weights and 34 M operations for conv1: a depthwise 7x7 with 8 filters per channel and a
1x1 convolution behind it have 2,712 and 34.0 M. Inception v2 really begins so (inception_v2 in this zoo).
"""

from __future__ import annotations

from functools import partial
from itertools import count
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import NetError
from ..records import Facts
from .inception import Conv
from .layers import LocalResponseNorm, WithAuxiliaryHeads, check_dropout, check_input, he_init
from .registry import register

# Table 1 of the paper: 1x1, 3x3 reduce, 3x3, 5x5 reduce, 5x5, pool projection.
WIDTHS = {
    "inception3a": (64, 96, 128, 16, 32, 32),
    "inception3b": (128, 128, 192, 32, 96, 64),
    "inception4a": (192, 96, 208, 16, 48, 64),
    "inception4b": (160, 112, 224, 24, 64, 64),
    "inception4c": (128, 128, 256, 24, 64, 64),
    "inception4d": (112, 144, 288, 32, 64, 64),
    "inception4e": (256, 160, 320, 32, 128, 128),
    "inception5a": (256, 160, 320, 32, 128, 128),
    "inception5b": (384, 192, 384, 48, 128, 128),
}
SMALLEST = 32  # a 1x1 map in inception5b, and nowhere before
_READ = {"inception4a": "aux1", "inception4d": "aux2"}  # what the auxiliary heads read
_POOLED = 5  # side of the window that an auxiliary head of the original averages over


def _conv(channels: int, out: int, kernel: int, stride: int = 1, *, batch_norm: bool) -> Conv:
    return Conv(channels, out, kernel, stride, padding=kernel // 2, bias=not batch_norm, norm=batch_norm)


class Inception(nn.Module):
    """Four branches side by side: 1x1; 1x1 and 3x3; 1x1 and `large` x `large`; 3x3 maximum and 1x1.

    (B, channels, H, W) -> (B, sum of the branches' widths, H, W). `widths` is a row of the paper's table.
    """

    def __init__(self, channels: int, widths: tuple[int, ...], *, large: int, batch_norm: bool) -> None:
        super().__init__()
        one, reduce3, three, reduce5, five, project = widths
        conv = partial(_conv, batch_norm=batch_norm)
        self.branch1 = conv(channels, one, 1)
        self.branch2 = nn.Sequential(conv(channels, reduce3, 1), conv(reduce3, three, 3))
        self.branch3 = nn.Sequential(conv(channels, reduce5, 1), conv(reduce5, five, large))
        self.branch4 = nn.Sequential(nn.MaxPool2d(3, 1, 1), conv(channels, project, 1))
        self.channels = one + three + five + project

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.branch1(x), self.branch2(x), self.branch3(x), self.branch4(x)], 1)


class AuxiliaryHead(nn.Module):
    """Average, 1x1 convolution, two fully connected layers: (B, channels, H, W) -> logits (B, classes).

    `side` is that of the averaged map: 4 at 224 x 224. Without BN the average is over 5x5 windows 3 apart, as
    published; with BN it is over whatever gives a 4x4 map, as in torchvision, so any picture fits.
    """

    def __init__(self, channels: int, classes: int, *, side: int, batch_norm: bool, dropout: float) -> None:
        super().__init__()
        self.pool: nn.Module = nn.AdaptiveAvgPool2d(side) if batch_norm else nn.AvgPool2d(_POOLED, 3, ceil_mode=True)
        self.conv = _conv(channels, 128, 1, batch_norm=batch_norm)
        self.fc1 = nn.Linear(128 * side**2, 1024)
        self.relu = nn.ReLU(inplace=True)
        self.dropout = nn.Dropout(dropout)
        self.fc2 = nn.Linear(1024, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(self.pool(x)).flatten(1)
        if x.shape[1] != self.fc1.in_features:
            raise NetError(
                f"the auxiliary heads were built for {self.fc1.in_features} values of a picture, got {x.shape[1]}; "
                "train with pictures of the size that the net was built for, or build it with input_size=..."
            )
        return self.fc2(self.dropout(self.relu(self.fc1(x))))


class GoogLeNet(WithAuxiliaryHeads):
    """Stem, nine inception modules, mean over the map, linear head; two auxiliary heads if asked for.

    Args:
        batch_norm: BN after every convolution in place of biases and local response normalisation.
        large: side of the third branch's filters, 5 in the paper.
        last_pool: side of the last maximum's window.
        input_size: other sides work too, but not the training of the original's auxiliary heads.
    """

    head = "fc"

    def __init__(
        self,
        batch_norm: bool,
        large: int,
        last_pool: int,
        *,
        classes: int,
        in_channels: int,
        input_size: int,
        auxiliary: bool = False,
        dropout: float = 0.2,
        auxiliary_dropout: float = 0.7,
    ) -> None:
        super().__init__()
        check_dropout(dropout)
        check_dropout(auxiliary_dropout, "auxiliary_dropout")
        self.in_channels, self.auxiliary = in_channels, auxiliary
        self.aux_heads = ("aux1.fc2", "aux2.fc2") if auxiliary else ()
        self.conv1 = _conv(in_channels, 64, 7, 2, batch_norm=batch_norm)
        self.maxpool1 = nn.MaxPool2d(3, 2, ceil_mode=True)
        self.norm1 = nn.Identity() if batch_norm else LocalResponseNorm(k=1.0, form="mean")
        self.conv2 = _conv(64, 64, 1, batch_norm=batch_norm)
        self.conv3 = _conv(64, 192, 3, batch_norm=batch_norm)
        self.norm2 = nn.Identity() if batch_norm else LocalResponseNorm(k=1.0, form="mean")
        self.maxpool2 = nn.MaxPool2d(3, 2, ceil_mode=True)
        channels = {"": 192}  # what each module puts out
        for name, widths in WIDTHS.items():
            if name == "inception4a":
                self.maxpool3 = nn.MaxPool2d(3, 2, ceil_mode=True)
            if name == "inception5a":
                self.maxpool4 = nn.MaxPool2d(last_pool, 2, ceil_mode=True)
            before = list(channels.values())[-1]
            module = Inception(before, widths, large=large, batch_norm=batch_norm)
            self.add_module(name, module)
            channels[name] = module.channels
        if auxiliary:
            side = 4 if batch_norm else _ceil_pool(_map_side(input_size), _POOLED, 3)
            for after, name in _READ.items():
                how: dict[str, Any] = {"side": side, "batch_norm": batch_norm, "dropout": auxiliary_dropout}
                self.add_module(name, AuxiliaryHead(channels[after], classes, **how))
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.dropout = nn.Dropout(dropout)
        self.fc = nn.Linear(channels["inception5b"], classes)
        if batch_norm:
            he_init(self)
        for layer in self.modules():
            self.init_head(layer)
        for name, parameter in self.named_parameters():
            if not batch_norm and name.endswith((".conv.bias", ".fc1.bias")):
                nn.init.constant_(parameter, 0.2)  # as in the released model; few units begin dead

    def init_head(self, layer: nn.Module) -> None:
        """Without BN: weights by Caffe's "xavier", uniform with variance 1 / inputs, as in the released model."""
        if isinstance(layer, nn.Conv2d | nn.Linear) and isinstance(self.norm1, LocalResponseNorm):
            nn.init.kaiming_uniform_(layer.weight, nonlinearity="linear")
            assert layer.bias is not None
            nn.init.zeros_(layer.bias)

    @staticmethod
    def smallest_input(options: dict[str, object]) -> int | None:
        """The original's auxiliary heads average over 5x5 windows, so their map must have that side at least."""
        if options.get("auxiliary") and not options["batch_norm"]:
            return next(side for side in count(SMALLEST) if _map_side(side) >= _POOLED)
        return None

    def run(self, x: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """(B, in_channels, H, W) -> features (B, 1024), and the maps (B, 512 and 528, h, w) of the auxiliary heads."""
        maps: dict[str, Tensor] = {}
        check_input(x, self.in_channels)
        x = self.norm1(self.maxpool1(self.conv1(x)))
        x = self.maxpool2(self.norm2(self.conv3(self.conv2(x))))  # (B, 192, H/8, W/8)
        for name in WIDTHS:
            if name == "inception4a":
                x = self.maxpool3(x)  # (B, 480, H/16, W/16)
            elif name == "inception5a":
                x = self.maxpool4(x)  # (B, 832, H/32, W/32)
            x = self.get_submodule(name)(x)
            if name in _READ:
                maps[_READ[name]] = x
        return self.dropout(self.avgpool(x).flatten(1)), maps


def _ceil_pool(side: int, kernel: int, stride: int) -> int:
    """Return the side of a map behind unpadded pooling whose last window may hang over."""
    return -(-(side - kernel) // stride) + 1


def _map_side(input_size: int) -> int:
    """Return the side of the map of inception4a."""
    side = (input_size - 1) // 2 + 1
    for _ in range(3):
        side = _ceil_pool(side, 3, 2)
    return side


_PAPER = "Szegedy et al. 2014, arXiv:1409.4842"

# name, settings, parameters, MACs, published accuracy
_VARIANTS: list[tuple[str, dict[str, Any], int, int, str]] = [
    ("googlenet", {"batch_norm": True, "large": 3, "last_pool": 2}, 6_624_904, 1_498_376_192,
     "ImageNet top-1 69.78 %, top-5 89.53 % (torchvision weights, 1 crop)"),
    ("googlenet_original", {"batch_norm": False, "large": 5, "last_pool": 3, "dropout": 0.4}, 6_998_552, 1_582_671_872,
     "ImageNet top-1 68.7 %, top-5 88.9 % (Caffe release, 1 crop)"),
]  # fmt: skip

for _name, _settings, _params, _macs, _accuracy in _VARIANTS:
    _facts = Facts(_name, "googlenet", 2014, _PAPER, _params, _macs, (3, 224, 224), 1000, SMALLEST, _accuracy)
    register(_facts, **_settings)(GoogLeNet)
