"""U-Net: Convolutional Networks for Biomedical Image Segmentation. Ronneberger, Fischer, Brox 2015, arXiv:1505.04597.

`unet_original` is the net as published: no padding, so every 3x3 convolution takes a pixel from each side, and an
output of 388 x 388 needs a picture of 572 x 572 (92 pixels of context on each side). `unet` is today's usual form:
padded, with BN, its output as large as the picture; `unet_small` has a quarter of its channels. `unet_keras` is a form
that many Keras programs have: padded, enlarged by repetition and a 2x2 convolution, and two maps before the last.

Output shapes for 1 x 572 x 572 (unet_original), and the sides of unet for 3 x 512 x 512:

    down 0           B   64  568  568    [512]      up 3, joined with down 3   B  512   52   52    [64]
    down 1           B  128  280  280    [256]      up 2, joined with down 2   B  256  100  100   [128]
    down 2           B  256  136  136    [128]      up 1, joined with down 1   B  128  196  196   [256]
    down 3           B  512   64   64     [64]      up 0, joined with down 0   B   64  388  388   [512]
    bottom           B 1024   28   28     [32]      score, 1x1                 B    2  388  388   [512]
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import NetError
from ..records import Facts
from .fcn import scaled
from .layers import Classifier, check_dropout, check_input
from .registry import register

_WIDTHS = (64, 128, 256, 512, 1024)


def _pair(channels: int, width: int, padding: int, norm: bool) -> nn.Sequential:
    """Return two 3x3 convolutions, each with its ReLU; with BN they have no bias."""
    layers: list[nn.Module] = []
    for before in (channels, width):
        layers.append(nn.Conv2d(before, width, 3, padding=padding, bias=not norm))
        if norm:
            layers.append(nn.BatchNorm2d(width))
        layers.append(nn.ReLU(inplace=True))
    return nn.Sequential(*layers)


def _enlarge(form: str, channels: int) -> nn.Module:
    """Return a layer (B, C, H, W) -> (B, C / 2, 2H, 2W), an "up-convolution"."""
    if form == "transposed":
        return nn.ConvTranspose2d(channels, channels // 2, 2, 2)
    if form == "transposed, relu":
        return nn.Sequential(nn.ConvTranspose2d(channels, channels // 2, 2, 2), nn.ReLU(inplace=True))
    # the padding is what Keras calls "same" for an even filter
    larger, padded = nn.Upsample(scale_factor=2), nn.ZeroPad2d((0, 1, 0, 1))
    return nn.Sequential(larger, padded, nn.Conv2d(channels, channels // 2, 2), nn.ReLU(inplace=True))


class _Up(nn.Module):
    """Enlarge, join with the map of the same level on the way down, two convolutions."""

    def __init__(self, form: str, channels: int, padding: int, norm: bool) -> None:
        super().__init__()
        self.up = _enlarge(form, channels)
        self.convs = _pair(channels, channels // 2, padding, norm)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        """(B, C, h, w) and (B, C / 2, H, W) -> (B, C / 2, ...)."""
        x = self.up(x)
        rows, columns = skip.shape[2] - x.shape[2], skip.shape[3] - x.shape[3]
        if self.convs[0].padding == (0, 0):  # type: ignore[comparison-overlap]
            top, left = rows // 2, columns // 2
            skip = skip[:, :, top : top + x.shape[2], left : left + x.shape[3]]
        elif rows or columns:  # pooling dropped an odd last row or column
            x = F.pad(x, (0, columns, 0, rows))
        return self.convs(torch.cat([skip, x], 1))


class UNet(Classifier):
    """Four times two convolutions and pooling, two at the bottom, and four times back up, joined with the way down.

    Args:
        padding: 1 keeps the size of the map, 0 is the paper's.
        up: "transposed", "transposed, relu" or "resize": how a map is enlarged.
        between: maps of a further 3x3 convolution before the last layer, or 0 for none.
        dropout: probability of dropping a value at the end of the way down, in the last two levels.
        width: factor for the number of channels.
    """

    head = "score"
    any_size = True  # built for one size, it takes others

    def __init__(
        self,
        padding: int,
        norm: bool,
        up: str,
        between: int = 0,
        *,
        classes: int,
        in_channels: int,
        input_size: int,
        dropout: float = 0.0,
        width: float = 1.0,
    ) -> None:
        super().__init__()
        check_dropout(dropout)
        self.in_channels, self.padding = in_channels, padding
        # pixels that the output lacks on each side, see `tiling.over_picture`
        self.margin = 0 if padding else 92 + bool(between)
        self._check_tiling(input_size, input_size)
        # 2^level times the narrowest, so that every level has twice the channels of the one before
        widths = [scaled(_WIDTHS[0], width) * (wide // _WIDTHS[0]) for wide in _WIDTHS]
        self.down = nn.ModuleList(
            _pair(before, wide, padding, norm)
            for before, wide in zip([in_channels, *widths[:-2]], widths[:-1], strict=True)
        )
        self.pool = nn.MaxPool2d(2)
        self.bottom = _pair(widths[-2], widths[-1], padding, norm)
        self.dropout = nn.Dropout(dropout)
        self.up = nn.ModuleList(_Up(up, wide, padding, norm) for wide in reversed(widths[1:]))
        last: list[nn.Module] = []
        if between:
            last = [nn.Conv2d(widths[0], between, 3, padding=padding), nn.ReLU(inplace=True)]
        self.between = nn.Sequential(*last)
        self.score = nn.Conv2d(between or widths[0], classes, 1)
        for layer in self.modules():
            self.init_head(layer)

    @staticmethod
    def init_head(layer: nn.Module) -> None:
        """Draw weights from N(0, 2 / N), N = inputs of one output value (section 3 of the paper); biases are 0."""
        if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d) and not layer.weight.is_meta:
            # in a transposed convolution with stride 2 and 2x2 filters, each output has one value of each input map
            inputs = layer.in_channels if isinstance(layer, nn.ConvTranspose2d) else layer.weight[0].numel()
            nn.init.normal_(layer.weight, std=(2 / inputs) ** 0.5)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)

    @staticmethod
    def context(padding: int, **_: object) -> bool:
        """Whether pictures get a margin of their mirror image, so that they may be smaller than the net's input."""
        return padding == 0

    def fitting(self, side: int) -> int:
        """The side of the smallest input of at least `side` pixels."""
        return side if self.padding else max(188, 60 + 16 * -(-(side - 60) // 16))

    def _check_tiling(self, height: int, width: int) -> None:
        """Raise NetError unless every pooling of an unpadded net gets a map with even sides."""
        for side in (height, width):
            if not self.padding and ((side - 60) % 16 or side < 188):
                near = max(188, 16 * round((side - 60) / 16) + 60)
                raise NetError(
                    f"this net has no padding and takes pictures with sides of 188, 204, 220, ... pixels (16 n + 60), "
                    f"got {height}x{width}; cut or mirror them to {near}, or choose unet, which takes any size"
                )

    def forward_features(self, x: Tensor) -> Tensor:
        """(B, in_channels, H, W) -> (B, 64, H', W'): what the last convolution reads; H' = H - 184 without padding."""
        check_input(x, self.in_channels, 16)
        self._check_tiling(x.shape[2], x.shape[3])
        skips = []
        for level, convs in enumerate(self.down, start=1):
            x = convs(x)
            if level == len(self.down):
                x = self.dropout(x)
            skips.append(x)
            x = self.pool(x)
        x = self.dropout(self.bottom(x))
        for up in self.up:
            x = up(x, skips.pop())
        return self.between(x)


_PAPER = "Ronneberger et al. 2015, arXiv:1505.04597"
_CELLS = "ISBI cell tracking 2015, PhC-U373, IU 92 %"

# name, settings, parameters, MACs, usual input, classes, smallest input, published accuracy
_VARIANTS: list[tuple[Any, ...]] = [
    ("unet_original", {"padding": 0, "norm": False, "up": "transposed, relu", "dropout": 0.5}, 31_030_658,
     150_428_424_448, (1, 572, 572), 2, 188, _CELLS),
    ("unet", {"padding": 1, "norm": True, "up": "transposed"}, 31_037_698, 192_686_325_760, (3, 512, 512), 2, 16, ""),
    ("unet_small", {"padding": 1, "norm": True, "up": "transposed", "width": 0.25}, 1_942_594, 189_595_648,
     (3, 64, 64), 2, 16, ""),
    ("unet_keras", {"padding": 1, "norm": False, "up": "resize", "between": 2, "dropout": 0.5}, 31_031_685,
     54_605_774_848, (1, 256, 256), 1, 16, ""),
]  # fmt: skip

for _name, _settings, _params, _macs, _input, _classes, _least, _accuracy in _VARIANTS:
    _facts = Facts(_name, "unet", 2015, _PAPER, _params, _macs, _input, _classes, _least, _accuracy, "segment")
    register(_facts, **_settings)(UNet)
