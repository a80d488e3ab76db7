"""DenseNet: Densely Connected Convolutional Networks. Huang, Liu, van der Maaten, Weinberger 2017, arXiv:1608.06993.

Every layer of a block reads the maps of all layers before it and adds k maps of its own. "B": a 1x1 convolution to
4 k maps stands before each 3x3; "C": transitions put out half of the maps that they read. Parameter names are
torchvision's.

ILSVRC-2012 validation, 1 centre crop, by the authors' README: top-1 75.0 % (121), 76.4 % (169), 77.5 % (201), 77.8 %
(161). CIFAR-10 without augmentation: 40 layers, k = 12 93.00 %; 100, 12 94.23 %; 100, 24 94.17 %; BC 100, 12 94.08 %;
BC 250, 24 94.81 %. Other figures are below.

Output shapes for 3 x 224 x 224 (densenet121: k = 32; each transition also halves the map):

    conv0, 7x7/2                 B   64  112  112
    pool0, 3x3/2                 B   64   56   56
    denseblock1, 6 layers        B  256   56   56
    transition1                  B  128   28   28
    denseblock2, 12 layers       B  512   28   28
    transition2                  B  256   14   14
    denseblock3, 24 layers       B 1024   14   14
    transition3                  B  512    7    7
    denseblock4, 16 layers       B 1024    7    7
    avgpool                      B 1024
    classifier                   B 1000

and for 3 x 32 x 32 (densenet_bc100_k12; densenet40_k12 in brackets):

    conv0, 3x3                   B   24   32   32    [16]
    denseblock1, 16 (12) layers  B  216   32   32    [160]
    transition1                  B  108   16   16    [160]
    denseblock2                  B  300   16   16    [304]
    transition2                  B  150    8    8    [304]
    denseblock3                  B  342    8    8    [448]
    classifier                   B   10
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..records import Facts
from .layers import Classifier, check_choice, check_dropout, check_input, he_init
from .registry import CIFAR, IMAGENET, TORCHVISION, register


class DenseLayer(nn.Sequential):
    """BN, ReLU and convolution, once (3x3) or twice (1x1, 3x3): (B, channels, H, W) -> (B, channels + growth, H, W).

    The input comes out again, with the `growth` new maps behind it. `bottleneck` is the number of maps of the 1x1
    convolution in units of `growth`, 0 for none.
    """

    def __init__(self, channels: int, growth: int, bottleneck: int, dropout: float) -> None:
        super().__init__()
        steps = [(bottleneck * growth, 1), (growth, 3)] if bottleneck else [(growth, 3)]
        for number, (out, kernel) in enumerate(steps, start=1):
            self.add_module(f"norm{number}", nn.BatchNorm2d(channels))
            self.add_module(f"relu{number}", nn.ReLU(inplace=True))
            self.add_module(f"conv{number}", nn.Conv2d(channels, out, kernel, padding=kernel // 2, bias=False))
            if dropout:
                self.add_module(f"dropout{number}", nn.Dropout(dropout))
            channels = out

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x, super().forward(x)], 1)


class Transition(nn.Sequential):
    """BN, ReLU, 1x1 convolution, 2x2 mean: (B, channels, H, W) -> (B, out, H / 2, W / 2)."""

    def __init__(self, channels: int, out: int, dropout: float) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU(inplace=True)
        self.conv = nn.Conv2d(channels, out, 1, bias=False)
        if dropout:
            self.dropout = nn.Dropout(dropout)
        self.pool = nn.AvgPool2d(2)


class DenseNet(Classifier):
    """Stem, dense blocks with transitions between them, BN, mean over the map, linear head.

    Args:
        growth: k, the maps that each layer adds.
        first: maps of the first convolution.
        bottleneck: maps of the 1x1 convolutions in units of k; 0 means none ("basic"), the paper's "B" is 4.
        compression: share of the maps that a transition keeps; the paper's "C" is 0.5.
        stem: "imagenet" is a 7x7/2 convolution, BN and a 3x3/2 maximum; "small", for pictures of about 32x32, is a 3x3
            convolution alone.
        dropout: probability of dropping a value behind each convolution but the first (paper: 0.2 for CIFAR without
            augmentation).
    """

    head = "classifier"

    def __init__(
        self,
        layers: Sequence[int],
        growth: int,
        first: int,
        bottleneck: int,
        compression: float,
        *,
        classes: int,
        in_channels: int,
        stem: str = "imagenet",
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        check_choice("stem", stem, ("imagenet", "small"))
        check_dropout(dropout)
        self.in_channels = in_channels
        self.features = nn.Sequential()
        if stem == "imagenet":
            self.features.conv0 = nn.Conv2d(in_channels, first, 7, 2, 3, bias=False)
            self.features.norm0 = nn.BatchNorm2d(first)
            self.features.relu0 = nn.ReLU(inplace=True)
            self.features.pool0 = nn.MaxPool2d(3, 2, 1)
        else:
            self.features.conv0 = nn.Conv2d(in_channels, first, 3, 1, 1, bias=False)
        channels = first
        for number, depth in enumerate(layers, start=1):
            block = nn.Sequential()
            for index in range(1, depth + 1):
                block.add_module(f"denselayer{index}", DenseLayer(channels, growth, bottleneck, dropout))
                channels += growth
            self.features.add_module(f"denseblock{number}", block)
            if number < len(layers):
                kept = int(channels * compression)
                self.features.add_module(f"transition{number}", Transition(channels, kept, dropout))
                channels = kept
        self.features.norm5 = nn.BatchNorm2d(channels)  # 5 as in torchvision, however many blocks there are
        self.relu = nn.ReLU(inplace=True)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(channels, classes)
        he_init(self)
        self.init_head(self.classifier)

    @staticmethod
    def init_head(layer: nn.Module) -> None:
        """The head's bias starts at zero, as in the released code."""
        assert isinstance(layer, nn.Linear)
        nn.init.zeros_(layer.bias)

    @staticmethod
    def smallest_input(options: dict[str, Any]) -> int:
        """A 1x1 map in the last block, and nowhere before; the small stem halves nothing."""
        return 2 ** (len(options["layers"]) - 1) * (4 if options.get("stem", "imagenet") == "imagenet" else 1)  # type: ignore[no-any-return]

    def forward_features(self, x: Tensor) -> Tensor:
        """(B, in_channels, H, W) -> (B, D), D = maps of the last block."""
        check_input(x, self.in_channels)
        return self.avgpool(self.relu(self.features(x))).flatten(1)


