"""Two towers into one space: their vectors, of length 1, are near where a picture and a text, or two texts, belong
together (the deep structured semantic model, Huang et al. 2013, with any two towers)."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_LEAST, _MOST = 1.0, 100.0  # of a learned gamma


class Gamma(nn.Module):
    """The factor on the cosines: `given`, or learned where that is 0, from 1 / 0.07 on (Wu et al. 2018)."""

    def __init__(self, given: float = 0.0) -> None:
        super().__init__()
        self.log = nn.Parameter(torch.tensor(math.log(given or 1 / 0.07)), requires_grad=not given)

    def forward(self) -> Tensor:
        """A scalar."""
        return self.log.float().clamp(math.log(_LEAST), math.log(_MOST)).exp()


class Projection(nn.Module):
    """A picture's tower: features (B, width) -> (B, dimensions), linear, or with a hidden layer.

    Features are brought to length sqrt(width) first: how long they are says more of contrast than of things.
    """

    def __init__(self, width: int, dimensions: int, hidden: int = 0, dropout: float = 0.0) -> None:
        super().__init__()
        self.drop = nn.Dropout(dropout)
        self.hidden = nn.Linear(width, hidden) if hidden else None
        self.out = nn.Linear(hidden or width, dimensions)

    def forward(self, x: Tensor) -> Tensor:
        """(B, width) -> (B, dimensions)."""
        x = self.drop(F.normalize(x.float(), dim=1) * math.sqrt(x.shape[1]))
        return self.out(x if self.hidden is None else self.drop(torch.relu(self.hidden(x))))


READS = ("mean", "mean+max", "quarters")


class PicturesAndTexts(nn.Module):
    """The head that matches pictures with texts.

    Args:
        channels: of the trunk's deepest maps.
        texts: the tower of texts, ``forward(ids int (B, L))`` -> (B, dimensions).
        dimensions: of the common space.
        reads: what is read of the maps: "mean", "mean+max", or "quarters" (mean, maximum, and the mean of each quarter
            of the picture).
        hidden, dropout: of the pictures' tower.
        words: share of the tokens that are left out in training.
        gamma: on the cosines; 0: learned.
    """

    def __init__(
        self,
        channels: int,
        texts: nn.Module,
        dimensions: int,
        *,
        reads: str = "mean",
        hidden: int = 0,
        dropout: float = 0.0,
        words: float = 0.0,
        gamma: float = 0.0,
    ) -> None:
        super().__init__()
        self.reads, self.words = reads, words
        self.pictures = Projection(
            channels * {"mean": 1, "mean+max": 2, "quarters": 6}[reads], dimensions, hidden, dropout
        )
        self.texts, self.gamma = texts, Gamma(gamma)

    def features(self, maps: dict[int, Tensor]) -> Tensor:
        """Maps by stride -> (B, F), what the pictures' tower reads."""
        deepest = maps[max(maps)]
        parts = [deepest.flatten(2).mean(2)]
        if self.reads != "mean":
            parts.append(deepest.flatten(2).amax(2))
        if self.reads == "quarters":
            parts.append(F.adaptive_avg_pool2d(deepest, 2).permute(0, 2, 3, 1).flatten(1))
        return torch.cat(parts, 1)

    def forward(self, maps: dict[int, Tensor], x: Tensor, texts: Tensor | None = None) -> dict[str, Any]:
        """``pictures`` (B, D), and of `texts` (B, K, L), K for each picture, ``texts`` (B, K, D); all of length 1.

        `x` (B, F) are features in the place of pictures.
        """
        found = self.pictures(x if x.ndim == 2 else self.features(maps))
        made = {"pictures": F.normalize(found.float(), dim=1), "gamma": self.gamma()}
        if texts is not None:
            made["texts"] = text_vectors(self.texts, texts.flatten(0, 1), self.words).unflatten(0, texts.shape[:2])
        return made


def text_vectors(tower: nn.Module, ids: Tensor, words: float = 0.0) -> Tensor:
    """Texts (M, L) or (M, L, T) -> (M, D) of length 1; in training a share `words` of the tokens is left out."""
    if words and tower.training:
        kept = torch.rand(ids.shape[:2], device=ids.device) >= words
        ids = ids * (kept if ids.ndim == 2 else kept[..., None])
    return F.normalize(tower(ids).float(), dim=1)


class Windows(nn.Module):
    """A text's tower: vectors of its tokens, given ones that stay as they are beside learned ones; what windows of one
    and of three tokens say, the maximum over the places, a linear layer.

    Args:
        size: number of tokens, with the padding.
        dimensions: of the vector.
        vectors: float (size, V), the given vectors of the tokens, or None.
        learned: numbers of each token that are learned.
        filters: of each width.
    """

    def __init__(
        self, size: int, dimensions: int, vectors: Tensor | None = None, learned: int = 64, filters: int = 256,
        dropout: float = 0.2,
    ) -> None:  # fmt: skip
        super().__init__()
        self.learned = nn.Embedding(size, learned, padding_idx=0)
        # beside given vectors they begin at 0, so that tokens of no training text add nothing
        nn.init.normal_(self.learned.weight, std=0.1 if vectors is None else 0.0)
        self.register_buffer("given", vectors, persistent=False)  # they come with their package
        width = learned + (0 if vectors is None else vectors.shape[1])
        self.windows = nn.ModuleList(nn.Conv1d(width, filters, k, padding=k // 2) for k in (1, 3))
        self.drop = nn.Dropout(dropout)
        self.out = nn.Linear(2 * filters, dimensions)

    given: Tensor | None

    def places(self, ids: Tensor) -> Tensor:
        """(B, L) -> (B, L, 2 x filters): what is said around each token, at least 0; 0 where there is none."""
        there = (ids != 0)[..., None]
        x = self.learned(ids)
        if self.given is not None:
            x = torch.cat([x, self.given[ids.long()].to(x.dtype)], 2)
        x = self.drop(x * there).transpose(1, 2)
        return torch.cat([torch.relu(one(x)) for one in self.windows], 1).transpose(1, 2) * there

    def forward(self, ids: Tensor) -> Tensor:
        """(B, L) -> (B, dimensions)."""
        found: Tensor = self.out(self.drop(self.places(ids).amax(1)))
        return found
