"""Convolution over time with residuals, for words that are spoken: TC-ResNet, on 40 MFCCs or log-mel bands of a frame.

Temporal Convolution for Real-time Keyword Spotting on Mobile Devices. Choi, Seo, Shin, Byun, Kersner, Kim, Kim, Ha,
Interspeech 2019, arXiv:1904.03814. Google Speech Commands, 12 classes: TC-ResNet8 96.1 %, TC-ResNet14 96.2 %, with 1.5
times the width 96.2 and 96.6 %; 66 K, 137 K, 145 K, 305 K parameters, running statistics of batch norm among them, and
3.0 M, 6.1 M, 6.6 M, 13.4 M operations, twice the multiply-adds.

The coefficients of a frame are channels, so each filter sees all frequencies, for three frames at first and nine later.

Output shapes of tc_resnet8:

    frames of 10 ms       B 40  98
    conv, bn, relu        B 16  98
    block1, stride 2      B 24  49
    block2, stride 2      B 32  25
    block3, stride 2      B 48  13
    mean over time, fc    B 12
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from torch import Tensor, nn

from ..errors import NetError
from ..records import Facts
from .layers import Classifier, he_init
from .registry import register


class TemporalBlock(nn.Module):
    """Two convolutions of nine frames, beside them the input or its projection: (B, C, T) -> (B, width, T / stride)."""

    def __init__(self, channels: int, width: int, stride: int, window: int = 9) -> None:
        super().__init__()
        half = window // 2
        self.conv1 = nn.Conv1d(channels, width, window, stride, half, bias=False)
        self.bn1 = nn.BatchNorm1d(width)
        self.relu1 = nn.ReLU()
        self.conv2 = nn.Conv1d(width, width, window, 1, half, bias=False)
        self.bn2 = nn.BatchNorm1d(width)
        self.relu2 = nn.ReLU()
        self.down: nn.Module = nn.Identity()
        if stride > 1 or channels != width:
            projection = nn.Conv1d(channels, width, 1, stride, bias=False)
            self.down = nn.Sequential(projection, nn.BatchNorm1d(width), nn.ReLU())

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn2(self.conv2(self.relu1(self.bn1(self.conv1(x)))))
        return self.relu2(y + self.down(x))  # type: ignore[no-any-return]


class TCResNet(Classifier):
    """TC-ResNet: (B, in_channels, frames) -> logits (B, classes), for any number of frames.

    Args:
        classes, in_channels: number of words, and of coefficients per frame.
        widths: of the first convolution and of each block; a block with another width than the one before halves time.
        times: factor for all widths.
        dropout: probability to drop a mean before the last layer.
    """

    head = "fc"
    reader: ClassVar = {"bands": 40}

    def __init__(
        self, *, classes: int, in_channels: int, widths: Sequence[int], times: float = 1.0, dropout: float = 0.5
    ) -> None:
        super().__init__()
        first, *rest = (round(times * width) for width in widths)
        self.conv = nn.Conv1d(in_channels, first, 3, 1, 1, bias=False)
        self.bn = nn.BatchNorm1d(first)
        self.relu = nn.ReLU()
        before = [first, *rest]
        self.blocks = nn.Sequential(
            *(TemporalBlock(a, b, 1 if a == b else 2) for a, b in zip(before, rest, strict=False))
        )
        self.dropout = nn.Dropout(dropout)
        self.fc = nn.Linear(rest[-1], classes)
        he_init(self)

    def forward_features(self, x: Tensor) -> Tensor:
        """(B, in_channels, frames) -> (B, last width)."""
        check_frames(x, self.conv.in_channels, 1)
        return self.dropout(self.blocks(self.relu(self.bn(self.conv(x)))).mean(2))  # type: ignore[no-any-return]


def check_frames(x: Tensor, channels: int, least: int) -> None:
    """Raise NetError unless `x` is (B, channels, T) with at least `least` frames or samples T."""
    if x.dim() != 3 or x.shape[1] != channels or x.shape[2] < least:
        raise NetError(
            f"expected sounds of shape (B, {channels}, at least {least}), got {tuple(x.shape)}; "
            "build the net with in_channels=... to match the numbers in a frame"
        )


class WaveNet(Classifier):
    """Filters on the wave itself, of 80 samples at first and three later: (B, 1, L) -> logits (B, classes), for any L.

    Very Deep Convolutional Neural Networks for Raw Waveforms. Dai, Dai, Qu, Li, Das, ICASSP 2017, arXiv:1610.00087:
    M3 to M18, 4 seconds at 8 kHz. Time is a quarter after the first filters and after each group.

    Args:
        classes, in_channels: number of classes, and of channels of the wave.
        widths: filters of the first convolution, and of those of each group.
        depths: convolutions in each group.
        times: factor for all widths.
    """

    head = "fc"
    reader: ClassVar = {"features": "wave"}

    def __init__(
        self, *, classes: int, in_channels: int, widths: Sequence[int], depths: Sequence[int], times: float = 1.0
    ) -> None:
        super().__init__()
        first, *rest = (round(times * width) for width in widths)
        layers: list[nn.Module] = [nn.Conv1d(in_channels, first, 80, 4, 38), nn.BatchNorm1d(first), nn.ReLU()]
        for before, width, depth in zip([first, *rest], rest, depths, strict=False):
            layers.append(nn.MaxPool1d(4, ceil_mode=True))
            for channels in (before, *[width] * (depth - 1)):
                layers += [nn.Conv1d(channels, width, 3, 1, 1), nn.BatchNorm1d(width), nn.ReLU()]
        if len(depths) < 4:  # of 4 seconds 32 frames are left at least
            layers.append(nn.MaxPool1d(4, ceil_mode=True))
        self.layers = nn.Sequential(*layers)
        self.fc = nn.Linear(rest[-1], classes)
        he_init(self)

    def forward_features(self, x: Tensor) -> Tensor:
        """(B, in_channels, L) -> (B, last width)."""
        check_frames(x, self.layers[0].in_channels, 4)  # type: ignore[arg-type]
        return self.layers(x).mean(2)  # type: ignore[no-any-return]


_CHOI = "Choi et al. 2019, arXiv:1904.03814"
for _name, _widths, _times, _params, _macs, _accuracy in (
    ("tc_resnet8", (16, 24, 32, 48), 1.0, 65_180, 1_522_560, "96.1"),
    ("tc_resnet14", (16, 24, 24, 32, 32, 48, 48), 1.0, 135_868, 3_030_528, "96.2"),
    ("tc_resnet8_1.5", (16, 24, 32, 48), 1.5, 144_276, 3_284_208, "96.2"),
    ("tc_resnet14_1.5", (16, 24, 24, 32, 32, 48, 48), 1.5, 303_012, 6_677_136, "96.6"),
):
    _facts = Facts(_name, "tc_resnet", 2019, _CHOI, _params, _macs, (40, 98), 12, smallest=1,
                   accuracy=f"Speech Commands, 12 classes {_accuracy} %", reads="sound")  # fmt: skip
    register(_facts, widths=_widths, times=_times)(TCResNet)

_DAI = "Dai et al. 2017, arXiv:1610.00087"
for _name, _channels, _depths, _params, _macs, _accuracy in (
    ("wave_m3", (256, 256), (1,), 221_194, 557_058_560, "56.1"),
    ("wave_m5", (128, 128, 256, 512), (1, 1, 1), 559_114, 278_533_120, "63.4"),
    ("wave_m11", (64, 64, 128, 256, 512), (2, 2, 3, 2), 1_786_442, 226_169_856, "69.1"),
    ("wave_m18", (64, 64, 128, 256, 512), (4, 4, 4, 4), 3_683_786, 399_381_504, "71.7"),
):
    _facts = Facts(_name, "wave", 2017, _DAI, _params, _macs, (1, 32_000), 10, smallest=80,
                   accuracy=f"UrbanSound8k {_accuracy} %", reads="sound")  # fmt: skip
    register(_facts, widths=_channels, depths=_depths)(WaveNet)
