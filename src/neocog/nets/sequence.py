"""Convolution over time: the time-delay neural network.

Phoneme Recognition Using Time-Delay Neural Networks. Waibel, Hanazawa, Hinton, Shikano, Lang, IEEE Transactions on
Acoustics, Speech and Signal Processing 37(3), 1989. Telling B, D and G apart, three speakers: 98.5 %.

Output shapes, 521 parameters and 6,233 connections:

    spectrum, 15 frames of 10 ms     B 16 15
    hidden, window of 3 frames       B  8 13
    phonemes.conv, window of 5       B  3  9
    phonemes.integrate over time     B  3
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn

from ..errors import NetError
from ..records import Facts
from .layers import Classifier
from .registry import register


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

    Args:
        classes, in_channels: number of phonemes, and of coefficients per frame.
        units: hidden units of the first layer.
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
        if x.dim() != 3 or x.shape[1] != self.hidden.in_channels or x.shape[2] < 7:
            raise NetError(
                f"expected at least 7 frames, in the shape (B, {self.hidden.in_channels}, frames), got "
                f"{tuple(x.shape)}; build the net with in_channels=... to match the number of coefficients"
            )
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


register(
    Facts("tdnn", "tdnn", 1989, "Waibel et al. 1989, IEEE Trans. ASSP 37(3)", 521, 6_072, (16, 15), 3, smallest=7,
          accuracy="B, D, G of three speakers 98.5 %", reads="sound"),
)(TDNN)  # fmt: skip
