"""SqueezeNet. Iandola et al. 2016: AlexNet-level accuracy with 50x fewer parameters, arXiv:1602.07360.

A Fire module squeezes its input to few channels by 1x1 convolutions, and expands them by 1x1 and 3x3 convolutions side
by side. The paper's ImageNet accuracy is 57.5 % (top-1) and 80.3 % (top-5); torchvision's weights: see below. Version
1.1 (the authors' release) has a smaller stem and pools earlier: 2.3 times fewer MACs, the same accuracy.

Output shapes of version 1.0 for 3 x 224 x 224, and in brackets of version 1.1:

    conv1, 7x7/2 [3x3/2]        B   96  109  109    [ 64  111  111]
    maxpool, 3x3/2              B   96   54   54    [ 64   55   55]
    fire2, fire3                B  128   54   54    [128   55   55]
    [maxpool, 3x3/2]                                [128   27   27]
    fire4                       B  256   54   54    [256   27   27]
    maxpool, 3x3/2              B  256   27   27    [none]
    fire5                       B  256   27   27    [256   27   27]
    [maxpool, 3x3/2]                                [256   13   13]
    fire6, fire7                B  384   27   27    [384   13   13]
    fire8                       B  512   27   27    [512   13   13]
    maxpool, 3x3/2              B  512   13   13    [none]
    fire9                       B  512   13   13
    conv10, 1x1, ReLU           B 1000   13   13
    mean over the map           B 1000

All poolings count a last window that does not fit (Caffe's rule), so the sizes are right for 227 x 227, too.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ..errors import NetError
from ..records import Facts
from .layers import check_dropout, check_input, draw_small, he_init
from .registry import IMAGENET, TORCHVISION, register


class Fire(nn.Module):
    """1x1 to `squeeze` channels, then 1x1 and 3x3 side by side: (B, C, H, W) -> (B, 2 expand, H, W)."""

    def __init__(self, channels: int, squeeze: int, expand: int) -> None:
        super().__init__()
        self.squeeze = nn.Conv2d(channels, squeeze, 1)
        self.squeeze_activation = nn.ReLU(inplace=True)
        self.expand1x1 = nn.Conv2d(squeeze, expand, 1)
        self.expand1x1_activation = nn.ReLU(inplace=True)
        self.expand3x3 = nn.Conv2d(squeeze, expand, 3, padding=1)
        self.expand3x3_activation = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        x = self.squeeze_activation(self.squeeze(x))
        return torch.cat(
            [self.expand1x1_activation(self.expand1x1(x)), self.expand3x3_activation(self.expand3x3(x))], 1
        )


class SqueezeNet(nn.Module):
    """A convolution, eight Fire modules with poolings between them, a 1x1 convolution to the classes, their mean.

    The state dict has torchvision's names.

    Args:
        stem: channels and side of the filters of the first convolution, which has stride 2.
        pools: the numbers of the Fire modules (2 to 9) that have a pooling before them.
        head_padding: padding of the last convolution. The Caffe release of version 1.0 has 1: a border of values that
            are the bias alone, and a 15 x 15 map. torchvision, and the release of version 1.1, have 0.
    """

    head = "classifier.1"
    init_head = staticmethod(draw_small)  # as in the authors' release

    def __init__(
        self,
        stem: tuple[int, int],
        pools: Sequence[int],
        *,
        classes: int,
        in_channels: int,
        dropout: float = 0.5,
        head_padding: int = 0,
    ) -> None:
        super().__init__()
        check_dropout(dropout)
        if head_padding not in (0, 1):
            raise NetError(f"head_padding must be 0 or 1, got {head_padding!r}")
        self.in_channels = in_channels
        channels, kernel = stem
        layers: list[nn.Module] = [nn.Conv2d(in_channels, channels, kernel, 2), nn.ReLU(inplace=True)]
        for number in range(2, 10):
            if number in pools:
                layers.append(nn.MaxPool2d(3, 2, ceil_mode=True))
            squeeze = 16 * (number // 2)  # 16, 16, 32, 32, 48, 48, 64, 64
            layers.append(Fire(channels, squeeze, 4 * squeeze))
            channels = 8 * squeeze
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Sequential(
            nn.Dropout(dropout),
            nn.Conv2d(channels, classes, 1, padding=head_padding),
            nn.ReLU(inplace=True),
            nn.AdaptiveAvgPool2d(1),
        )
        he_init(self)
        self.init_head(self.classifier[1])

    def forward_features(self, x: Tensor) -> Tensor:
        """(B, in_channels, H, W) -> (B, 512, H', W'), what the last convolution reads; H' is 13 for 224."""
        check_input(x, self.in_channels)
        return self.classifier[0](self.features(x))

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, H, W) -> logits (B, classes)."""
        x = self.forward_features(x)
        for layer in list(self.classifier)[1:]:
            x = layer(x)
        return x.flatten(1)


_PAPER = "Iandola et al. 2016, arXiv:1602.07360"

# name, stem, Fire modules behind a pooling, parameters, MACs, smallest input, torchvision's top-1 and top-5 accuracy
_VARIANTS = [
    ("squeezenet1_0", (96, 7), (2, 5, 9), 1_248_424, 818_924_576, 21, ("58.09", "80.42")),
    ("squeezenet1_1", (64, 3), (2, 4, 6), 1_235_496, 349_151_936, 17, ("58.18", "80.62")),
]

for _name, _stem, _pools, _params, _macs, _least, _top in _VARIANTS:
    _accuracy = TORCHVISION.format(*_top)
    _facts = Facts(_name, "squeezenet", 2016, _PAPER, _params, _macs, **IMAGENET, smallest=_least, accuracy=_accuracy)
    register(_facts, stem=_stem, pools=_pools)(SqueezeNet)
