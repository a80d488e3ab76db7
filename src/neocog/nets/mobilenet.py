"""MobileNet v1: Howard et al. 2017, arXiv:1704.04861. MobileNet v2: Sandler et al. 2018, arXiv:1801.04381.

Also the paper's "Conv MobileNet", whose 3x3 convolutions are full ones (v1, table 4). Parameter names are timm's for
v1 and torchvision's for v2. `padding` is "pytorch" (one zero on every side) or "tensorflow" ("SAME": a convolution
with stride 2 reads from the first pixel and pads at the right and at the bottom, as the nets of the paper do).

ILSVRC-2012 validation, one centre crop of 224, by the paper: v1 1.0 70.6 %, 0.75 68.4 %, 0.5 63.7 %, 0.25 50.6 %.

Output shapes for 3 x 224 x 224:

    v1 conv_stem, 3x3/2     B   32  112  112    v2 features.0, 3x3/2      B   32  112  112
       blocks.0, 1 block    B   64  112  112       features.1             B   16  112  112
       blocks.1, 2 blocks   B  128   56   56       features.2-3           B   24   56   56
       blocks.2, 2 blocks   B  256   28   28       features.4-6           B   32   28   28
       blocks.3, 6 blocks   B  512   14   14       features.7-10          B   64   14   14
       blocks.4, 2 blocks   B 1024    7    7       features.11-13         B   96   14   14
                                                   features.14-16         B  160    7    7
                                                   features.17            B  320    7    7
                                                   features.18, 1x1       B 1280    7    7
       mean                 B 1024                 mean                   B 1280
       classifier           B 1000                 classifier             B 1000
"""

from __future__ import annotations

from torch import Tensor, nn

from ..errors import NetError
from ..records import Facts
from .gates import SameConv2d, with_weights
from .layers import Classifier, check_choice, check_dropout, check_input, conv_bn, he_init, multiple_of_8
from .registry import IMAGENET, register

# MobileNet v1: (channels, blocks) of each stage; every stage but the first halves the map in its first block.
_V1 = ((64, 1), (128, 2), (256, 2), (512, 6), (1024, 2))


class DepthwiseSeparable(nn.Sequential):
    """3x3 convolution of each map by itself, then 1x1: (B, C, H, W) -> (B, out, H / stride, W / stride).

    (9 C + C out) H W MACs, where a full convolution takes 9 C out H W.
    """

    def __init__(self, channels: int, out: int, stride: int) -> None:
        super().__init__()
        self.conv_dw, self.bn1, self.relu1 = conv_bn(channels, channels, 3, stride, channels, nn.ReLU6)
        self.conv_pw, self.bn2, self.relu2 = conv_bn(channels, out, 1, relu=nn.ReLU6)


class FullConvolution(nn.Sequential):
    """The same with one full 3x3 convolution."""

    def __init__(self, channels: int, out: int, stride: int) -> None:
        super().__init__()
        self.conv, self.bn, self.relu = conv_bn(channels, out, 3, stride, relu=nn.ReLU6)


