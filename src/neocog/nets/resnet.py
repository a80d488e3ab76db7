"""ResNet: Deep Residual Learning for Image Recognition. He, Zhang, Ren, Sun 2015, arXiv:1512.03385.

Also wide ResNet (Zagoruyko, Komodakis 2016, arXiv:1605.07146) and ResNeXt (Xie et al. 2017, arXiv:1611.05431), which
differ in the width and the groups of the 3x3 convolution only, and stochastic depth (Huang et al. 2016,
arXiv:1603.09382: conv biases, averaging shortcuts, p_L = 0.5). Parameter names are torchvision's.

Output shapes for 3 x 224 x 224 (B pictures; ResNet-50, and in brackets ResNet-18), and for 3 x 32 x 32 (section 4.2 of
the paper: 6n + 2 layers, shortcuts "A"; a bottleneck's stages, of ResNeXt-29, put out 256, 512 and 1024 channels):

    conv1, 7x7/2             B   64  112  112            conv1, 3x3           B  16  32  32
    maxpool, 3x3/2           B   64   56   56
    layer1, 3 (2) blocks     B  256   56   56    [64]    layer1, n blocks     B  16  32  32
    layer2, 4 (2) blocks     B  512   28   28    [128]   layer2, n blocks     B  32  16  16
    layer3, 6 (2) blocks     B 1024   14   14    [256]   layer3, n blocks     B  64   8   8
    layer4, 3 (2) blocks     B 2048    7    7    [512]
    avgpool                  B 2048              [512]   avgpool              B  64
    fc                       B 1000                      fc                   B  10
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor, nn

from ..errors import NetError
from ..records import Facts
from .gates import SamePad
from .layers import (
    Classifier,
    PadShortcut,
    StochasticDepth,
    check_choice,
    check_dropout,
    check_input,
    he_init,
    survival_rule,
)
from .registry import CIFAR, IMAGENET, TORCHVISION, register

Convolutions = Sequence[tuple[int, int, int, int]]  # channels, kernel, stride, groups of each in a block


class Residual(nn.Module):
    """``relu(shortcut(x) + residual(x))``: convolutions with BN, ReLU between them; dropped at random or not.

    (B, C, H, W) -> (B, last channels, H / stride, W / stride).
    """

    relu: nn.Module

    def __init__(
        self,
        channels: int,
        layers: Convolutions,
        downsample: nn.Module | None = None,
        depth: StochasticDepth | None = None,
        bias: bool = False,
    ) -> None:
        super().__init__()
        self.downsample, self.depth, self.convolutions = downsample, depth, len(layers)
        for number, (out, kernel, stride, groups) in enumerate(layers, start=1):
            conv = nn.Conv2d(channels, out, kernel, stride, kernel // 2, groups=groups, bias=bias)
            self.add_module(f"conv{number}", conv)
            self.add_module(f"bn{number}", nn.BatchNorm2d(out))
            self.add_module("relu" if number == len(layers) else f"relu{number}", nn.ReLU(inplace=True))
            channels = out

    def residual(self, x: Tensor) -> Tensor:
        for number in range(1, self.convolutions + 1):
            x = getattr(self, f"bn{number}")(getattr(self, f"conv{number}")(x))
            if number < self.convolutions:
                x = getattr(self, f"relu{number}")(x)
        return x

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        if self.depth is None:
            return self.relu(self.residual(x) + shortcut)  # type: ignore[no-any-return]
        return self.relu(self.depth(shortcut, self.residual, x))  # type: ignore[no-any-return]


class BasicBlock(Residual):
    """Two 3x3 convolutions. 18 H W C^2 MACs at equal widths."""


class Bottleneck(Residual):
    """1x1, 3x3, 1x1 convolutions, with four times the plane's channels at the end."""


def convolutions(
    block: str, plane: int, stride: int, stride_on: str, width: int | None = None, groups: int = 1
) -> Convolutions:
    """Return the convolutions of a "basic" or a "bottleneck" block; `width`, of the latter's 3x3, is else `plane`.

    `stride_on` says which convolution of a bottleneck takes the stride: "1x1" as in the paper and the Caffe models,
    "3x3" as in torchvision ("v1.5"), which costs 6 % more MACs and gains about half a point of accuracy.
    """
    width = plane if width is None else width
    check_choice("stride_on", stride_on, ("1x1", "3x3"))
    if block == "bottleneck":
        first, second = (stride, 1) if stride_on == "1x1" else (1, stride)
        return (width, 1, first, 1), (width, 3, second, groups), (4 * plane, 1, 1, 1)
    if groups != 1 or width != plane or stride_on != "3x3":
        raise NetError("the options groups, width and stride_on need bottleneck blocks; choose a net such as resnet50")
    return (plane, 3, stride, 1), (plane, 3, 1, 1)


