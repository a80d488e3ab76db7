"""Pre-activation ResNet: Identity Mappings in Deep Residual Networks. He et al. 2016, arXiv:1603.05027.

BN and ReLU come before each convolution, so the sum travels through the net unchanged, and a net of 1001 layers
trains. CIFAR-10 test accuracy of the 1001-layer net: 95.08 % (4.92 % error).

Output shapes for 3 x 224 x 224 (preact_resnet50, in brackets preact_resnet18) and for 3 x 32 x 32 (preact 164):

    conv1, BN, ReLU     B   64  112  112             conv1     B   16   32   32
    maxpool             B   64   56   56             layer1    B   64   32   32
    layer1              B  256   56   56    [64]     layer2    B  128   16   16
    layer2              B  512   28   28    [128]    layer3    B  256    8    8
    layer3              B 1024   14   14    [256]
    layer4              B 2048    7    7    [512]
    norm, ReLU, mean    B 2048              [512]    norm ..   B  256
    fc                  B 1000                       fc        B   10
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from ..records import Facts
from .layers import Classifier, StochasticDepth, check_choice, check_dropout, check_input, he_init
from .registry import CIFAR, IMAGENET, register
from .resnet import (
    SHORTCUTS,
    SMALLEST,
    Convolutions,
    ResNet,
    add_stages,
    convolutions,
    make_depths,
    make_shortcut,
    make_stem,
)


class PreActBlock(nn.Module):
    """Residual block with BN and ReLU before every convolution; nothing after the sum.

    Where shapes differ, the shortcut starts behind the first BN and ReLU, as in the authors' code.
    (B, C, H, W) -> (B, last channels, H / stride, W / stride).
    """

    bn1: nn.Module
    relu1: nn.Module
    conv1: nn.Module

    def __init__(
        self, channels: int, layers: Convolutions, downsample: nn.Module | None, depth: StochasticDepth | None
    ) -> None:
        super().__init__()
        self.convolutions = len(layers)
        for number, (out, kernel, stride, _) in enumerate(layers, start=1):
            self.add_module(f"bn{number}", nn.BatchNorm2d(channels))
            self.add_module(f"relu{number}", nn.ReLU(inplace=True))
            self.add_module(f"conv{number}", nn.Conv2d(channels, out, kernel, stride, kernel // 2, bias=False))
            channels = out
        self.downsample, self.depth = downsample, depth

    def activated(self, x: Tensor) -> Tensor:
        return self.relu1(self.bn1(x))

    def residual(self, x: Tensor) -> Tensor:
        """Everything behind the first BN and ReLU."""
        x = self.conv1(x)
        for number in range(2, self.convolutions + 1):
            x = getattr(self, f"relu{number}")(getattr(self, f"bn{number}")(x))
            x = getattr(self, f"conv{number}")(x)
        return x

    def forward(self, x: Tensor) -> Tensor:
        if self.downsample is None:
            shortcut, start = x, lambda value: self.residual(self.activated(value))
        else:
            x = self.activated(x)
            shortcut, start = self.downsample(x), self.residual
        return shortcut + start(x) if self.depth is None else self.depth(shortcut, start, x)


class PreActResNet(Classifier):
    """Stem, stages of pre-activation blocks, BN and ReLU, mean over the map, linear head.

    Args:
        stem: "imagenet" (7x7/2, BN, ReLU, 3x3/2 maximum), "tensorflow" or "small"; the others are those of `ResNet`.
        stem_norm: BN and ReLU behind the first convolution.
        zero_init_residual: start the last convolution of every block at zero.
    """

    head = "fc"

    def __init__(
        self,
        block: str,
        stages: Sequence[int],
        planes: Sequence[int],
        *,
        classes: int,
        in_channels: int,
        stride_on: str = "3x3",
        stride_at: str = "first",
        shortcut: str = "B",
        stem: str = "imagenet",
        stem_norm: bool = True,
        stochastic_depth: float = 1.0,
        stochastic_depth_form: str = "paper",
        dropout: float = 0.0,
        zero_init_residual: bool = False,
    ) -> None:
        super().__init__()
        check_choice("shortcut", shortcut, SHORTCUTS)
        check_dropout(dropout)
        channels = planes[0]
        self.conv1, self.maxpool = make_stem(stem, in_channels, channels)
        self.bn1 = nn.BatchNorm2d(channels) if stem_norm else nn.Identity()
        self.relu1 = nn.ReLU(inplace=True) if stem_norm else nn.Identity()
        depths = make_depths(sum(stages), stochastic_depth, stochastic_depth_form)

        def make(channels: int, stage: int, stride: int) -> tuple[nn.Module, int]:
            layers = convolutions(block, planes[stage], stride, stride_on)
            down = make_shortcut(shortcut, channels, layers[-1][0], stride, norm=False)
            return PreActBlock(channels, layers, down, depths.pop(0)), layers[-1][0]

        channels = add_stages(self, channels, stages, stride_at, make)
        self._stages = len(stages)
        self.norm = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU(inplace=True)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.dropout = nn.Dropout(dropout)
        self.fc = nn.Linear(channels, classes)
        he_init(self)
        if zero_init_residual:
            for module in self.modules():
                if isinstance(module, PreActBlock):
                    nn.init.zeros_(getattr(module, f"conv{module.convolutions}").weight)

    smallest_input = staticmethod(ResNet.smallest_input)

    def forward_features(self, x: Tensor) -> Tensor:
        """(B, in_channels, H, W) -> (B, D), D = last stage's channels."""
        check_input(x, self.conv1.in_channels)
        x = self.maxpool(self.relu1(self.bn1(self.conv1(x))))
        for number in range(1, self._stages + 1):
            x = getattr(self, f"layer{number}")(x)
        return self.dropout(self.avgpool(self.relu(self.norm(x))).flatten(1))


