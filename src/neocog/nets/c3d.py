"""C3D: Learning Spatiotemporal Features with 3D Convolutional Networks. Tran, Bourdev, Fergus, Torresani, Paluri 2015.

arXiv:1412.0767. Sports-1M, one net trained from scratch: 44.9 % of clips, 60.0 % of videos (84.4 % in the top five).

Output shapes of c3d; all convolutions are 3x3x3 with padding 1, all pooling is 2x2x2 but for the first, 1x2x2, so that
the frames are not merged too early:

    16 frames          B    3  16 112 112
    conv1a, pool1      B   64  16  56  56
    conv2a, pool2      B  128   8  28  28
    conv3a, 3b, pool3  B  256   4  14  14
    conv4a, 4b, pool4  B  512   2   7   7
    conv5a, 5b, pool5  B  512   1   4   4      sizes are rounded up, as Caffe does
    fc6, fc7           B 4096
    fc8                B  487
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ..errors import NetError
from ..records import Facts
from .mlp import check_shape
from .registry import register

# maps of the convolutions of each stage; every stage ends with pooling
_STAGES = ((64,), (128,), (256, 256), (512, 512), (512, 512))


class C3D(nn.Module):
    """C3D as published.

    Args:
        frames: number of pictures in a clip.
        dropout: probability to drop a unit of fc6 and fc7.
    """

    head = "fc8"

    def __init__(
        self, *, classes: int, in_channels: int, input_size: int, frames: int = 16, dropout: float = 0.5
    ) -> None:
        super().__init__()
        if isinstance(frames, bool) or not isinstance(frames, int) or frames < 1:
            raise NetError(f"frames is the number of pictures in a clip, at least 1, got {frames!r}")
        if not 0 <= dropout < 1:
            raise NetError(f"dropout is a probability of at least 0 and below 1, got {dropout!r}")
        self.shape = (in_channels, frames, input_size, input_size)
        self.features = nn.Sequential()
        maps, time, side = in_channels, frames, input_size
        for stage, widths in enumerate(_STAGES, start=1):
            for letter, width in zip("ab", widths, strict=False):
                conv = nn.Conv3d(maps, width, 3, padding=1)
                nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
                nn.init.zeros_(conv.bias)  # type: ignore[arg-type]
                self.features.add_module(f"conv{stage}{letter}", conv)
                self.features.add_module(f"relu{stage}{letter}", nn.ReLU())
                maps = width
            depth = 1 if stage == 1 else 2
            self.features.add_module(f"pool{stage}", nn.MaxPool3d((depth, 2, 2), ceil_mode=True))
            time, side = -(-time // depth), -(-side // 2)
        self.fc6 = nn.Linear(maps * time * side**2, 4096)
        self.fc7 = nn.Linear(4096, 4096)
        self.relu = nn.ReLU()
        self.dropout = nn.Dropout(dropout)
        self.fc8 = nn.Linear(4096, classes)

    @staticmethod
    def example(spec: dict[str, Any], batch: int) -> Tensor:
        """Return random clips, (batch, in_channels, frames, input_size, input_size)."""
        side = spec["input_size"]
        return torch.randn(batch, spec["in_channels"], spec.get("frames", 16), side, side)

    def forward_features(self, x: Tensor) -> Tensor:
        """(B, in_channels, frames, H, W) -> (B, 4096)."""
        check_shape(x, *self.shape)
        x = self.features(x).flatten(1)  # (B, 8192)
        x = self.dropout(self.relu(self.fc6(x)))
        return self.dropout(self.relu(self.fc7(x)))  # type: ignore[no-any-return]

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, frames, H, W) -> logits (B, classes)."""
        return self.fc8(self.forward_features(x))  # type: ignore[no-any-return]


register(
    # 17 is the smallest side at which the last pooling still has more than one value to choose from
    Facts("c3d", "c3d", 2015, "Tran et al. 2015, arXiv:1412.0767", 79_991_015, 38_548_959_232, (3, 16, 112, 112), 487,
          smallest=17, accuracy="Sports-1M 60.0 % of videos, 84.4 % in the top five (one net, from scratch)"),
)(C3D)  # fmt: skip