# Side of the smallest picture for each stem: a 1x1 map in the last of four stages, and nowhere before.
SMALLEST = {"imagenet": 32, "small": 8}


class ResNet(Classifier):
    """Stem, stages of residual blocks (every stage but the first halves the map), mean over the map, linear head.

    Args:
        block: "basic" or "bottleneck".
        stages: blocks in each stage.
        planes: width of each stage; a bottleneck puts out four times as much.
        groups, width: groups of the bottleneck's 3x3 convolution, and channels per group at 64 planes (ResNeXt,
            wide ResNet).
        stride_on: "3x3" or "1x1", see `convolutions`.
        shortcut: where shapes differ, "B" is a 1x1 convolution with BN, "A" picks every second value and appends
            zeros, "average" takes the mean of each 2x2 window and appends zeros.
        stride_at: which block of a stage halves the map: "first" as in the paper, or "last" as in TF-Slim (whose first
            stage halves it, too, and whose last does not), which makes the receptive field larger.
        stem: "imagenet" is a 7x7/2 convolution and a 3x3/2 maximum; "tensorflow" the same with TensorFlow's "SAME"
            padding before the maximum; "small", for pictures of about 32x32, is a 3x3 convolution.
        conv_bias: give convolutions a bias, although BN follows.
        stochastic_depth: survival probability of the last block, 1 = off; see StochasticDepth.
        stochastic_depth_form: "paper" or "scaled".
        zero_init_residual: start every block as the identity (Goyal et al. 2017, arXiv:1706.02677).
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
        groups: int = 1,
        width: int = 64,
        stride_on: str = "3x3",
        stride_at: str = "first",
        shortcut: str = "B",
        stem: str = "imagenet",
        conv_bias: bool = False,
        stochastic_depth: float = 1.0,
        stochastic_depth_form: str = "paper",
        dropout: float = 0.0,
        zero_init_residual: bool = False,
    ) -> None:
        super().__init__()
        check_choice("shortcut", shortcut, SHORTCUTS)
        check_dropout(dropout)
        self.conv1, self.maxpool = make_stem(stem, in_channels, planes[0], bias=conv_bias)
        self.bn1 = nn.BatchNorm2d(planes[0])
        self.relu = nn.ReLU(inplace=True)
        depths = make_depths(sum(stages), stochastic_depth, stochastic_depth_form)
        kind = BasicBlock if block == "basic" else Bottleneck

        def make(channels: int, stage: int, stride: int) -> tuple[nn.Module, int]:
            plane = planes[stage]
            # int() before the product, as torchvision rounds
            layers = convolutions(block, plane, stride, stride_on, int(plane * (width / 64)) * groups, groups)
            down = make_shortcut(shortcut, channels, layers[-1][0], stride, conv_bias)
            return kind(channels, layers, down, depths.pop(0), conv_bias), layers[-1][0]

        channels = add_stages(self, planes[0], stages, stride_at, make)
        self._stages = len(stages)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.dropout = nn.Dropout(dropout)
        self.fc = nn.Linear(channels, classes)
        he_init(self)
        if zero_init_residual:
            for module in self.modules():
                if isinstance(module, Residual):
                    nn.init.zeros_(module.get_parameter(f"bn{module.convolutions}.weight"))

    @staticmethod
    def smallest_input(options: dict[str, object]) -> int | None:
        """The small stem halves nothing, so smaller pictures fit."""
        return SMALLEST["small"] if options.get("stem") == "small" else None

    def forward_features(self, x: Tensor) -> Tensor:
        """(B, in_channels, H, W) -> (B, D), D = last stage's channels."""
        check_input(x, self.conv1.in_channels)
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        for number in range(1, self._stages + 1):
            x = getattr(self, f"layer{number}")(x)
        return self.dropout(self.avgpool(x).flatten(1))


