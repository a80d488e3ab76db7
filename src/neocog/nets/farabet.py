"""Learning Hierarchical Features for Scene Labeling. Farabet, Couprie, Najman, LeCun 2013 (PAMI 35:1915).

One convolutional net is applied to three scales of a Laplacian pyramid, with the same weights; its maps are enlarged to
the finest one's size, and every pixel is classified by the 768 features at its place. A filter at the coarsest scale
sees 4 times as far: 46 x 46 pixels become 184 x 184.

Stanford Background, 8 classes, this net without superpixels: pixel accuracy 78.8 %, mean class accuracy 72.4 %
(recalled from the paper's table 1; not reproduced here). The paper's Y, U and V channels are made of RGB in the net,
and each is normalised over 15 x 15 pixels. As published are the 16, 64 and 256 maps, the 7 x 7 filters, the number of
maps that each filter reads (8 of 16, 32 of 64, at random) and the 10 + 6 first filters on Y and on U, V (all recalled).
Chosen here: the random connections, a padding that keeps the size of maps, a coarsest scale with its mean brightness
before normalisation, and a linear classifier in place of the paper's later stages.

Output shapes for 3 x 240 x 320, at the three scales:

    pyramid, normalised      B   3  240  320      B   3  120  160      B   3   60   80
    conv1, 7x7, tanh, pool   B  16  120  160      B  16   60   80      B  16   30   40
    conv2, 7x7, tanh, pool   B  64   60   80      B  64   30   40      B  64   15   20
    conv3, 7x7               B 256   60   80      B 256   30   40      B 256   15   20
    enlarged and joined      B 768   60   80
    classifier, 1x1          B   8   60   80
    bilinear                 B   8  240  320
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..records import Facts
from .layers import PartialConv2d, check_input
from .registry import register

SCALES = 3
_WINDOW = 15  # of the local normalisation
# Y, U and V of R, G and B
_YUV = ((0.299, 0.587, 0.114), (-0.14713, -0.28886, 0.436), (0.615, -0.51499, -0.10001))


def table(outputs: int, inputs: int, fan: int, seed: int) -> list[list[int]]:
    """For each output map the `fan` input maps that it reads, drawn at random, the same in every process."""
    g = torch.Generator("cpu").manual_seed(seed)
    return [sorted(torch.randperm(inputs, generator=g, device="cpu")[:fan].tolist()) for _ in range(outputs)]


def laplacian(x: Tensor, scales: int = SCALES) -> list[Tensor]:
    """Pictures (B, C, H, W) as bands: what each scale has that the next, half as large, lacks; then what is left."""
    bands = []
    for _ in range(scales - 1):
        small = F.avg_pool2d(x, 2, ceil_mode=True)
        bands.append(x - F.interpolate(small, x.shape[2:], mode="bilinear", align_corners=False))
        x = small
    return [*bands, x]


def local_norm(x: Tensor, window: int = _WINDOW) -> Tensor:
    """(B, C, H, W) with mean 0 and deviation 1 in the neighbourhood of each pixel of each channel."""
    pad = window // 2

    def mean(values: Tensor) -> Tensor:
        return F.avg_pool2d(values, window, 1, pad, count_include_pad=False)

    x = x - mean(x)
    return x / mean(x * x).add(1e-4).sqrt()


class Farabet(nn.Module):
    """A convolutional net at three scales, and a linear classifier of each pixel's features.

    Args:
        classes, in_channels: outputs, and channels of the pictures: RGB is turned into YUV, others stay as they are.
    """

    head = "classifier"

    def __init__(self, *, classes: int, in_channels: int) -> None:
        super().__init__()
        self.in_channels = in_channels
        every = list(range(in_channels))
        first = [[0]] * 10 + [[1, 2]] * 6 if in_channels == 3 else [every] * 16
        self.stage1 = self._stage(PartialConv2d(in_channels, first, 7))
        self.stage2 = self._stage(PartialConv2d(16, table(64, 16, 8, 2), 7))
        self.stage3 = nn.Sequential(nn.ZeroPad2d(3), PartialConv2d(64, table(256, 64, 32, 3), 7))
        self.classifier = nn.Conv2d(256 * SCALES, classes, 1)

    @staticmethod
    def _stage(convolution: nn.Module) -> nn.Sequential:
        return nn.Sequential(nn.ZeroPad2d(3), convolution, nn.Tanh(), nn.MaxPool2d(2, ceil_mode=True))

    def forward_features(self, x: Tensor) -> Tensor:
        """(B, in_channels, H, W) -> (B, 768, H/4, W/4): what the classifier reads."""
        check_input(x, self.in_channels)
        x = x.to(torch.promote_types(x.dtype, torch.float32))  # bands and deviations are small differences
        if self.in_channels == 3:
            x = (x[:, None] * x.new_tensor(_YUV)[:, :, None, None]).sum(2)
        maps = [self.stage3(self.stage2(self.stage1(local_norm(band)))) for band in laplacian(x)]
        size = maps[0].shape[2:]
        return torch.cat([F.interpolate(m, size, mode="bilinear", align_corners=False) for m in maps], 1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, H, W) -> logits (B, classes, H, W)."""
        return F.interpolate(
            self.classifier(self.forward_features(x)), x.shape[2:], mode="bilinear", align_corners=False
        )


register(
    Facts("farabet", "farabet", 2013, "Farabet et al. 2013, PAMI 35:1915", 434_062, 3_299_241_600, (3, 240, 320), 8, 4,
          "Stanford Background pixel accuracy 78.8 % (paper, recalled)", "segment")
)(Farabet)  # fmt: skip
