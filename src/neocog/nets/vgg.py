"""VGG. Simonyan and Zisserman 2014, arXiv:1409.1556: Very Deep Convolutional Networks for Large-Scale Recognition.

Only 3x3 convolutions, and the number of channels doubles where the map is halved (not in the last stage).
The names with _bn have batch normalisation behind each convolution, which keeps its bias, as in torchvision.
ImageNet validation error of one net, several scales and crops (the paper's table 5): VGG-16 24.4 % (top-1) and 7.2 %
(top-5), VGG-19 24.4 % and 7.1 %. With torchvision's weights and one crop, see the figures below.

Output shapes for 3 x 224 x 224 (B pictures; the number of convolutions for 11, 13, 16 and 19 layers):

    stage 1: 1, 2, 2, 2         B   64  224  224
    maxpool, 2x2/2              B   64  112  112
    stage 2: 1, 2, 2, 2         B  128  112  112
    maxpool                     B  128   56   56
    stage 3: 2, 2, 3, 4         B  256   56   56
    maxpool                     B  256   28   28
    stage 4: 2, 2, 3, 4         B  512   28   28
    maxpool                     B  512   14   14
    stage 5: 2, 2, 3, 4         B  512   14   14
    maxpool                     B  512    7    7
    two linear layers           B 4096
    classifier.6                B 1000
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from ..records import Facts
from .layers import Classifier, check_dropout, check_input, draw_small, he_init
from .registry import IMAGENET, TORCHVISION, register

WIDTHS = (64, 128, 256, 512, 512)
# Convolutions in each stage; the paper's configurations A, B, D and E.
STAGES = {11: (1, 1, 2, 2, 2), 13: (2, 2, 2, 2, 2), 16: (2, 2, 3, 3, 3), 19: (2, 2, 4, 4, 4)}


def make_stages(stages: Sequence[int], in_channels: int, norm: bool = False) -> nn.Sequential:
    """Return the convolutions, each with ReLU (and BN before it if `norm`), and 2x2 maxima: 32 times smaller maps.

    (B, in_channels, H, W) -> (B, 512, H // 32, W // 32).
    """
    layers: list[nn.Module] = []
    channels = in_channels
    for convolutions, width in zip(stages, WIDTHS, strict=True):
        for _ in range(convolutions):
            layers.append(nn.Conv2d(channels, width, 3, padding=1))
            if norm:
                layers.append(nn.BatchNorm2d(width))
            layers.append(nn.ReLU(inplace=True))
            channels = width
        layers.append(nn.MaxPool2d(2, 2))
    return nn.Sequential(*layers)


class VGG(Classifier):
    """Five stages of 3x3 convolutions, then three linear layers. The state dict has torchvision's names.

    The map is averaged (or repeated) to 7 x 7 before the linear layers, so pictures of any size from 32 fit.

    Args:
        dropout: probability of dropping an output of the first two linear layers.
    """

    head = "classifier.6"
    init_head = staticmethod(draw_small)  # section 3.1 of the paper

    def __init__(
        self, stages: Sequence[int], norm: bool, *, classes: int, in_channels: int, dropout: float = 0.5
    ) -> None:
        super().__init__()
        check_dropout(dropout)
        self.in_channels = in_channels
        self.features = make_stages(stages, in_channels, norm)
        self.avgpool = nn.AdaptiveAvgPool2d(7)
        self.classifier = nn.Sequential(
            nn.Linear(WIDTHS[-1] * 7 * 7, 4096),
            nn.ReLU(inplace=True),
            nn.Dropout(dropout),
            nn.Linear(4096, 4096),
            nn.ReLU(inplace=True),
            nn.Dropout(dropout),
            nn.Linear(4096, classes),
        )
        # the paper's N(0, 0.01^2) does not train more than 11 layers from scratch without BN; it says so itself
        he_init(self)
        for layer in self.classifier:
            self.init_head(layer)

    def forward_features(self, x: Tensor) -> Tensor:
        """(B, in_channels, H, W) -> (B, 4096)."""
        check_input(x, self.in_channels)
        x = self.avgpool(self.features(x)).flatten(1)
        for layer in list(self.classifier)[:-1]:
            x = layer(x)
        return x


_PAPER = "Simonyan and Zisserman 2014, arXiv:1409.1556"

# layers, parameters without and with BN, MACs, top-1 and top-5 accuracy of torchvision's weights without and with BN
_VARIANTS = [
    (11, 132_863_336, 132_868_840, 7_609_090_048, ("69.02", "88.63"), ("70.37", "89.81")),
    (13, 133_047_848, 133_053_736, 11_308_466_176, ("69.93", "89.25"), ("71.59", "90.37")),
    (16, 138_357_544, 138_365_992, 15_470_264_320, ("71.59", "90.38"), ("73.36", "91.52")),
    (19, 143_667_240, 143_678_248, 19_632_062_464, ("72.38", "90.88"), ("74.22", "91.84")),
]

for _depth, _plain, _normed, _macs, _without, _with in _VARIANTS:
    for _norm, _params, _top in ((False, _plain, _without), (True, _normed, _with)):
        _name, _accuracy = f"vgg{_depth}_bn" if _norm else f"vgg{_depth}", TORCHVISION.format(*_top)
        _facts = Facts(_name, "vgg", 2014, _PAPER, _params, _macs, smallest=32, accuracy=_accuracy, **IMAGENET)
        register(_facts, stages=STAGES[_depth], norm=_norm)(VGG)
