"""ResNet: Deep Residual Learning for Image Recognition. He, Zhang, Ren, Sun 2015, arXiv:1512.03385.

Also wide ResNet (Zagoruyko, Komodakis 2016, arXiv:1605.07146) and ResNeXt (Xie et al. 2017, arXiv:1611.05431), which
differ in the width and the groups of the 3x3 convolution only. Parameter names are torchvision's.

ILSVRC-2012 validation, one centre crop, torchvision's weights: ResNet-18 69.76 %, -34 73.31 %, -50 76.13 %,
-101 77.37 %, -152 78.31 %. The released Caffe models (stride on the 1x1): ResNet-50 75.3 %, -101 76.4 %, -152 77.0 %.

Output shapes for 3 x 224 x 224 (B pictures; ResNet-50, and in brackets ResNet-18):

    conv1, 7x7/2             B   64  112  112
    maxpool, 3x3/2           B   64   56   56
    layer1, 3 (2) blocks     B  256   56   56    [64]
    layer2, 4 (2) blocks     B  512   28   28    [128]
    layer3, 6 (2) blocks     B 1024   14   14    [256]
    layer4, 3 (2) blocks     B 2048    7    7    [512]
    avgpool                  B 2048              [512]
    fc                       B 1000
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from ..errors import NetError
from ..records import Facts
from .gates import SamePad
from .layers import Classifier, PadShortcut, StochasticDepth, check_dropout, check_input, he_init, survival_rule
from .registry import TORCHVISION, register


class _Block(nn.Module):
    """What both residual blocks share: ``relu(shortcut(x) + residual(x))``, the residual dropped at random or not."""

    relu: nn.Module

    def __init__(self, downsample: nn.Module | None, depth: StochasticDepth | None) -> None:
        super().__init__()
        self.downsample, self.depth = downsample, depth

    def residual(self, x: Tensor) -> Tensor:
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        if self.depth is None:
            return self.relu(self.residual(x) + shortcut)
        return self.relu(self.depth(shortcut, self.residual, x))


class BasicBlock(_Block):
    """Two 3x3 convolutions: (B, C, H, W) -> (B, planes, H / stride, W / stride). 18 H W C^2 MACs at equal widths."""

    expansion = 1

    def __init__(
        self,
        channels: int,
        planes: int,
        stride: int,
        *,
        width: int,
        groups: int,
        stride_on: str,
        bias: bool,
        downsample: nn.Module | None,
        depth: StochasticDepth | None,
    ) -> None:
        if groups != 1 or width != planes or stride_on != "3x3":
            raise NetError(
                "the options groups, width and stride_on need bottleneck blocks; choose a net such as resnet50"
            )
        super().__init__(downsample, depth)
        self.conv1 = nn.Conv2d(channels, planes, 3, stride, 1, bias=bias)
        self.bn1 = nn.BatchNorm2d(planes)
        self.relu1 = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(planes, planes, 3, 1, 1, bias=bias)
        self.bn2 = nn.BatchNorm2d(planes)
        self.relu = nn.ReLU(inplace=True)

    def residual(self, x: Tensor) -> Tensor:
        return self.bn2(self.conv2(self.relu1(self.bn1(self.conv1(x)))))

    def last_norm(self) -> nn.BatchNorm2d:
        return self.bn2


class Bottleneck(_Block):
    """1x1, 3x3, 1x1 convolutions: (B, C, H, W) -> (B, 4 planes, H / stride, W / stride).

    `stride_on` says which convolution takes the stride: "1x1" as in the paper and the Caffe models, "3x3" as in
    torchvision ("v1.5"), which costs 6 % more MACs and gains about half a point of accuracy.
    """

    expansion = 4

    def __init__(
        self,
        channels: int,
        planes: int,
        stride: int,
        *,
        width: int,
        groups: int,
        stride_on: str,
        bias: bool,
        downsample: nn.Module | None,
        depth: StochasticDepth | None,
    ) -> None:
        if stride_on not in ("1x1", "3x3"):
            raise NetError(f"stride_on must be '1x1' or '3x3', got {stride_on!r}")
        super().__init__(downsample, depth)
        first, second = (stride, 1) if stride_on == "1x1" else (1, stride)
        self.conv1 = nn.Conv2d(channels, width, 1, first, bias=bias)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu1 = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(width, width, 3, second, 1, groups=groups, bias=bias)
        self.bn2 = nn.BatchNorm2d(width)
        self.relu2 = nn.ReLU(inplace=True)
        self.conv3 = nn.Conv2d(width, planes * self.expansion, 1, bias=bias)
        self.bn3 = nn.BatchNorm2d(planes * self.expansion)
        self.relu = nn.ReLU(inplace=True)

    def residual(self, x: Tensor) -> Tensor:
        out = self.relu1(self.bn1(self.conv1(x)))
        out = self.relu2(self.bn2(self.conv2(out)))
        return self.bn3(self.conv3(out))

    def last_norm(self) -> nn.BatchNorm2d:
        return self.bn3


# Side of the smallest picture for each stem: a 1x1 map in the last of four stages, and nowhere before.
SMALLEST = {"imagenet": 32, "small": 8}

_BLOCKS: dict[str, type[BasicBlock] | type[Bottleneck]] = {"basic": BasicBlock, "bottleneck": Bottleneck}


class ResNet(Classifier):
    """Stem, stages of residual blocks (every stage but the first halves the map), mean over the map, linear head.

    Args:
        block: "basic" or "bottleneck".
        stages: blocks in each stage.
        planes: width of each stage; a bottleneck puts out four times as much.
        classes, in_channels: outputs, and channels of the pictures.
        groups, width: groups of the bottleneck's 3x3 convolution, and channels per group at 64 planes (ResNeXt,
            wide ResNet).
        stride_on: "3x3" or "1x1", see Bottleneck.
        shortcut: where shapes differ, "B" is a 1x1 convolution with BN, "A" picks every second value and appends
            zeros, "average" takes the mean of each 2x2 window and appends zeros.
        stride_at: which block of a stage halves the map: "first" as in the paper, or "last" as in TF-Slim (whose first
            stage halves it, too, and whose last does not), which makes the receptive field larger.
        stem: "imagenet" is a 7x7/2 convolution and a 3x3/2 maximum; "tensorflow" the same with TensorFlow's "SAME"
            padding before the maximum; "small", for pictures of about 32x32, is a 3x3 convolution.
        conv_bias: give convolutions a bias, although BN follows.
        stochastic_depth: survival probability of the last block, 1 = off; see StochasticDepth.
        stochastic_depth_form: "paper" or "scaled".
        dropout: probability of dropping a feature before the head.
        zero_init_residual: start every block as the identity (Goyal et al. 2017, arXiv:1706.02677).

    Raises: NetError for a value that is none of these.
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
        kind = _BLOCKS[block]
        if shortcut not in ("A", "B", "average"):
            raise NetError(f"shortcut must be 'A', 'B' or 'average', got {shortcut!r}")
        check_dropout(dropout)
        channels = planes[0]
        self.conv1, self.maxpool = make_stem(stem, in_channels, channels, bias=conv_bias)
        self.bn1 = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU(inplace=True)
        depths = make_depths(sum(stages), stochastic_depth, stochastic_depth_form)
        for number, (blocks, plane) in enumerate(zip(stages, planes, strict=True), start=1):
            layers = []
            for index in range(blocks):
                stride = stride_of(stride_at, number, len(stages), index, blocks)
                out = plane * kind.expansion
                layers.append(
                    kind(
                        channels,
                        plane,
                        stride,
                        # int() before the product, as torchvision rounds
                        width=int(plane * (width / 64)) * groups,
                        groups=groups,
                        stride_on=stride_on,
                        bias=conv_bias,
                        downsample=_shortcut(shortcut, channels, out, stride, conv_bias),
                        depth=depths.pop(0),
                    )
                )
                channels = out
            self.add_module(f"layer{number}", nn.Sequential(*layers))
        self._stages = len(stages)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.dropout = nn.Dropout(dropout)
        self.fc = nn.Linear(channels, classes)
        he_init(self)
        if zero_init_residual:
            for module in self.modules():
                if isinstance(module, (BasicBlock, Bottleneck)):
                    nn.init.zeros_(module.last_norm().weight)

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