_PAPER = "He et al. 2016, arXiv:1603.05027"
_IMAGENET: dict[str, object] = {"planes": (64, 128, 256, 512)}
_CIFAR: dict[str, object] = {"planes": (16, 32, 64), "stem": "small", "stem_norm": False}
_CIFAR_NARROW: dict[str, object] = {**_CIFAR, "stride_on": "1x1"}  # as in the authors' resnet-1k-layers

# name, block, stages, settings, parameters, MACs, published accuracy
_VARIANTS = [
    ("preact_resnet18", "basic", (2, 2, 2, 2), _IMAGENET, 11_687_848, 1_814_073_344, ""),
    ("preact_resnet34", "basic", (3, 4, 6, 3), _IMAGENET, 21_796_008, 3_663_761_408, ""),
    ("preact_resnet50", "bottleneck", (3, 4, 6, 3), _IMAGENET, 25_549_480, 4_089_184_256, ""),
    ("preact_resnet101", "bottleneck", (3, 4, 23, 3), _IMAGENET, 44_541_608, 7_801_405_440, ""),
    ("preact_resnet152", "bottleneck", (3, 8, 36, 3), _IMAGENET, 60_185_256, 11_513_626_624, ""),
    ("preact_resnet200", "bottleneck", (3, 24, 36, 3), _IMAGENET, 64_666_280, 15_007_481_856, ""),
    ("cifar_preresnet110", "basic", (18, 18, 18), {**_CIFAR, "shortcut": "A"}, 1_727_962, 252_887_680, ""),
    ("cifar_preresnet164", "bottleneck", (18, 18, 18), _CIFAR_NARROW, 1_703_258, 244_500_992, ""),
    ("cifar_preresnet1001", "bottleneck", (111, 111, 111), _CIFAR_NARROW, 10_327_706,
     1_487_849_984, "CIFAR-10 95.08 %"),
]  # fmt: skip

for _name, _block, _stages, _settings, _params, _macs, _accuracy in _VARIANTS:
    _family, _usual, _stem = (
        ("cifar_resnet", CIFAR, "small") if _name.startswith("cifar") else ("preact_resnet", IMAGENET, "imagenet")
    )
    _facts = Facts(_name, _family, 2016, _PAPER, _params, _macs, **_usual, smallest=SMALLEST[_stem], accuracy=_accuracy)
    register(_facts, block=_block, stages=_stages, **_settings)(PreActResNet)
