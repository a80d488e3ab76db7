"""EfficientNet-Lite 0 to 4: Tan & Le 2019, arXiv:1905.11946, in the form that its authors released in 2020 for phones.

The Lite nets have no squeeze-and-excitation, ReLU6 instead of swish, and a stem, a first and a last stage that do not
grow: only the stages between are made wider and deeper (compound scaling, section 3.3 of the paper). Parameter names
are timm's (``tf_efficientnet_lite0``); padding is TensorFlow's "SAME", and batch normalisation adds 1e-3 to the
variance, as the released weights need it. The release drops whole blocks in training ("drop connect"); that is left
out here.

Output shapes of EfficientNet-Lite0 for 3 x 224 x 224:

    conv_stem, 3x3/2        B   32  112  112
    blocks.0, 1 block  3x3  B   16  112  112
    blocks.1, 2 blocks 3x3  B   24   56   56
    blocks.2, 2 blocks 5x5  B   40   28   28
    blocks.3, 3 blocks 3x3  B   80   14   14
    blocks.4, 3 blocks 5x5  B  112   14   14
    blocks.5, 4 blocks 5x5  B  192    7    7
    blocks.6, 1 block  3x3  B  320    7    7
    conv_head, 1x1          B 1280    7    7
    mean                    B 1280
    classifier              B 1000
"""

from __future__ import annotations

from math import ceil

from torch import Tensor, nn

from ..records import Facts
from .gates import SameConv2d
from .layers import Classifier, check_dropout, check_input, he_init, multiple_of_8
from .registry import register

_EPS = 1e-3  # TensorFlow's, with which the weights were trained
_STEM, _LAST = 32, 1280

# (expansion, channels, blocks, kernel, stride of the first block) of each stage; table 1 of the paper.
_STAGES = (
    (1, 16, 1, 3, 1), (6, 24, 2, 3, 2), (6, 40, 2, 5, 2), (6, 80, 3, 3, 2), (6, 112, 3, 5, 1), (6, 192, 4, 5, 2),
    (6, 320, 1, 3, 1),
)  # fmt: skip


class MobileBlock(nn.Sequential):
    """1x1 to `expansion` times the channels, each map by itself, 1x1 without activation; x is added where it fits.

    (B, C, H, W) -> (B, out, H / stride, W / stride). With expansion 1 the first of them is left out.
    """

    def __init__(self, channels: int, out: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        inner = channels * expansion
        first: dict[str, nn.Module] = {}
        names = "conv_dw bn1 relu conv_pw bn2".split()
        if expansion > 1:
            names = "conv_dw bn2 relu2 conv_pwl bn3".split()
            first = {"conv_pw": _conv(channels, inner, 1), "bn1": nn.BatchNorm2d(inner, _EPS), "relu1": nn.ReLU6(True)}
        each, joined = _conv(inner, inner, kernel, stride, groups=inner), _conv(inner, out, 1)
        layers = (each, nn.BatchNorm2d(inner, _EPS), nn.ReLU6(True), joined, nn.BatchNorm2d(out, _EPS))
        for name, layer in {**first, **dict(zip(names, layers, strict=True))}.items():
            self.add_module(name, layer)
        self.adds = stride == 1 and channels == out

    def forward(self, x: Tensor) -> Tensor:
        y = super().forward(x)
        return x + y if self.adds else y


class EfficientNetLite(Classifier):
    """Stem, seven stages of blocks, a 1x1 convolution, mean over the map, linear head.

    Args:
        width: factor on the channels of stages, which are rounded to multiples of 8.
        depth: factor on the number of blocks of all stages but the first and the last, rounded up.
    """

    head = "classifier"

    def __init__(self, width: float, depth: float, *, classes: int, in_channels: int, dropout: float = 0.2) -> None:
        super().__init__()
        check_dropout(dropout)
        self.conv_stem = _conv(in_channels, _STEM, 3, 2)
        self.bn1 = nn.BatchNorm2d(_STEM, _EPS)
        self.relu1 = nn.ReLU6(inplace=True)
        channels, stages = _STEM, []
        for number, (expansion, plane, blocks, kernel, stride) in enumerate(_STAGES):
            out, made = multiple_of_8(plane * width), list[nn.Module]()
            for index in range(blocks if number in (0, len(_STAGES) - 1) else ceil(blocks * depth)):
                made.append(MobileBlock(channels, out, kernel, stride if index == 0 else 1, expansion))
                channels = out
            stages.append(nn.Sequential(*made))
        self.blocks = nn.Sequential(*stages)
        self.conv_head = _conv(channels, _LAST, 1)
        self.bn2 = nn.BatchNorm2d(_LAST, _EPS)
        self.relu2 = nn.ReLU6(inplace=True)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(_LAST, classes)
        he_init(self)

    def forward_features(self, x: Tensor) -> Tensor:
        """(B, in_channels, H, W) -> (B, 1280)."""
        check_input(x, self.conv_stem.in_channels)
        x = self.blocks(self.relu1(self.bn1(self.conv_stem(x))))  # (B, 320 width, H / 32, W / 32)
        x = self.relu2(self.bn2(self.conv_head(x)))
        return self.dropout(self.avgpool(x).flatten(1))


def _conv(channels: int, out: int, kernel: int, stride: int = 1, groups: int = 1) -> nn.Conv2d:
    """A convolution without bias; at stride 1 both ways of padding are the same."""
    kind = SameConv2d if stride > 1 else nn.Conv2d
    return kind(channels, out, kernel, stride, kernel // 2, groups=groups, bias=False)


_PAPER = "Tan & Le 2019, arXiv:1905.11946; the Lite release, 2020"
_ACCURACY = "ImageNet top-1 {} % (the authors' release, 1 crop)"

# number, width, depth, size, dropout, parameters, MACs, published accuracy
_VARIANTS = [
    (0, 1.0, 1.0, 224, 0.2, 4_652_008, 385_187_552, "75.1"),
    (1, 1.0, 1.1, 240, 0.2, 5_416_680, 600_185_232, "76.7"),
    (2, 1.1, 1.2, 260, 0.3, 6_092_072, 859_736_272, "77.6"),
    (3, 1.2, 1.4, 280, 0.3, 8_197_096, 1_383_321_872, "79.8"),
    (4, 1.4, 1.8, 300, 0.3, 13_006_568, 2_553_034_336, "81.5"),
]

for _number, _width, _depth, _size, _dropout, _params, _macs, _top1 in _VARIANTS:
    _figures = (2019, _PAPER, _params, _macs, (3, _size, _size), 1000, 32, _ACCURACY.format(_top1))
    _facts = Facts(f"efficientnet_lite{_number}", "efficientnet", *_figures)
    register(_facts, width=_width, depth=_depth, dropout=_dropout)(EfficientNetLite)
