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

Phoneme Recognition Using Time-Delay Neural Networks. Waibel, Hanazawa, Hinton, Shikano, Lang, IEEE Transactions on
Acoustics, Speech and Signal Processing 37(3), 1989. Telling B, D and G apart, three speakers: 98.5 %.

Output shapes, 521 parameters and 6,233 connections:

    spectrum, 15 frames of 10 ms     B 16 15
    hidden, window of 3 frames       B  8 13
    phonemes.conv, window of 5       B  3  9
    phonemes.integrate over time     B  3
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
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
        widths: of the first convolution and of each block; a block with another width than the one before halves time.
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


class Integration(nn.Module):
    """Sum over time, times a weight, plus a bias, one pair per unit: (B, C, T) -> (B, C).

    Each output unit is connected to all moments of one hidden unit by one shared weight (section II.B of the paper).
    """

    def __init__(self, units: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(units))
        self.bias = nn.Parameter(torch.zeros(units))

    def forward(self, x: Tensor) -> Tensor:
        return x.sum(2) * self.weight + self.bias

    def extra_repr(self) -> str:
        return str(len(self.weight))


class Phonemes(nn.Module):
    """The last two layers of the TDNN: one hidden unit for each phoneme, and its integral over time.

    (B, units, T) -> (B, classes). There is a hidden unit per class, so these two change together.
    """

    def __init__(self, units: int, classes: int, window: int) -> None:
        super().__init__()
        self.conv = nn.Conv1d(units, classes, window)
        self.sigmoid = nn.Sigmoid()
        self.integrate = Integration(classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.integrate(self.sigmoid(self.conv(x)))  # type: ignore[no-any-return]

    def with_classes(self, classes: int) -> Phonemes:
        return Phonemes(self.conv.in_channels, classes, self.conv.kernel_size[0]).to(self.conv.weight)


class TDNN(Classifier):
    """Time-delay neural network: convolutions over time, so that it does not matter when a sound begins.

    Gives the inputs of the output units; the paper's outputs are their sigmoid, which has the same order. Any number
    of frames can be read, whatever the net was built for.
    """

    head = "phonemes"
    reader: ClassVar = {"bands": 16}

    def __init__(self, *, classes: int, in_channels: int, units: int = 8) -> None:
        super().__init__()
        self.hidden = nn.Conv1d(in_channels, units, 3)
        self.sigmoid = nn.Sigmoid()
        self.phonemes = Phonemes(units, classes, 5)

    def forward_features(self, x: Tensor) -> Tensor:
        """(B, in_channels, frames) -> (B, units, frames - 2)."""
        check_frames(x, self.hidden.in_channels, 7)
        return self.sigmoid(self.hidden(x))  # type: ignore[no-any-return]

    def connections(self, frames: int = 15) -> dict[str, int]:
        """Return the number of connections of each layer, those to the thresholds included, for `frames` frames."""
        last: Phonemes = self.phonemes
        first = sum(parameter.numel() for parameter in self.hidden.parameters())
        second = sum(parameter.numel() for parameter in last.conv.parameters())
        classes = last.conv.out_channels
        return {
            "hidden": first * (frames - 2),
            "phonemes.conv": second * (frames - 6),
            "phonemes.integrate": classes * (frames - 6 + 1),
        }


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

register(
    Facts("tdnn", "tdnn", 1989, "Waibel et al. 1989, IEEE Trans. ASSP 37(3)", 521, 6_072, (16, 15), 3, smallest=7,
          accuracy="B, D, G of three speakers 98.5 %", reads="sound"),
)(TDNN)  # fmt: skip
