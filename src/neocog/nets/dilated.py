"""Multi-Scale Context Aggregation by Dilated Convolutions. Yu and Koltun 2016, arXiv:1511.07122.

`dilated_frontend` is VGG-16 without pool4 and pool5: the convolutions behind a removed pooling are dilated by 2, behind
both by 4, so that the weights of a classifier still fit and the map is 8 times, not 32 times, smaller than the picture.
`dilated_context` and `dilated_context_large` put the context module behind it: seven 3x3 convolutions with growing
dilation, which see 67 x 67 values of the map without losing any, and start as the identity.

Output shapes for 3 x 528 x 528 and 21 classes. Nothing is padded but the picture, with 186 pixels of its mirror image:

    mirrored picture           B    3  900  900      context            dilation  receptive field  channels (large)
    conv1_1, 1_2, pool1        B   64  448  448      layer1                1          3 x  3          21 (42)
    conv2_1, 2_2, pool2        B  128  222  222      layer2                1          5 x  5          21 (42)
    conv3_1 to 3_3, pool3      B  256  108  108      layer3                2          9 x  9          21 (84)
    conv4_1 to 4_3             B  512  102  102      layer4                4         17 x 17          21 (168)
    conv5_1 to 5_3, dilation 2 B  512   90   90      layer5                8         33 x 33          21 (336)
    fc6, 7x7, dilation 4       B 4096   66   66      layer6               16         65 x 65          21 (672)
    fc7, final, 1x1            B   21   66   66      layer7                1         67 x 67          21 (672)
    upscore, 16x16/8, frozen   B   21  528  528      layer8, 1x1           1         67 x 67          21
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..records import Facts
from .fcn import BilinearUpsampling, fc_layers, scaled, vgg16_layers
from .layers import check_choice, check_input, he_init, named
from .registry import register

# What the unpadded convolutions of the front end take from each side.
MARGIN = 186
DILATIONS = (1, 1, 2, 4, 8, 16, 1)
# Channels of each layer of the context module, in multiples of the classes (the paper's table 1).
_MULTIPLES = {"basic": (1, 1, 1, 1, 1, 1, 1, 1), "large": (2, 2, 4, 8, 16, 32, 32, 1)}


def mirror(x: Tensor, left: int, right: int, top: int, bottom: int) -> Tensor:
    """(B, C, H, W) -> (B, C, top + H + bottom, left + W + right): continue pictures with their mirror images.

    The pixels at the edge are not repeated. Margins wider than the picture are mirrored again and again.
    """
    margins = [left, right, top, bottom]
    periods = [side - 1 for side in (x.shape[3], x.shape[3], x.shape[2], x.shape[2])]
    while any(margins):
        height, width = x.shape[2:]
        # whole periods, because what is there is symmetric about those places only
        steps = [
            min(margin, (side - 1) // period * period)
            for margin, side, period in zip(margins, (width, width, height, height), periods, strict=True)
        ]
        x = F.pad(x, steps, mode="reflect")
        margins = [margin - step for margin, step in zip(margins, steps, strict=True)]
    return x


class ContextModule(nn.Sequential):
    """Seven 3x3 convolutions with dilations 1, 1, 2, 4, 8, 16, 1 and a 1x1 one: (B, C, H, W) -> (B, C, H, W).

    It keeps the resolution and sees 67 x 67 values. The map is padded once, with 33 zeros on each side. It starts as
    the identity for values from 0 up (section 3 of the paper; the ReLU behind each layer cuts off the others).

    Args:
        size: "basic" (C channels everywhere, 64 C^2 weights) or "large" (up to 32 C channels).
        noise: standard deviation of what is added to the identity, as a share of its weights; breaks the symmetry
            between channels that begin as copies.
    """

    def __init__(self, classes: int, size: str = "basic", noise: float = 0.01) -> None:
        super().__init__()
        check_choice("size", size, tuple(_MULTIPLES))
        self.classes, self.size, self.noise = classes, size, noise
        self.add_module("pad", nn.ZeroPad2d(sum(DILATIONS)))
        channels = classes
        for number, multiple in enumerate(_MULTIPLES[size], start=1):
            out = classes * multiple
            last = number > len(DILATIONS)
            layer = nn.Conv2d(channels, out, 1) if last else nn.Conv2d(channels, out, 3, dilation=DILATIONS[number - 1])
            self._start_as_identity(layer)
            self.add_module(f"layer{number}", layer)
            if not last:
                self.add_module(f"relu{number}", nn.ReLU(inplace=True))
            channels = out

    def _start_as_identity(self, layer: nn.Conv2d) -> None:
        """Let each output be the mean of its share of the inputs, times inputs / outputs (the paper's equation 5)."""
        if layer.weight.is_meta:
            return
        inputs, outputs, middle = layer.in_channels, layer.out_channels, layer.kernel_size[0] // 2
        weight = self.classes / outputs
        if self.size == "large":
            nn.init.normal_(layer.weight, std=self.noise * weight)
        else:
            nn.init.zeros_(layer.weight)
        nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
        class_in = torch.arange(inputs) * self.classes // inputs
        class_out = torch.arange(outputs) * self.classes // outputs
        same = (class_out[:, None] == class_in[None, :]).to(layer.weight)
        with torch.no_grad():
            centre = layer.weight[:, :, middle, middle]
            centre.copy_(centre * (1 - same) + weight * same)

    def with_classes(self, classes: int) -> ContextModule:
        weight = next(self.parameters())
        with torch.device(weight.device):
            return ContextModule(classes, self.size, self.noise).to(weight.dtype)


class DilatedFrontEnd(nn.Module):
    """VGG-16 with dilation in place of the last two poolings, scores, and frozen bilinear enlargement by 8.

    Args:
        dropout: probability of dropping an output of fc6 and of fc7.
        width: factor for the number of channels of the trunk.
    """

    head = "final"
    aux_heads: tuple[str, ...] = ("upscore",)

    def __init__(self, *, classes: int, in_channels: int, dropout: float = 0.5, width: float = 1.0) -> None:
        super().__init__()
        self.in_channels = in_channels
        layers, channels = vgg16_layers(in_channels, width, padding=0, pools=3)
        self.trunk = named(layers | fc_layers(channels, scaled(4096, width), 7, dropout, dilation=4))
        self.final = nn.Conv2d(scaled(4096, width), classes, 1)
        self.context: nn.Module = nn.Identity()
        self.upscore = BilinearUpsampling(classes, 16, 8, 4, groups=classes)
        he_init(self)
        self.init_head(self.final)

    @staticmethod
    def init_head(layer: nn.Module) -> None:
        """Initialise the layer that scores classes; the other heads have their own ways."""
        if type(layer) is nn.Conv2d:
            nn.init.kaiming_normal_(layer.weight, mode="fan_in", nonlinearity="linear")
            nn.init.zeros_(layer.bias)  # type: ignore[arg-type]

    def forward_features(self, x: Tensor) -> Tensor:
        """(B, in_channels, H, W) -> (B, 4096, H / 8, W / 8): what `final` reads. H and W are rounded up to 8."""
        check_input(x, self.in_channels, 2)
        # below and on the right the margin goes on to the next multiple of 8
        x = mirror(x, MARGIN, MARGIN + -x.shape[3] % 8, MARGIN, MARGIN + -x.shape[2] % 8)
        return self.trunk(x)

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, H, W) -> logits (B, classes, H, W)."""
        scores = self.context(self.final(self.forward_features(x)))  # (B, classes, H / 8, W / 8)
        return self.upscore(scores)[:, :, : x.shape[2], : x.shape[3]]


class DilatedContext(DilatedFrontEnd):
    """Front end and context module.

    Args:
        context: "basic" or "large", see ContextModule.
    """

    head = "context"
    aux_heads = ("final", "upscore")

    def __init__(
        self, context: str, *, classes: int, in_channels: int, dropout: float = 0.5, width: float = 1.0
    ) -> None:
        super().__init__(classes=classes, in_channels=in_channels, dropout=dropout, width=width)
        self.context = ContextModule(classes, context)


_PAPER = "Yu and Koltun 2016, arXiv:1511.07122"
_VOC = "PASCAL VOC 2012 validation mean IU {} % (paper)"

# 2: a single pixel has no mirror image
for _name, _builder, _settings, _params, _macs, _accuracy in (
    ("dilated_frontend", DilatedFrontEnd, {}, 134_346_581, 791_585_074_944, "69.8"),
    ("dilated_context", DilatedContext, {"context": "basic"}, 134_374_973, 791_908_865_964, "71.3"),
    ("dilated_context_large", DilatedContext, {"context": "large"}, 141_149_720, 826_418_828_808, "72.1"),
):
    register(
        Facts(_name, "dilated", 2016, _PAPER, _params, _macs, (3, 528, 528), 21, 2, _VOC.format(_accuracy), "segment"),
        **_settings,
    )(_builder)