def add_stages(
    net: nn.Module,
    channels: int,
    stages: Sequence[int],
    stride_at: str,
    make: Callable[[int, int, int], tuple[nn.Module, int]],
) -> int:
    """Give a net its layer1, layer2 and so on; return how many channels the last one puts out.

    ``make(channels, stage, stride)`` gives a block that reads so many, and what it puts out. The stride is 2 in the
    first block of each stage but the first, or in the last of each but the last.
    """
    check_choice("stride_at", stride_at, ("first", "last"))
    for stage, blocks in enumerate(stages):
        made = []
        for index in range(blocks):
            halves = stage > 0 and index == 0
            if stride_at == "last":
                halves = stage + 1 < len(stages) and index + 1 == blocks
            block, channels = make(channels, stage, 2 if halves else 1)
            made.append(block)
        net.add_module(f"layer{stage + 1}", nn.Sequential(*made))
    return channels


def make_stem(stem: str, in_channels: int, channels: int, bias: bool = False) -> tuple[nn.Conv2d, nn.Module]:
    """Return the first convolution and what pools after it."""
    check_choice("stem", stem, ("imagenet", "tensorflow", "small"))
    if stem == "small":
        return nn.Conv2d(in_channels, channels, 3, 1, 1, bias=bias), nn.Identity()
    pool: nn.Module = nn.MaxPool2d(3, 2, 1)
    if stem == "tensorflow":
        pool = nn.Sequential(SamePad(3, 2, value=float("-inf")), nn.MaxPool2d(3, 2))
    return nn.Conv2d(in_channels, channels, 7, 2, 3, bias=bias), pool


def make_depths(blocks: int, last: float, form: str) -> list[StochasticDepth | None]:
    """Return one StochasticDepth for each block by the linear decay rule, or None for each if `last` is 1."""
    made = [StochasticDepth(survival, form) for survival in survival_rule(blocks, last)]
    return [None] * blocks if last == 1 else made  # type: ignore[return-value]


SHORTCUTS = ("A", "B", "average")


def make_shortcut(
    kind: str, channels: int, out: int, stride: int, bias: bool = False, norm: bool = True
) -> nn.Module | None:
    """Return what stands beside a block, None where the shapes are the same."""
    if stride == 1 and channels == out:
        return None
    if kind == "B" and channels != out:
        conv = nn.Conv2d(channels, out, 1, stride, bias=bias)
        return nn.Sequential(conv, nn.BatchNorm2d(out)) if norm else conv
    return PadShortcut(out, stride, average=kind == "average")


_PAPER = "He et al. 2015, arXiv:1512.03385"
_WIDE = "Zagoruyko and Komodakis 2016, arXiv:1605.07146"
_NEXT = "Xie et al. 2017, arXiv:1611.05431"
_DEPTH = "Huang et al. 2016, arXiv:1603.09382"
_CAFFE = "ImageNet top-1 {} %, top-5 {} % (Caffe release, 1 crop)"

# name, year, paper, block, stages, settings, parameters, MACs, published accuracy
_VARIANTS: list[tuple[Any, ...]] = [
    ("resnet18", 2015, _PAPER, "basic", (2, 2, 2, 2), {}, 11_689_512,
     1_814_073_344, TORCHVISION.format("69.76", "89.08")),
    ("resnet34", 2015, _PAPER, "basic", (3, 4, 6, 3), {}, 21_797_672,
     3_663_761_408, TORCHVISION.format("73.31", "91.42")),
    ("resnet50", 2015, _PAPER, "bottleneck", (3, 4, 6, 3), {}, 25_557_032,
     4_089_184_256, TORCHVISION.format("76.13", "92.86")),
    ("resnet101", 2015, _PAPER, "bottleneck", (3, 4, 23, 3), {}, 44_549_160,
     7_801_405_440, TORCHVISION.format("77.37", "93.55")),
    ("resnet152", 2015, _PAPER, "bottleneck", (3, 8, 36, 3), {}, 60_192_808,
     11_513_626_624, TORCHVISION.format("78.31", "94.05")),
    ("resnet50_v1", 2015, _PAPER, "bottleneck", (3, 4, 6, 3), {"stride_on": "1x1"}, 25_557_032, 3_857_973_248,
     _CAFFE.format("75.3", "92.2")),
    ("resnet101_v1", 2015, _PAPER, "bottleneck", (3, 4, 23, 3), {"stride_on": "1x1"}, 44_549_160, 7_570_194_432,
     _CAFFE.format("76.4", "92.9")),
    ("resnet152_v1", 2015, _PAPER, "bottleneck", (3, 8, 36, 3), {"stride_on": "1x1"}, 60_192_808, 11_282_415_616,
     _CAFFE.format("77.0", "93.3")),
    ("wide_resnet50_2", 2016, _WIDE, "bottleneck", (3, 4, 6, 3), {"width": 128}, 68_883_240, 11_398_021_120, ""),
    ("wide_resnet101_2", 2016, _WIDE, "bottleneck", (3, 4, 23, 3), {"width": 128}, 126_886_696, 22_753_050_624, ""),
    ("resnext50_32x4d", 2017, _NEXT, "bottleneck", (3, 4, 6, 3), {"groups": 32, "width": 4}, 25_028_904, 4_230_479_872,
     TORCHVISION.format("77.62", "93.70")),
    ("resnext101_32x4d", 2017, _NEXT, "bottleneck", (3, 4, 23, 3), {"groups": 32, "width": 4}, 44_177_704,
     7_969_996_800, "ImageNet top-1 78.8 % (authors' README, 1 crop)"),
    ("resnext101_32x8d", 2017, _NEXT, "bottleneck", (3, 4, 23, 3), {"groups": 32, "width": 8}, 88_791_336,
     16_414_015_488, TORCHVISION.format("79.31", "94.53")),
    ("resnext101_64x4d", 2017, _NEXT, "bottleneck", (3, 4, 23, 3), {"groups": 64, "width": 4}, 83_455_272,
     15_460_270_080, "ImageNet top-1 79.6 % (authors' README, 1 crop)"),
]  # fmt: skip