def stride_of(rule: str, stage: int, stages: int, block: int, blocks: int) -> int:
    """Stride of a block: 2 in the first block of each stage but the first, or in the last of each but the last."""
    if rule not in ("first", "last"):
        raise NetError(f"stride_at must be 'first' or 'last', got {rule!r}")
    halves = stage > 1 and block == 0 if rule == "first" else stage < stages and block == blocks - 1
    return 2 if halves else 1


def make_stem(stem: str, in_channels: int, channels: int, bias: bool = False) -> tuple[nn.Conv2d, nn.Module]:
    """Return the first convolution and what pools after it. Raises: NetError for an unknown stem."""
    if stem == "imagenet":
        return nn.Conv2d(in_channels, channels, 7, 2, 3, bias=bias), nn.MaxPool2d(3, 2, 1)
    if stem == "tensorflow":
        pool = nn.Sequential(SamePad(3, 2, value=float("-inf")), nn.MaxPool2d(3, 2))
        return nn.Conv2d(in_channels, channels, 7, 2, 3, bias=bias), pool
    if stem == "small":
        return nn.Conv2d(in_channels, channels, 3, 1, 1, bias=bias), nn.Identity()
    raise NetError(f"stem must be 'imagenet', 'tensorflow' or 'small', got {stem!r}")


def make_depths(blocks: int, last: float, form: str) -> list[StochasticDepth | None]:
    """Return one StochasticDepth for each block by the linear decay rule, or None for each if `last` is 1."""
    made = [StochasticDepth(survival, form) for survival in survival_rule(blocks, last)]
    return [None] * blocks if last == 1 else made  # type: ignore[return-value]


def _shortcut(kind: str, channels: int, out: int, stride: int, bias: bool) -> nn.Module | None:
    if stride == 1 and channels == out:
        return None
    if kind == "B" and channels != out:
        return nn.Sequential(nn.Conv2d(channels, out, 1, stride, bias=bias), nn.BatchNorm2d(out))
    return PadShortcut(out, stride, average=kind == "average")


_PAPER = "He et al. 2015, arXiv:1512.03385"
_WIDE = "Zagoruyko and Komodakis 2016, arXiv:1605.07146"
_NEXT = "Xie et al. 2017, arXiv:1611.05431"
_CAFFE = "ImageNet top-1 {} %, top-5 {} % (Caffe release, 1 crop)"

# name, year, paper, block, stages, settings, parameters, MACs, published accuracy
_VARIANTS = [
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
    register(
        Facts(_name, "resnet", _year, _paper, _params, _macs, (3, 224, 224), 1000, SMALLEST["imagenet"], _accuracy),
        block=_block,
        stages=_stages,
        planes=(64, 128, 256, 512),
        **_settings,  # type: ignore[arg-type]
    )(ResNet)
