"""A generator for adversarial nets that asks the same numbers again at every size of its maps.

From the small map to the large one: nearest neighbours, a 3x3 convolution, each place brought to length 1 (Karras et
al. 2018, arXiv:1710.10196), then for each channel a factor and an offset, linear functions of the numbers that the
picture is made of (in the way of Karras et al. 2019, arXiv:1812.04948). Every size adds to the picture (the skips of
Karras et al. 2020, arXiv:1912.04958), so the coarse parts learn at once. No layer knows of other pictures.

Output shapes for 32x32 with the widths 32, 64, 128 of a critic:

    numbers          B  64
    sizes.0  B 128   4   4  ->  B 3   4   4
    sizes.1  B  64   8   8  ->  B 3   8   8
    sizes.2  B  32  16  16  ->  B 3  16  16
    sizes.3  B  16  32  32  ->  B 3  32  32; the picture is their sum
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def _of_length_1(x: Tensor) -> Tensor:
    """Channels of each place (B, C, ...) divided by the root of their mean square."""
    return x * torch.rsqrt(x.square().mean(1, keepdim=True) + 1e-8)


class Size(nn.Module):
    """The maps of one size (B, inside, H, W) -> (B, out, H, W), and what they add to the picture."""

    def __init__(self, latent: int, inside: int, out: int, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inside, out, 3, padding=1)
        self.style = nn.Linear(latent, 2 * out)
        self.picture = nn.Conv2d(out, channels, 3, padding=1)
        nn.init.kaiming_normal_(self.conv.weight, 0.2)
        nn.init.normal_(self.style.weight, std=0.5 / latent**0.5)
        nn.init.normal_(self.picture.weight, std=0.02)
        for name, value in self.named_parameters():
            if name.endswith("bias"):
                nn.init.zeros_(value)

    def forward(self, x: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
        factor, offset = self.style(z)[:, :, None, None].chunk(2, 1)
        x = F.leaky_relu(_of_length_1(self.conv(x)) * (1 + factor) + offset, 0.2)
        return x, self.picture(x)


class Modulated(nn.Module):
    """From numbers (B, latent) to pictures (B, channels, size, size) with values from -1 to 1.

    Args:
        widths: maps of each halving of the critic, the largest map first; the generator has them backwards, and at
            the full size half of the first.
    """

    def __init__(self, latent: int, channels: int, size: int, widths: Sequence[int]) -> None:
        super().__init__()
        self.sides = [size >> halvings for halvings in range(len(widths), -1, -1)]
        maps = [*widths[::-1], max(1, widths[0] // 2)]
        self.first = nn.Linear(latent, maps[0] * self.sides[0] ** 2)
        self.sizes = nn.ModuleList(
            Size(latent, inside, out, channels) for inside, out in zip((maps[0], *maps), maps, strict=False)
        )

    def forward(self, z: Tensor) -> Tensor:
        """(B, latent) -> (B, channels, size, size)."""
        z = _of_length_1(z)
        x = self.first(z).unflatten(1, (-1, self.sides[0], self.sides[0]))
        x, picture = self.sizes[0](x, z)
        for side, layer in zip(self.sides[1:], self.sizes[1:], strict=True):
            x, more = layer(F.interpolate(x, size=(side, side), mode="nearest"), z)
            picture = F.interpolate(picture, size=(side, side), mode="bilinear") + more
        return picture.tanh()
