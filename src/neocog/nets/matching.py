"""Two towers into one space: their vectors, of length 1, are near where a picture and a text, or two texts, belong
together (the deep structured semantic model, Huang et al. 2013, with any two towers)."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_LEAST, _MOST = 1.0, 100.0  # of a learned gamma


def _full(x: Tensor) -> Tensor:
    """In at least float32."""
    return x if x.dtype == torch.float64 else x.float()


class Gamma(nn.Module):
    """The factor on the cosines: `given`, or learned where that is 0, from 1 / 0.07 on (Wu et al. 2018)."""

    def __init__(self, given: float = 0.0) -> None:
        super().__init__()
        self.log = nn.Parameter(torch.tensor(math.log(given or 1 / 0.07)), requires_grad=not given)

    def forward(self) -> Tensor:
        """A scalar."""
        return self.log.clamp(math.log(_LEAST), math.log(_MOST)).exp()


class Projection(nn.Module):
    """A picture's tower: features (B, width) -> (B, dimensions), linear, and what a hidden layer adds.

    The features' signed roots are taken, so that a few large ones say less (Perronnin et al. 2010), and brought to
    length sqrt(width): how long they are says more of contrast than of things.
    """

    def __init__(self, width: int, dimensions: int, hidden: int = 0, dropout: float = 0.0) -> None:
        super().__init__()
        self.drop = nn.Dropout(dropout)
        self.hidden = nn.Linear(width, hidden) if hidden else None
        self.out = nn.Linear(width, dimensions)
        self.more = nn.Linear(hidden, dimensions) if hidden else None

    def forward(self, x: Tensor) -> Tensor:
        """(B, width) -> (B, dimensions)."""
        x = _full(x)
        x = self.drop(F.normalize(x.sign() * x.abs().sqrt(), dim=1) * math.sqrt(x.shape[1]))
        made: Tensor = self.out(x)
        return made if self.hidden is None else made + self.more(self.drop(torch.relu(self.hidden(x))))  # type: ignore[misc]


class Parts(nn.Module):
    """A picture's tower that looks at its parts one by one: each goes through a hidden layer that knows the place; then
    the mean and the maximum over the parts, and a linear layer.

    The mean of few channels does not tell which colour belongs to which shape.

    Args:
        width: of the features, (width / cells) channels x cells.
    """

    def __init__(self, width: int, dimensions: int, cells: int, hidden: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.width, self.cells, self.drop = width, cells, nn.Dropout(dropout)
        self.hidden = nn.Linear(width // cells, hidden)
        self.places = nn.Embedding(cells, hidden)
        nn.init.normal_(self.places.weight, std=0.1)
        self.out = nn.Linear(2 * hidden, dimensions)

    def forward(self, x: Tensor) -> Tensor:
        """(B, width) -> (B, dimensions)."""
        x = F.layer_norm(_full(x), (self.width,)).reshape(-1, self.width // self.cells, self.cells).transpose(1, 2)
        x = torch.relu(self.hidden(x) + self.places.weight)  # (B, cells, hidden)
        made: Tensor = self.out(self.drop(torch.cat((x.mean(1), x.amax(1)), 1)))
        return made


READS = ("mean", "mean+max", "quarters", "parts")
_GRID = 4  # parts of a picture to each side


class PicturesAndTexts(nn.Module):
    """The head that matches pictures with texts.

    Args:
        channels: of the trunk's deepest maps.
        texts: the tower of texts, ``forward(ids int (B, L))`` -> (B, dimensions).
        reads: what is read of the maps: "mean", "mean+max", "quarters" (mean, maximum, and the mean of each quarter
            of the picture), or "parts" (the mean of each of 4 x 4, by a tower `Parts`).
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
        width = channels * {"mean": 1, "mean+max": 2, "quarters": 6, "parts": _GRID**2}[reads]
        self.pictures: nn.Module = (
            Parts(width, dimensions, _GRID**2, hidden or dimensions, dropout)
            if reads == "parts"
            else Projection(width, dimensions, hidden, dropout)
        )
        self.texts, self.gamma = texts, Gamma(gamma)

    def features(self, maps: dict[int, Tensor]) -> Tensor:
        """Maps by stride -> (B, F), what the pictures' tower reads."""
        deepest = maps[max(maps)]
        if self.reads == "parts":
            return F.adaptive_avg_pool2d(deepest, _GRID).flatten(1)
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
        made = {"pictures": F.normalize(_full(found), dim=1), "gamma": self.gamma()}
        if texts is not None:
            made["texts"] = text_vectors(self.texts, texts.flatten(0, 1), self.words).unflatten(0, texts.shape[:2])
        return made


