"""SENet: Squeeze-and-Excitation Networks. Hu, Shen, Albanie, Sun, Wu 2018, arXiv:1709.01507.

SE-ResNet, SE-ResNeXt and SENet-154: residual nets whose branches end in an SE gate. They are the authors' Caffe models:
first pooling without padding but rounded up, and in SE-ResNet the stride on the 1x1 convolution. Parameter names are
timm's (its "legacy" SE nets). SE-ResNet-18 and -34 are timm's; the authors published none.

ILSVRC-2012 validation, one centre crop of 224 (authors): SE-ResNet-50 77.63 %, -101 78.25 %, -152 78.66 %,
SE-ResNeXt-50 (32x4d) 79.03 %, -101 (32x4d) 80.19 %, SENet-154 81.32 %.

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

from collections import OrderedDict
from collections.abc import Sequence

from torch import Tensor, nn

from ..errors import NetError
from ..records import Facts
from .gates import SEGate
from .layers import Classifier, check_dropout, check_input, he_init
from .registry import register

# A 1x1 map in the last stage, and nowhere before.
_SMALLEST = 32

_REDUCTION = 16  # of all gates; the paper's table 10 compares others


class SEBlock(nn.Module):
    """Two or three convolutions and a gate: ``relu(gate(convolutions(x)) + shortcut(x))``.

    `layers` are (channels, kernel, stride, groups) of each convolution; (B, C, H, W) -> (B, last channels, H / stride,
    W / stride). BN follows each, and ReLU each but the last, and the last too with `relu_before_gate`.
    """

    relu: nn.Module

    def __init__(
        self,
        channels: int,
        layers: Sequence[tuple[int, int, int, int]],
        downsample: nn.Module | None,
        relu_before_gate: bool = False,
    ) -> None:
        super().__init__()
        for number, (out, kernel, stride, groups) in enumerate(layers, start=1):
            conv = nn.Conv2d(channels, out, kernel, stride, kernel // 2, groups=groups, bias=False)
            self.add_module(f"conv{number}", conv)
            self.add_module(f"bn{number}", nn.BatchNorm2d(out))
            self.add_module("relu" if number == len(layers) else f"relu{number}", nn.ReLU(inplace=True))
            channels = out
        self.convolutions = len(layers)
        self.relu_before_gate = relu_before_gate
        self.se_module = SEGate(channels, _REDUCTION)
        self.downsample = downsample

    def forward(self, x: Tensor) -> Tensor:
        out = x
        for number in range(1, self.convolutions + 1):
            out = getattr(self, f"bn{number}")(getattr(self, f"conv{number}")(out))
            if number < self.convolutions:
                out = getattr(self, f"relu{number}")(out)
        if self.relu_before_gate:
            out = self.relu(out)
        shortcut = x if self.downsample is None else self.downsample(x)
        return self.relu(self.se_module(out) + shortcut)


def _layers(block: str, plane: int, stride: int, stride_on: str) -> tuple[tuple[int, int, int, int], ...]:
    """Return (channels, kernel, stride, groups) of the convolutions of a block."""
    if block == "basic":
        return (plane, 3, stride, 1), (plane, 3, 1, 1)
    first, second = (stride, 1) if stride_on == "1x1" else (1, stride)
    inner, wide, groups = {
        "resnet": (plane, plane, 1),
        "resnext": (2 * plane, 2 * plane, 32),  # 4 channels per group at plane 64
        "senet": (2 * plane, 4 * plane, 64),
    }[block]
    return (inner, 1, first, 1), (wide, 3, second, groups), (4 * plane, 1, 1, 1)


class SENet(Classifier):
    """Stem, four stages of gated blocks (every stage but the first halves the map), mean over the map, linear head.

    Args:
        block: "basic", "resnet", "resnext" or "senet".
        stages: blocks in each stage.
        classes, in_channels: outputs, and channels of the pictures.
        stride_on: "1x1" (the authors' SE-ResNet) or "3x3" (their SE-ResNeXt and SENet-154, and later SE-ResNets),
            which costs SE-ResNet 6 % more MACs.
        dropout: probability of dropping a feature before the head.
        relu_before_gate: a ReLU after the last BN of a block, before the gate. The paper has none, but it has no
            SE-ResNet-18 and -34 either; the weights that exist for those (timm's) were trained with it.

    SENet-154 has a stem of three 3x3 convolutions, and 3x3 convolutions in the shortcuts of the stages 2 to 4.

    Raises: NetError for a value that is none of these.
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
        if stride_on not in ("1x1", "3x3"):
            raise NetError(f"stride_on must be '1x1' or '3x3', got {stride_on!r}")
        if block == "basic" and stride_on != "3x3":
            raise NetError("the option stride_on needs bottleneck blocks; choose a net such as se_resnet50")
        check_dropout(dropout)
        self.in_channels = in_channels
        deep = block == "senet"
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        channels = in_channels
        for number, out in enumerate((64, 64, 128) if deep else (64,), start=1):
            kernel = 3 if deep else 7
            conv = nn.Conv2d(channels, out, kernel, 2 if number == 1 else 1, kernel // 2, bias=False)
            layers[f"conv{number}"], layers[f"bn{number}"] = conv, nn.BatchNorm2d(out)
            layers[f"relu{number}"] = nn.ReLU(inplace=True)
            channels = out
        self.layer0 = nn.Sequential(layers)
        self.pool0 = nn.MaxPool2d(3, 2, ceil_mode=True)
        for number, (blocks, plane) in enumerate(zip(stages, (64, 128, 256, 512), strict=True), start=1):
            made = []
            for index in range(blocks):
                stride = 2 if number > 1 and index == 0 else 1
                shape = _layers(block, plane, stride, stride_on)
                out = shape[-1][0]
                shortcut = None
                if stride > 1 or channels != out:
                    kernel = 3 if deep and number > 1 else 1
                    conv = nn.Conv2d(channels, out, kernel, stride, kernel // 2, bias=False)
                    shortcut = nn.Sequential(conv, nn.BatchNorm2d(out))
                made.append(SEBlock(channels, shape, shortcut, relu_before_gate))
                channels = out
            self.add_module(f"layer{number}", nn.Sequential(*made))
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
_BASIC: dict[str, object] = {"stride_on": "3x3", "relu_before_gate": True}
_RESNEXT: dict[str, object] = {"stride_on": "3x3"}

# name, block, stages, settings, parameters, MACs, published accuracy
_VARIANTS = [
    ("se_resnet18", "basic", (2, 2, 2, 2), _BASIC, 11_778_592, 1_814_160_384, ""),
    ("se_resnet34", "basic", (3, 4, 6, 3), _BASIC, 21_958_868, 3_663_918_592, ""),
    ("se_resnet50", "resnet", (3, 4, 6, 3), {}, 28_088_024, 3_860_488_192, _HU.format("77.63", "93.64")),
    ("se_resnet101", "resnet", (3, 4, 23, 3), {}, 49_326_872, 7_574_937_600, _HU.format("78.25", "94.28")),
    ("se_resnet152", "resnet", (3, 8, 36, 3), {}, 66_821_848, 11_288_993_792, _HU.format("78.66", "94.46")),
    ("se_resnext50_32x4d", "resnext", (3, 4, 6, 3), _RESNEXT, 27_559_896, 4_232_994_816, _HU.format("79.03", "94.46")),
    ("se_resnext101_32x4d", "resnext", (3, 4, 23, 3), _RESNEXT, 48_955_416, 7_974_739_968,
     _HU.format("80.19", "95.04")),
    ("senet154", "senet", (3, 8, 36, 3), {"stride_on": "3x3", "dropout": 0.2}, 115_088_984, 20_688_363_520,
     _HU.format("81.32", "95.53")),
]  # fmt: skip

for _name, _block, _stages, _settings, _params, _macs, _accuracy in _VARIANTS:
    register(
        Facts(_name, "senet", 2018, _PAPER, _params, _macs, (3, 224, 224), 1000, _SMALLEST, _accuracy),
        block=_block,
        stages=_stages,
        **_settings,  # type: ignore[arg-type]
    )(SENet)