_PAPER = "Huang et al. 2017, arXiv:1608.06993"
_CIFAR = "CIFAR-10 {} % with augmentation (paper)"

# name, layers of each block, k, first maps, bottleneck, parameters, MACs, published accuracy
_VARIANTS: list[tuple[Any, ...]] = [
    ("densenet121", (6, 12, 24, 16), 32, 64, 4, 7_978_856, 2_834_161_664, TORCHVISION.format("74.43", "91.97")),
    ("densenet161", (6, 12, 36, 24), 48, 96, 4, 28_681_000, 7_727_907_072, TORCHVISION.format("77.14", "93.56")),
    ("densenet169", (6, 12, 32, 32), 32, 64, 4, 14_149_480, 3_359_843_328, TORCHVISION.format("75.60", "92.81")),
    ("densenet201", (6, 12, 48, 32), 32, 64, 4, 20_013_928, 4_291_365_888, TORCHVISION.format("76.90", "93.37")),
    ("densenet40_k12", (12,) * 3, 12, 16, 0, 1_019_722, 264_812_928, _CIFAR.format("94.76")),
    ("densenet100_k12", (32,) * 3, 12, 16, 0, 6_979_642, 1_769_516_448, _CIFAR.format("95.90")),
    ("densenet100_k24", (32,) * 3, 24, 16, 0, 27_249_082, 6_889_347_744, _CIFAR.format("96.26")),
    ("densenet_bc100_k12", (16,) * 3, 12, 24, 4, 769_162, 287_929_692, _CIFAR.format("95.49")),
    ("densenet_bc190_k40", (31,) * 3, 40, 80, 4, 25_624_430, 9_301_945_740, _CIFAR.format("96.54")),
    ("densenet_bc250_k24", (41,) * 3, 24, 48, 4, 15_324_406, 5_418_785_724, _CIFAR.format("96.38")),
]

for _name, _layers, _growth, _first, _bottleneck, _params, _macs, _accuracy in _VARIANTS:
    _usual, _stem = (IMAGENET, "imagenet") if len(_layers) == 4 else (CIFAR, "small")
    _how: dict[str, Any] = {"layers": _layers, "stem": _stem, "compression": 0.5 if _bottleneck else 1.0}
    _least = DenseNet.smallest_input(_how)
    _facts = Facts(_name, "densenet", 2017, _PAPER, _params, _macs, **_usual, smallest=_least, accuracy=_accuracy)
    register(_facts, growth=_growth, first=_first, bottleneck=_bottleneck, **_how)(DenseNet)
