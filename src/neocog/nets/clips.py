"""Nets for clips: convolution over space and time, frame by frame, or in two streams.

Two-Stream Convolutional Networks for Action Recognition in Videos. Simonyan and Zisserman 2014, arXiv:1406.2199.
UCF-101, mean of three splits: 73.0 % from single frames, 83.7 % from stacks of optical flow, 88.0 % from both (SVM).
Here differences of frames stand for flow, which they follow up to the slope of the picture (the equation of optical
flow, Horn and Schunck 1981), and cost nothing.
Large-scale Video Classification with Convolutional Neural Networks. Karpathy et al. 2014: fusion of frames.

Output shapes, 16 frames of 32x32:

    clip_small                        clip_frames, each frame alone     two_stream, differences as channels
    conv1, pool 1x2x2  B  8 16 16 16  conv1, pool  B*16  16 16 16       temporal.conv1, pool  B  16 16 16   (3 x 15 in)
    conv2, pool 2x2x2  B 24  8  8  8  conv2, pool  B*16  32  8  8       temporal.conv2, pool  B  32  8  8
    conv3, pool 2x2x2  B 48  4  4  4  conv3, pool  B*16  64  4  4       temporal.conv3, pool  B  64  4  4
    conv4              B 96  4  4  4  mean         B*16  64             spatial: as clip_frames
    mean               B 96           mean         B     64             both                  B 128
    fc                 B   K          fc           B     K              fc                    B   K
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ..errors import NetError
from ..records import Facts
from .mlp import check_shape
from .registry import register


def _check_frames(frames: int, least: int) -> None:
    if isinstance(frames, bool) or not isinstance(frames, int) or frames < least:
        raise NetError(f"frames is the number of pictures in a clip, at least {least}, got {frames!r}")


def _example(spec: dict[str, Any], batch: int) -> Tensor:
    side = spec["input_size"]
    return torch.randn(batch, spec["in_channels"], spec.get("frames", 16), side, side)


class ClipSmall(nn.Module):
    """Four 3-D convolutions, 3x3x3, each with batch normalisation; for small clips.

    Args:
        frames: number of pictures in a clip.
        dropout: probability to drop one of the means that the last layer reads.
    """

    head = "fc"
    example = staticmethod(_example)

    def __init__(
        self, *, classes: int, in_channels: int, input_size: int, frames: int = 16, dropout: float = 0.0
    ) -> None:
        super().__init__()
        _check_frames(frames, 4)
        self.shape = (in_channels, frames, input_size, input_size)
        self.features = nn.Sequential()
        maps = in_channels
        for number, width in enumerate((8, 24, 48, 96), start=1):
            self.features.add_module(f"conv{number}", nn.Conv3d(maps, width, 3, padding=1, bias=False))
            self.features.add_module(f"norm{number}", nn.BatchNorm3d(width))
            self.features.add_module(f"relu{number}", nn.ReLU())
            if number < 4:
                self.features.add_module(f"pool{number}", nn.MaxPool3d((1 if number == 1 else 2, 2, 2)))
            maps = width
        self.dropout = nn.Dropout(dropout)
        self.fc = nn.Linear(maps, classes)

    def forward_features(self, x: Tensor) -> Tensor:
        """(B, in_channels, frames, H, W) -> (B, 96)."""
        check_shape(x, *self.shape)
        return self.dropout(self.features(x).mean((2, 3, 4)))  # type: ignore[no-any-return]

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, frames, H, W) -> logits (B, classes)."""
        return self.fc(self.forward_features(x))  # type: ignore[no-any-return]


def _stream(maps: int) -> nn.Sequential:
    """A small 2-D net: (B, maps, H, W) -> (B, 64)."""
    made = nn.Sequential()
    for number, width in enumerate((16, 32, 64), start=1):
        made.add_module(f"conv{number}", nn.Conv2d(maps, width, 3, padding=1, bias=False))
        made.add_module(f"norm{number}", nn.BatchNorm2d(width))
        made.add_module(f"relu{number}", nn.ReLU())
        made.add_module(f"pool{number}", nn.MaxPool2d(2))
        maps = width
    made.add_module("mean", nn.AdaptiveAvgPool2d(1))
    made.add_module("flat", nn.Flatten())
    return made


class ClipFrames(nn.Module):
    """Every frame by itself, and the mean of what they say: late fusion, which does not see motion.

    The mean of what a linear layer says is what it says of the mean.

    Args: as of `ClipSmall`, without dropout.
    """

    head = "fc"
    example = staticmethod(_example)

    def __init__(self, *, classes: int, in_channels: int, input_size: int, frames: int = 16) -> None:
        super().__init__()
        _check_frames(frames, 1)
        self.shape = (in_channels, frames, input_size, input_size)
        self.frame = _stream(in_channels)
        self.fc = nn.Linear(64, classes)

    def forward_features(self, x: Tensor) -> Tensor:
        """(B, in_channels, frames, H, W) -> (B, 64)."""
        check_shape(x, *self.shape)
        batch, _, frames = x.shape[:3]
        each = self.frame(x.transpose(1, 2).flatten(0, 1))  # (B * frames, 64)
        return each.view(batch, frames, -1).mean(1)  # type: ignore[no-any-return]

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, frames, H, W) -> logits (B, classes)."""
        return self.fc(self.forward_features(x))  # type: ignore[no-any-return]


class TwoStream(nn.Module):
    """What frames show, and what changes between them, each by a 2-D net; one linear layer on both.

    Args: as of `ClipFrames`.
    """

    head = "fc"
    example = staticmethod(_example)

    def __init__(self, *, classes: int, in_channels: int, input_size: int, frames: int = 16) -> None:
        super().__init__()
        _check_frames(frames, 2)
        self.shape = (in_channels, frames, input_size, input_size)
        self.spatial = _stream(in_channels)
        self.temporal = _stream(in_channels * (frames - 1))
        self.fc = nn.Linear(128, classes)

    def forward_features(self, x: Tensor) -> Tensor:
        """(B, in_channels, frames, H, W) -> (B, 128)."""
        check_shape(x, *self.shape)
        middle = x[:, :, x.shape[2] // 2]
        changes = x.diff(dim=2).flatten(1, 2)  # (B, in_channels * (frames - 1), H, W)
        return torch.cat((self.spatial(middle), self.temporal(changes)), 1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, frames, H, W) -> logits (B, classes)."""
        return self.fc(self.forward_features(x))  # type: ignore[no-any-return]


_INPUT = (3, 16, 32, 32)
register(
    Facts(
        "clip_small",
        "clips",
        2015,
        "after Tran et al. 2015, arXiv:1412.0767",
        162_480,
        55_739_136,
        _INPUT,
        8,
        smallest=8,
    )
)(ClipSmall)
register(Facts("clip_frames", "clips", 2014, "after Karpathy et al. 2014", 24_216, 44_827_136, _INPUT, 8, smallest=8))(
    ClipFrames
)
register(
    Facts(
        "two_stream",
        "clips",
        2014,
        "after Simonyan and Zisserman 2014, arXiv:1406.2199",
        54_472,
        11_797_504,
        _INPUT,
        8,
        smallest=8,
    )
)(TwoStream)