for _name, _year, _paper, _block, _stages, _settings, _params, _macs, _accuracy in _VARIANTS:
    _facts = Facts(_name, "resnet", _year, _paper, _params, _macs, **IMAGENET, smallest=32, accuracy=_accuracy)
    register(_facts, block=_block, stages=_stages, planes=(64, 128, 256, 512), **_settings)(ResNet)

_PLAIN: dict[str, Any] = {"block": "basic", "planes": (16, 32, 64), "shortcut": "A"}
_DROPPED: dict[str, Any] = {**_PLAIN, "shortcut": "average", "stochastic_depth": 0.5}
_BROAD: dict[str, Any] = {"block": "bottleneck", "planes": (64, 128, 256), "shortcut": "B"}

# name, year, paper, blocks per stage, settings, parameters, MACs, published test accuracy on CIFAR-10
_SMALL: list[tuple[Any, ...]] = [
    ("cifar_resnet20", 2015, _PAPER, 3, _PLAIN, 269_722, 40_551_040, "CIFAR-10 91.25 %"),
    ("cifar_resnet32", 2015, _PAPER, 5, _PLAIN, 464_154, 68_862_592, "CIFAR-10 92.49 %"),
    ("cifar_resnet44", 2015, _PAPER, 7, _PLAIN, 658_586, 97_174_144, "CIFAR-10 92.83 %"),
    ("cifar_resnet56", 2015, _PAPER, 9, _PLAIN, 853_018, 125_485_696, "CIFAR-10 93.03 %"),
    ("cifar_resnet110", 2015, _PAPER, 18, _PLAIN, 1_727_962, 252_887_680, "CIFAR-10 93.57 %"),
    ("cifar_resnet1202", 2015, _PAPER, 200, _PLAIN, 19_421_274, 2_829_238_912, "CIFAR-10 92.07 %"),
    ("stochastic_depth_resnet110", 2016, _DEPTH, 18, {**_DROPPED, "conv_bias": True}, 1_732_010, 252_887_680,
     "CIFAR-10 94.75 %"),
    ("stochastic_depth_resnet1202", 2016, _DEPTH, 200, _DROPPED, 19_421_274, 2_829_238_912, "CIFAR-10 95.09 %"),
    ("resnext29_32x4d", 2017, _NEXT, 3, {**_BROAD, "groups": 32, "width": 4}, 4_775_754, 774_055_936, ""),
    ("resnext29_8x64d", 2017, _NEXT, 3, {**_BROAD, "groups": 8}, 34_426_698, 5_387_266_048, "CIFAR-10 96.35 %"),
    ("resnext29_16x64d", 2017, _NEXT, 3, {**_BROAD, "groups": 16}, 68_155_210, 10_688_866_304, "CIFAR-10 96.42 %"),
]  # fmt: skip

for _name, _year, _paper, _blocks, _settings, _params, _macs, _accuracy in _SMALL:
    _facts = Facts(_name, "cifar_resnet", _year, _paper, _params, _macs, **CIFAR, smallest=8, accuracy=_accuracy)
    register(_facts, stages=(_blocks,) * 3, stem="small", **_settings)(ResNet)
