"""Convolution over time: the time-delay neural network, and convolution over the words of a sentence.

Phoneme Recognition Using Time-Delay Neural Networks. Waibel, Hanazawa, Hinton, Shikano, Lang, IEEE Transactions on
Acoustics, Speech and Signal Processing 37(3), 1989. Telling B, D and G apart, three speakers: 98.5 %.

Convolutional Neural Networks for Sentence Classification. Kim 2014, arXiv:1408.5882. Film reviews (MR), positive or
negative: 76.1 % from random word vectors, 81.0 % with given ones (option static), 81.5 % with those trained further.

Output shapes of tdnn, 521 parameters and 6,233 connections:            and of sentence_cnn, 18,765 words:

    spectrum, 15 frames of 10 ms     B 16 15      words, padded        B 64
    hidden, window of 3 frames       B  8 13      embedding            B 300 64
    phonemes.conv, window of 5       B  3  9      convs, 3, 4, 5       B 100 62, B 100 61, B 100 60
    phonemes.integrate over time     B  3         largest over time    B 300
                                                  fc                   B 2
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import NetError
from ..records import Facts
from .registry import options, register


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


class TDNN(nn.Module):
    """Time-delay neural network: convolutions over time, so that it does not matter when a sound begins.

    Gives the inputs of the output units; the paper's outputs are their sigmoid, which has the same order. Any number
    of frames can be read, whatever the net was built for.

    Args:
        classes, in_channels: number of phonemes, and of coefficients per frame.
        units: hidden units of the first layer.
    """

    head = "phonemes"

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

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, frames) -> logits (B, classes)."""
        return self.phonemes(self.forward_features(x))  # type: ignore[no-any-return]

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


class SentenceCNN(nn.Module):
    """Filters over three, four and five words at a time; of each the largest value in the sentence.

    Reads token ids: whole numbers (B, words), 1 to `vocabulary` for words and 0 for padding. The authors put four
    zeros at either end of sentences of up to 56 words. Any number of tokens from the widest filter on can be read.

    Args:
        classes: number of outputs.
        vocabulary: number of words; the embedding has one more row, that of the padding, which stays zero.
        dimensions: length of a word's vector.
        widths: how many words the filters of each group see.
        maps: filters in each group.
        dropout: probability to drop one of the largest values.
        static: do not train the word vectors.
    """

    head = "fc"

    def __init__(
        self,
        *,
        classes: int,
        vocabulary: int = 18_765,
        dimensions: int = 300,
        widths: Sequence[int] = (3, 4, 5),
        maps: int = 100,
        dropout: float = 0.5,
        static: bool = False,
    ) -> None:
        super().__init__()
        if not widths or min(widths) < 1:
            raise NetError(f"widths is a list of numbers of words, such as [3, 4, 5], got {widths!r}")
        if vocabulary < 1:
            raise NetError(f"vocabulary is the number of words, at least 1, got {vocabulary!r}")
        if not 0 <= dropout < 1:
            raise NetError(f"dropout is a probability of at least 0 and below 1, got {dropout!r}")
        self.embedding = nn.Embedding(vocabulary + 1, dimensions, padding_idx=0)
        self.embedding.weight.requires_grad_(not static)
        convs = [nn.Conv1d(dimensions, maps, width) for width in widths]
        self.widest = max(widths)
        self.convs = nn.ModuleList(convs)
        self.relu = nn.ReLU()
        self.dropout = nn.Dropout(dropout)
        self.fc = nn.Linear(maps * len(widths), classes)
        with torch.no_grad():  # as the authors' code does
            nn.init.uniform_(self.embedding.weight, -0.25, 0.25)
            self.embedding.weight[0].zero_()
        for conv in convs:
            nn.init.uniform_(conv.weight, -0.01, 0.01)
            nn.init.zeros_(conv.bias)  # type: ignore[arg-type]

    @staticmethod
    def smallest_input(chosen: dict[str, Any]) -> int | None:
        """Return the width of the widest filter."""
        return max(chosen["widths"]) if chosen.get("widths") else None

    @staticmethod
    def example(spec: dict[str, Any], batch: int) -> Tensor:
        """Return random words, (batch, input_size)."""
        vocabulary = {**options(spec["name"]), **spec}["vocabulary"]
        return torch.randint(1, vocabulary + 1, (batch, spec["input_size"]))

    def forward_features(self, x: Tensor) -> Tensor:
        """(B, words) -> (B, maps x number of widths)."""
        if x.dim() != 2 or x.is_floating_point() or x.shape[1] < self.widest:
            raise NetError(
                f"expected token ids, whole numbers of shape (B, at least {self.widest}), got {x.dtype} of shape "
                f"{tuple(x.shape)}; pad shorter sentences with 0"
            )
        words = self.embedding(x).transpose(1, 2)  # (B, dimensions, words)
        largest = [self.relu(conv(words)).amax(2) for conv in self.convs]
        return self.dropout(torch.cat(largest, 1))  # type: ignore[no-any-return]

    def forward(self, x: Tensor) -> Tensor:
        """(B, words) -> logits (B, classes)."""
        return self.fc(self.forward_features(x))  # type: ignore[no-any-return]


register(
    Facts("tdnn", "tdnn", 1989, "Waibel et al. 1989, IEEE Trans. ASSP 37(3)", 521, 6_072, (16, 15), 3, smallest=7,
          accuracy="B, D, G of three speakers 98.5 %"),
)(TDNN)  # fmt: skip
register(
    Facts("sentence_cnn", "sentence_cnn", 2014, "Kim 2014, arXiv:1408.5882", 5_990_702, 21_900_600, (64,), 2,
          smallest=5, accuracy="MR film reviews 81.5 % (76.1 % from random word vectors)", reads="text"),
)(SentenceCNN)  # fmt: skip
