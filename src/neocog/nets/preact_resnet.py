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

from ..errors import NetError
from ..records import Facts
from .layers import Classifier, PadShortcut, StochasticDepth, check_dropout, check_input, he_init
from .registry import CIFAR, IMAGENET, register
from .resnet import SMALLEST, make_depths, make_stem, stride_of


class PreActBlock(nn.Module):
    """Residual block with BN and ReLU before every convolution; nothing after the sum.

    kernels=(3, 3) is the basic block, (1, 3, 1) the bottleneck; `strides` and `widths` go with them. Where shapes
    differ, the shortcut starts behind the first BN and ReLU, as in the authors' code.
    (B, C, H, W) -> (B, widths[-1], H / stride, W / stride).
    """

    bn1: nn.Module
    relu1: nn.Module
    conv1: nn.Module

    def __init__(
        self,
        channels: int,
        kernels: Sequence[int],
        widths: Sequence[int],
        strides: Sequence[int],
        downsample: nn.Module | None,
        depth: StochasticDepth | None,
    ) -> None:
        super().__init__()
        self.convolutions = len(kernels)
        for number, (kernel, width, stride) in enumerate(zip(kernels, widths, strides, strict=True), start=1):
            self.add_module(f"bn{number}", nn.BatchNorm2d(channels))
            self.add_module(f"relu{number}", nn.ReLU(inplace=True))
            self.add_module(f"conv{number}", nn.Conv2d(channels, width, kernel, stride, kernel // 2, bias=False))
            channels = width
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
        block: "basic" or "bottleneck".
        stages: blocks in each stage.
        planes: width of each stage; a bottleneck puts out four times as much.
        classes, in_channels: outputs, and channels of the pictures.
        stride_on: which convolution of a bottleneck takes the stride, "3x3" or "1x1".
        shortcut: where shapes differ, "B" is a 1x1 convolution (without BN), "A" picks every second value and
            appends zeros, "average" takes the mean of each 2x2 window and appends zeros.
        stride_at: "first" or "last" block of a stage halves the map; see ResNet.
        stem: "imagenet" (7x7/2, BN, ReLU, 3x3/2 maximum), "tensorflow" (with its padding before the maximum) or
            "small" (3x3, for pictures of about 32x32).
        stem_norm: BN and ReLU behind the first convolution.
        stochastic_depth, stochastic_depth_form, dropout: as in ResNet.
        zero_init_residual: start the last convolution of every block at zero.

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
        if shortcut not in ("A", "B", "average"):
            raise NetError(f"shortcut must be 'A', 'B' or 'average', got {shortcut!r}")
        if stride_on not in ("1x1", "3x3"):
            raise NetError(f"stride_on must be '1x1' or '3x3', got {stride_on!r}")
        if block == "basic" and stride_on != "3x3":
            raise NetError("stride_on='1x1' needs bottleneck blocks; choose a net such as preact_resnet50")
        check_dropout(dropout)
        channels = planes[0]
        self.conv1, self.maxpool = make_stem(stem, in_channels, channels)
        self.bn1 = nn.BatchNorm2d(channels) if stem_norm else nn.Identity()
        self.relu1 = nn.ReLU(inplace=True) if stem_norm else nn.Identity()
        depths = make_depths(sum(stages), stochastic_depth, stochastic_depth_form)
        for number, (blocks, plane) in enumerate(zip(stages, planes, strict=True), start=1):
            layers = []
            for index in range(blocks):
                stride = stride_of(stride_at, number, len(stages), index, blocks)
                kernels, widths, strides = [3, 3], [plane, plane], [stride, 1]
                if block == "bottleneck":
                    kernels, widths = [1, 3, 1], [plane, plane, 4 * plane]
                    strides = [stride, 1, 1] if stride_on == "1x1" else [1, stride, 1]
                out = widths[-1]
                down: nn.Module | None = None
                if stride != 1 or channels != out:
                    down = PadShortcut(out, stride, average=shortcut == "average")
                    if shortcut == "B" and channels != out:
                        down = nn.Conv2d(channels, out, 1, stride, bias=False)
                layers.append(PreActBlock(channels, kernels, widths, strides, down, depths.pop(0)))
                channels = out
            self.add_module(f"layer{number}", nn.Sequential(*layers))
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

    @staticmethod
    def smallest_input(options: dict[str, object]) -> int | None:
        """The small stem halves nothing, so smaller pictures fit."""
        return SMALLEST["small"] if options.get("stem") == "small" else None

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
