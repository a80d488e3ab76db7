"""Heads' common part: maps of all strides brought together from the deepest to the finest.

Lin et al. 2017, "Feature Pyramid Networks for Object Detection", figure 3: 1x1 convolutions to one width, the coarser
map enlarged and added, a 3x3 convolution of the sum.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch.nn.functional as F
from torch import Tensor, nn

from .layers import he_init


class Pyramid(nn.Module):
    """Maps by stride -> maps of `width` channels by stride.

    Args:
        channels: stride -> channels of the trunk's maps.
        width: channels of the results.
        strides: which are wanted (of those in `channels`); coarser ones that the trunk lacks are made by pooling.
        norm: "group" (independent of the batch) or "batch".
    """

    def __init__(
        self, channels: Mapping[int, int], width: int = 128, strides: Iterable[int] | None = None, norm: str = "group"
    ) -> None:
        super().__init__()
        wanted = sorted(channels if strides is None else strides)
        self.strides = [s for s in wanted if s in channels]
        self.extra = [s for s in wanted if s > max(self.strides)]
        self.lateral = nn.ModuleDict({str(s): nn.Conv2d(channels[s], width, 1) for s in self.strides})
        self.smooth = nn.ModuleDict({str(s): conv_norm(width, width, norm=norm) for s in self.strides})
        he_init(self)

    def forward(self, maps: Mapping[int, Tensor]) -> dict[int, Tensor]:
        """Maps (B, channels[s], h, w) by stride -> (B, width, h, w) by stride, finest first."""
        made: dict[int, Tensor] = {}
        above: Tensor | None = None
        for stride in reversed(self.strides):
            x = self.lateral[str(stride)](maps[stride])
            if above is not None:
                x = x + F.interpolate(above, x.shape[-2:], mode="bilinear", align_corners=False)
            above = x
            made[stride] = self.smooth[str(stride)](x)
        for stride in self.extra:
            made[stride] = F.max_pool2d(made[max(made)], 1, 2)
        return {stride: made[stride] for stride in sorted(made)}


class Joined(nn.Module):
    """Maps of all strides -> one map at the finest of them: a pyramid whose levels are enlarged, added and mixed.

    Args:
        finest: strides below it are left out, where the trunk has coarser ones.

    Attributes:
        stride: of the result.
    """

    def __init__(self, channels: Mapping[int, int], width: int = 128, finest: int = 2) -> None:
        super().__init__()
        self.strides = [s for s in channels if s >= finest] or [max(channels)]
        self.stride = min(self.strides)
        self.pyramid = Pyramid({s: channels[s] for s in self.strides}, width)
        self.mix = conv_norm(width, width)

    def forward(self, maps: Mapping[int, Tensor]) -> Tensor:
        """Maps (B, channels[s], h, w) by stride -> (B, width, h, w) of the finest stride."""
        total, *others = self.pyramid(maps).values()
        for level in others:
            total = total + F.interpolate(level, total.shape[-2:], mode="bilinear", align_corners=False)
        return self.mix(total)  # type: ignore[no-any-return]


def conv_norm(channels: int, out: int, size: int = 3, norm: str = "group", *, dilation: int = 1) -> nn.Sequential:
    """Convolution, normalisation, ReLU; the map keeps its size."""
    padding = dilation * (size // 2)
    made = nn.GroupNorm(_groups(out), out) if norm == "group" else nn.BatchNorm2d(out)
    return nn.Sequential(
        nn.Conv2d(channels, out, size, padding=padding, dilation=dilation, bias=False), made, nn.ReLU(inplace=True)
    )


def _groups(channels: int) -> int:
    """The largest number of groups up to 32 that divides the channels and leaves at least 4 in each."""
    return max(g for g in (1, 2, 4, 8, 16, 32) if channels % g == 0 and channels // g >= min(4, channels))