class MobileNetV1(Classifier):
    """Stem, 13 blocks without shortcuts, mean over the map, linear head.

    Args:
        width: factor on the channels of all layers.
        convolution: "separable" or "full".
        padding: "pytorch" or "tensorflow".
        bn_eps: added to the variance in batch normalisation; default 1e-5, with TensorFlow's padding its 1e-3.
    """

    head = "classifier"

    def __init__(
        self,
        width: float,
        convolution: str,
        *,
        classes: int,
        in_channels: int,
        padding: str = "pytorch",
        bn_eps: float | None = None,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        check_dropout(dropout)
        block = DepthwiseSeparable if convolution == "separable" else FullConvolution
        channels = int(32 * width)
        self.conv_stem = nn.Conv2d(in_channels, channels, 3, 2, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU6(inplace=True)
        stages = []
        for number, (out, blocks) in enumerate(_V1):
            made = []
            for index in range(blocks):
                made.append(block(channels, int(out * width), 2 if number > 0 and index == 0 else 1))
                channels = int(out * width)
            stages.append(nn.Sequential(*made))
        self.blocks = nn.Sequential(*stages)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(channels, classes)
        he_init(self)
        self.set_padding(padding, bn_eps)

    def set_padding(self, padding: str, bn_eps: float | None = None) -> None:
        """Change the options `padding` and `bn_eps` of a built net; weights keep their values and names."""
        check_choice("padding", padding, ("pytorch", "tensorflow"))
        if bn_eps is None:
            bn_eps = 1e-3 if padding == "tensorflow" else 1e-5
        if isinstance(bn_eps, bool) or not isinstance(bn_eps, int | float) or not bn_eps > 0:
            raise NetError(f"bn_eps must be a number above 0, got {bn_eps!r}")
        for name, layer in list(self.named_modules()):
            if isinstance(layer, nn.BatchNorm2d):
                layer.eps = float(bn_eps)
            elif isinstance(layer, nn.Conv2d) and layer.stride == (2, 2):  # at stride 1 both pad the same
                self.set_submodule(name, with_weights(SameConv2d if padding == "tensorflow" else nn.Conv2d, layer))

    def forward_features(self, x: Tensor) -> Tensor:
        """(B, in_channels, H, W) -> (B, 1024 width)."""
        check_input(x, self.conv_stem.in_channels)
        x = self.blocks(self.relu(self.bn1(self.conv_stem(x))))  # (B, 1024 width, H / 32, W / 32)
        return self.dropout(self.avgpool(x).flatten(1))


# MobileNet v2: (expansion, channels, blocks, stride of the first) of each stage; table 2 of the paper.
_V2 = (
    (1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1),
)  # fmt: skip


class InvertedResidual(nn.Module):
    """1x1 to `expansion` times the channels, 3x3 of each map, 1x1 without activation; x is added where it fits.

    (B, C, H, W) -> (B, out, H / stride, W / stride).
    """

    def __init__(self, channels: int, out: int, stride: int, expansion: int) -> None:
        super().__init__()
        inner = channels * expansion
        layers = [] if expansion == 1 else [_block(channels, inner, 1)]
        self.conv = nn.Sequential(
            *layers,
            _block(inner, inner, 3, stride, groups=inner),
            *conv_bn(inner, out, 1),
        )
        self.adds = stride == 1 and channels == out

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv(x) if self.adds else self.conv(x)


class MobileNetV2(Classifier):
    """Stem, 17 inverted residual blocks, a 1x1 convolution, mean over the map, linear head.

    Args:
        width: factor on the channels, which are rounded to multiples of 8; the last convolution is never narrower
            than 1280.
    """

    head = "classifier.1"

    def __init__(self, width: float, *, classes: int, in_channels: int, dropout: float = 0.2) -> None:
        super().__init__()
        check_dropout(dropout)
        self.in_channels = in_channels
        channels = multiple_of_8(32 * width)
        layers: list[nn.Module] = [_block(in_channels, channels, 3, 2)]
        for expansion, plane, blocks, stride in _V2:
            for index in range(blocks):
                out = multiple_of_8(plane * width)
                layers.append(InvertedResidual(channels, out, stride if index == 0 else 1, expansion))
                channels = out
        last = multiple_of_8(1280 * max(1.0, width))
        self.features = nn.Sequential(*layers, _block(channels, last, 1))
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Sequential(nn.Dropout(dropout), nn.Linear(last, classes))
        he_init(self)

    def forward_features(self, x: Tensor) -> Tensor:
        """(B, in_channels, H, W) -> (B, 1280), wider if width > 1."""
        check_input(x, self.in_channels)
        x = self.features(x)  # (B, 1280, H / 32, W / 32)
        return self.classifier[0](self.avgpool(x).flatten(1))


def _block(channels: int, out: int, kernel: int, stride: int = 1, groups: int = 1) -> nn.Sequential:
    return nn.Sequential(*conv_bn(channels, out, kernel, stride, groups, nn.ReLU6))


_PAPER_V1 = "Howard et al. 2017, arXiv:1704.04861"
_PAPER_V2 = "Sandler et al. 2018, arXiv:1801.04381"
_HOWARD = "ImageNet top-1 {} % (paper, 1 crop)"
_SLIM = "ImageNet top-1 {} %, top-5 {} % (TensorFlow-Slim release, 1 crop)"

# name, width, convolution, parameters, MACs, published accuracy
_VARIANTS_V1 = [
    ("mobilenet_v1", 1.0, "separable", 4_231_976, 568_740_352, _SLIM.format("70.9", "89.9")),
    ("mobilenet_v1_075", 0.75, "separable", 2_585_560, 325_400_448, _SLIM.format("68.4", "88.2")),
    ("mobilenet_v1_050", 0.5, "separable", 1_331_592, 149_497_088, _SLIM.format("63.3", "84.9")),
    ("mobilenet_v1_025", 0.25, "separable", 470_072, 41_030_272, _SLIM.format("49.8", "74.2")),
    ("conv_mobilenet", 1.0, "full", 29_294_088, 4_867_293_184, _HOWARD.format("71.7")),
]

for _name, _width, _convolution, _params, _macs, _accuracy in _VARIANTS_V1:
    _facts = Facts(_name, "mobilenet", 2017, _PAPER_V1, _params, _macs, **IMAGENET, smallest=32, accuracy=_accuracy)
    register(_facts, width=_width, convolution=_convolution)(MobileNetV1)

# name, width, parameters, MACs, published accuracy
_VARIANTS_V2 = [
    ("mobilenet_v2", 1.0, 3_504_872, 300_774_272,
     "ImageNet top-1 71.88 %, top-5 90.29 % (torchvision weights, 1 crop)"),
    ("mobilenet_v2_140", 1.4, 6_108_776, 582_195_824, _SLIM.format("75.0", "92.5")),
    ("mobilenet_v2_075", 0.75, 2_636_424, 209_069_792, _SLIM.format("69.8", "89.6")),
    ("mobilenet_v2_050", 0.5, 1_968_680, 97_131_840, _SLIM.format("65.4", "86.4")),
    ("mobilenet_v2_035", 0.35, 1_677_128, 59_285_808, _SLIM.format("60.3", "82.9")),
]  # fmt: skip

for _name, _width, _params, _macs, _accuracy in _VARIANTS_V2:
    _facts = Facts(_name, "mobilenet", 2018, _PAPER_V2, _params, _macs, **IMAGENET, smallest=32, accuracy=_accuracy)
    register(_facts, width=_width)(MobileNetV2)
