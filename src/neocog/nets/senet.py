"""SENet: Squeeze-and-Excitation Networks. Hu, Shen, Albanie, Sun, Wu 2018, arXiv:1709.01507.

SE-ResNet, SE-ResNeXt and SENet-154: residual nets whose branches end in an SE gate. They are the authors' Caffe models:
first pooling without padding but rounded up, and in SE-ResNet the stride on the 1x1 convolution. Parameter names are
timm's (its "legacy" SE nets). SE-ResNet-18 and -34 are timm's; the authors published none.

Output shapes for 3 x 224 x 224 (SE-ResNet-50, and in brackets SE-ResNet-18):

    layer0, 7x7/2            B   64  112  112    SENet-154: 3x3/2, 3x3, 3x3, B 128 112 112
    pool0, 3x3/2             B   64   56   56
    layer1, 3 (2) blocks     B  256   56   56    [64]
    layer2, 4 (2) blocks     B  512   28   28    [128]
    layer3, 6 (2) blocks     B 1024   14   14    [256]
    layer4, 3 (2) blocks     B 2048    7    7    [512]
    mean                     B 2048              [512]
    last_linear              B 1000
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from ..records import Facts
from .gates import SEGate
from .layers import Classifier, check_dropout, check_input, conv_bn, he_init, named
from .registry import IMAGENET, register
from .resnet import Convolutions, Residual, add_stages, convolutions


class SEBlock(Residual):
    """A residual block that ends in a gate: ``relu(gate(convolutions(x)) + shortcut(x))``.

    With `relu_before_gate` a ReLU follows the last BN, too.
    """

    def __init__(
        self, channels: int, layers: Convolutions, downsample: nn.Module | None, relu_before_gate: bool = False
    ) -> None:
        super().__init__(channels, layers)
        self.relu_before_gate = relu_before_gate
        self.se_module = SEGate(layers[-1][0], 16)  # the reduction; the paper's table 10 compares others
        self.downsample = downsample

    def residual(self, x: Tensor) -> Tensor:
        x = super().residual(x)
        return self.se_module(self.relu(x) if self.relu_before_gate else x)  # type: ignore[no-any-return]


def _layers(block: str, plane: int, stride: int, stride_on: str) -> Convolutions:
    if block == "senet":
        (_, *first), *others = convolutions("bottleneck", plane, stride, stride_on, 4 * plane, 64)
        return (2 * plane, first[0], first[1], 1), *others
    if block == "resnext":  # 4 channels per group at plane 64
        return convolutions("bottleneck", plane, stride, stride_on, 2 * plane, 32)
    return convolutions(block, plane, stride, stride_on)


class SENet(Classifier):
    """Stem, four stages of gated blocks (every stage but the first halves the map), mean over the map, linear head.

    Args:
        block: "basic", "bottleneck", "resnext" or "senet".
        stride_on: "1x1" (the authors' SE-ResNet) or "3x3" (their SE-ResNeXt and SENet-154, and later SE-ResNets),
            which costs SE-ResNet 6 % more MACs.
        relu_before_gate: a ReLU after the last BN of a block, before the gate. The paper has none, but it has no
            SE-ResNet-18 and -34 either; the weights that exist for those (timm's) were trained with it.

    SENet-154 has a stem of three 3x3 convolutions, and 3x3 convolutions in the shortcuts of the stages 2 to 4.
    """

    head = "last_linear"
    layer1: nn.Module
    layer2: nn.Module
    layer3: nn.Module
    layer4: nn.Module

    def __init__(
        self,
        block: str,
        stages: Sequence[int],
        *,
        classes: int,
        in_channels: int,
        stride_on: str = "1x1",
        dropout: float = 0.0,
        relu_before_gate: bool = False,
    ) -> None:
        super().__init__()
        check_dropout(dropout)
        self.in_channels = in_channels
        deep, channels, layers = block == "senet", in_channels, dict[str, nn.Module]()
        for number, out in enumerate((64, 64, 128) if deep else (64,), start=1):
            made = conv_bn(channels, out, 3 if deep else 7, 2 if number == 1 else 1, relu=nn.ReLU)
            layers |= {f"{name}{number}": layer for name, layer in zip(("conv", "bn", "relu"), made, strict=True)}
            channels = out
        self.layer0 = named(layers)
        self.pool0 = nn.MaxPool2d(3, 2, ceil_mode=True)

        def make(channels: int, stage: int, stride: int) -> tuple[nn.Module, int]:
            layers = _layers(block, 64 << stage, stride, stride_on)
            out, down = layers[-1][0], None
            if stride > 1 or channels != out:
                down = nn.Sequential(*conv_bn(channels, out, 3 if deep and stage else 1, stride))
            return SEBlock(channels, layers, down, relu_before_gate), out

        channels = add_stages(self, channels, stages, "first", make)
        self.avg_pool = nn.AdaptiveAvgPool2d(1)
        self.dropout = nn.Dropout(dropout)
        self.last_linear = nn.Linear(channels, classes)
        he_init(self)

    def forward_features(self, x: Tensor) -> Tensor:
        """(B, in_channels, H, W) -> (B, D), D = 2048, or 512 with basic blocks."""
        check_input(x, self.in_channels)
        x = self.pool0(self.layer0(x))  # (B, 64, H / 4, W / 4)
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))  # (B, D, H / 32, W / 32)
        return self.dropout(self.avg_pool(x).flatten(1))


_PAPER = "Hu et al. 2018, arXiv:1709.01507"
_HU = "ImageNet top-1 {} %, top-5 {} % (authors' README, 1 crop)"
_BASIC: dict[str, Any] = {"stride_on": "3x3", "relu_before_gate": True}
_RESNEXT: dict[str, Any] = {"stride_on": "3x3"}

# name, block, stages, settings, parameters, MACs, published accuracy
_VARIANTS: list[tuple[Any, ...]] = [
    ("se_resnet18", "basic", (2, 2, 2, 2), _BASIC, 11_778_592, 1_814_160_384, ""),
    ("se_resnet34", "basic", (3, 4, 6, 3), _BASIC, 21_958_868, 3_663_918_592, ""),
    ("se_resnet50", "bottleneck", (3, 4, 6, 3), {}, 28_088_024, 3_860_488_192, _HU.format("77.63", "93.64")),
    ("se_resnet101", "bottleneck", (3, 4, 23, 3), {}, 49_326_872, 7_574_937_600, _HU.format("78.25", "94.28")),
    ("se_resnet152", "bottleneck", (3, 8, 36, 3), {}, 66_821_848, 11_288_993_792, _HU.format("78.66", "94.46")),
    ("se_resnext50_32x4d", "resnext", (3, 4, 6, 3), _RESNEXT, 27_559_896, 4_232_994_816, _HU.format("79.03", "94.46")),
    ("se_resnext101_32x4d", "resnext", (3, 4, 23, 3), _RESNEXT, 48_955_416, 7_974_739_968,
     _HU.format("80.19", "95.04")),
    ("senet154", "senet", (3, 8, 36, 3), {"stride_on": "3x3", "dropout": 0.2}, 115_088_984, 20_688_363_520,
     _HU.format("81.32", "95.53")),
]  # fmt: skip

for _name, _block, _stages, _settings, _params, _macs, _accuracy in _VARIANTS:
    _facts = Facts(_name, "senet", 2018, _PAPER, _params, _macs, **IMAGENET, smallest=32, accuracy=_accuracy)
    register(_facts, block=_block, stages=_stages, **_settings)(SENet)