def text_vectors(tower: nn.Module, ids: Tensor, words: float = 0.0) -> Tensor:
    """Texts (M, L) or (M, L, T) -> (M, D) of length 1; in training a share `words` of the tokens is left out."""
    if words and tower.training:
        kept = torch.rand(ids.shape[:2], device=ids.device) >= words
        ids = ids * (kept if ids.ndim == 2 else kept[..., None])
    return F.normalize(_full(tower(ids)), dim=1)


class Windows(nn.Module):
    """A text's tower: vectors of its tokens, given ones that stay as they are beside learned ones; what windows of one
    and of three tokens say, the maximum over the places, a linear layer.

    Args:
        size: number of tokens, with the padding.
        vectors: float (size, V), the given vectors of the tokens, or None.
        learned, filters: numbers of each token that are learned, and filters of each width.
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

    def _vectors(self, ids: Tensor) -> Tensor:
        x: Tensor = self.learned(ids)
        return x if self.given is None else torch.cat([x, self.given[ids.long()].to(x.dtype)], -1)

    def places(self, ids: Tensor) -> Tensor:
        """(B, L) -> (B, L, 2 x filters): what is said around each token, at least 0; 0 where there is none."""
        there = (ids != 0)[..., None]
        x = self.drop(self._vectors(ids) * there).transpose(1, 2)
        return torch.cat([torch.relu(one(x)) for one in self.windows], 1).transpose(1, 2) * there

    def parts(self, ids: Tensor, toward: Tensor) -> Tensor:
        """What each token of texts (B, L) adds to the product of their vectors with `toward` (B, D); (B, L).

        Each filter's maximum is the token's around which it was found; what the last bias adds is no token's.
        """
        places = self.places(ids)
        best, at = places.max(1)  # (B, C)
        return torch.zeros_like(places[..., 0]).scatter_add(1, at, best * (toward @ self.out.weight))

    def forward(self, ids: Tensor) -> Tensor:
        """(B, L) -> (B, dimensions)."""
        best = self._best(ids) if self.training else self.places(ids).amax(1)
        found: Tensor = self.out(self.drop(best))
        return found

    def _best(self, ids: Tensor) -> Tensor:
        """The maximum over `places`, (B, 2 x filters), of all texts in one row: 2.5 times as fast."""
        there = ids != 0
        count = there.sum(1)
        place = (torch.cumsum(count + 1, 0) - count - 1)[:, None] + torch.cumsum(there, 1) - 1
        row = ids.new_zeros(int(count.sum()) + len(ids))  # each text and an empty place
        row[place[there]] = ids[there]
        some = (row != 0)[:, None]
        x = self.drop(self._vectors(row) * some).T[None]
        said = torch.relu(torch.cat([one(x)[0] for one in self.windows])).T.float() * some
        return torch.segment_reduce(said, "max", lengths=count + 1, axis=0)


class TwoTexts(nn.Module):
    """Two towers of texts, or one for both sides; with a `judge` also whether two texts say the same.

    Args:
        first, second: towers, ``forward(ids)`` -> (B, dimensions); they may be the same.
        shared: mean and deviation (2, F) of what two texts share, in numbers: then there is a judge.
        words: share of the tokens that are left out in training.
        gamma: on the cosines; 0: learned.
    """

    head = "judge"

    def __init__(
        self,
        first: nn.Module,
        second: nn.Module,
        *,
        shared: Tensor | None = None,
        words: float = 0.0,
        gamma: float = 0.0,
    ) -> None:
        super().__init__()
        self.first, self.words, self.gamma = first, words, Gamma(gamma)
        self.second = None if second is first else second
        self.judge = nn.Sequential()
        if shared is not None:
            self.register_buffer("scale", shared.float())
            self.judge = nn.Sequential(nn.Linear(shared.shape[1] + 1, 16), nn.Tanh(), nn.Linear(16, 1))
            for p in self.judge.parameters():
                p.lr_factor = 10.0  # type: ignore[attr-defined]  # few numbers, that begin with what they mean

    def forward_features(self, x: Tensor) -> Tensor:
        """Texts (B, L) or (B, L, T) -> (B, D), of length 1."""
        return text_vectors(self.first, x)

    def forward(self, x: Tensor, texts: Tensor | None = None, shared: Tensor | None = None) -> dict[str, Any]:
        """``first`` (B, D), and of `texts` (B, K, L) ``second`` (B, K, D); of `shared` (B, F) ``logit`` (B,)."""
        made = {"first": text_vectors(self.first, x, self.words), "gamma": self.gamma()}
        if texts is not None:
            found = text_vectors(self.second or self.first, texts.flatten(0, 1), self.words)
            made["second"] = found.unflatten(0, texts.shape[:2])
        if shared is not None and texts is not None:
            cosine = (made["first"] * made["second"][:, 0]).sum(1, keepdim=True)
            scale: Tensor = self.scale  # type: ignore[assignment]
            made["logit"] = self.judge(torch.cat([(shared - scale[0]) / scale[1], 3 * cosine], 1).float())[:, 0]
        return made
