"""Texts as vectors by their letter trigrams: the deep structured semantic models.

- DSSM: P.-S. Huang, X. He, J. Gao, L. Deng, A. Acero, L. Heck, "Learning deep structured semantic models for web search
  using clickthrough data", CIKM 2013. The trigrams of a whole text, counted (the paper: 30,621 of them), two layers of
  300 and one of 128, all with tanh. NDCG@1/3/10 on 16,510 queries of web search: 0.362, 0.425, 0.498 (BM25: 0.308,
  0.373, 0.455).
- C-DSSM: Y. Shen, X. He, J. Gao, L. Deng, G. Mesnil, "Learning semantic representations using convolutional neural
  networks for web search", WWW 2014. The trigrams of each window of three words, a convolution of 300 with tanh, the
  maximum over the places, a layer of 128 with tanh.

Weights begin as both papers say: uniform between plus and minus sqrt(6 / (fan in + fan out)).

===========  ================================
trigrams     (B, L, T), integers, 0 = none
counts       (B, 30621), never made: rows of the first matrix are added up instead
C-DSSM       (B, L, 300) after the windows, (B, 300) after the maximum
vector       (B, 128)
===========  ================================
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn


def _begun(layer: nn.Linear) -> nn.Linear:
    nn.init.xavier_uniform_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer


def _table(size: int, width: int, windows: int = 1) -> nn.EmbeddingBag:
    """A matrix from counts of trigrams, as rows that are added up: of the window's places side by side."""
    table = nn.EmbeddingBag(size, windows * width, mode="sum", padding_idx=0)
    limit = math.sqrt(6 / (windows * size + width))
    nn.init.uniform_(table.weight, -limit, limit)
    with torch.no_grad():
        table.weight[0] = 0.0
    return table


class DSSM(nn.Module):
    """The tower of Huang et al. 2013; `size`: number of trigrams, with the padding; `hidden`: widths of the layers."""

    def __init__(self, size: int, dimensions: int = 128, hidden: Sequence[int] = (300, 300)) -> None:
        super().__init__()
        self.table = _table(size, hidden[0])
        self.bias = nn.Parameter(torch.zeros(hidden[0]))
        widths = (*hidden, dimensions)
        self.layers = nn.ModuleList(_begun(nn.Linear(a, b)) for a, b in pairwise(widths))

    def forward(self, ids: Tensor) -> Tensor:
        """(B, L, T) trigrams of words, 0 = none -> (B, dimensions)."""
        y = torch.tanh(self.table(ids.flatten(1)) + self.bias)
        for layer in self.layers:
            y = torch.tanh(layer(y))
        return y


class CDSSM(nn.Module):
    """The tower of Shen et al. 2014, of `hidden` filters that see `window` words, an odd number."""

    def __init__(self, size: int, dimensions: int = 128, hidden: int = 300, window: int = 3) -> None:
        super().__init__()
        self.window = window
        self.table = _table(size, hidden, window)
        self.bias = nn.Parameter(torch.zeros(hidden))
        self.out = _begun(nn.Linear(hidden, dimensions))

    def places(self, ids: Tensor) -> Tensor:
        """(B, L, T) -> (B, L, hidden): what each window says, around each word; -1, the least, where none is."""
        b, length, _ = ids.shape
        parts = self.table(ids.flatten(0, 1)).view(b, length, self.window, -1)  # of each word at each of the places
        half = self.window // 2
        y = self.bias + sum(
            nn.functional.pad(parts[:, :, k], (0, 0, half - k, k - half)) for k in range(self.window)
        )  # padding by less than nothing cuts off
        return torch.tanh(y).masked_fill((ids == 0).all(2)[..., None], -1.0)

    def forward(self, ids: Tensor) -> Tensor:
        """(B, L, T) trigrams of words, 0 = none -> (B, dimensions)."""
        return torch.tanh(self.out(self.places(ids).amax(1)))
