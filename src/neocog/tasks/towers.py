"""What the tasks that match texts have in common: towers by name, texts as targets, the loss of both directions."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from hashlib import blake2b
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from neocog.errors import UsageError, closest
from neocog.tasks.ranking import LOSSES, matching_loss
from neocog.tasks.task import Task
from neocog.text.tokens import Tokenizer, learn, load_tokenizer, normal
from neocog.text.vectors import table_for

TOWERS = {"sentence": "subwords", "dssm": "trigrams", "cdssm": "trigrams"}  # and the tokens that each reads
LONGEST = 64  # tokens of a text that are read


def learn_tokenizer(tower: str, texts: Iterable[str]) -> Tokenizer:
    """The tokenizer for a tower, of the training's texts. Raises: UsageError: no such tower."""
    if tower not in TOWERS:
        raise UsageError(f"unknown tower {tower!r}{closest(tower, TOWERS)}; expected one of {', '.join(TOWERS)}")
    return learn(TOWERS[tower], texts)


def build_tower(
    tower: str, tokenizer: Tokenizer, dimensions: int, learned: int = 64, filters: int = 256, dropout: float = 0.2
) -> nn.Module:
    """A tower with fresh weights: ``forward(ids)`` gives (B, dimensions)."""
    from neocog.nets.dssm import CDSSM, DSSM
    from neocog.nets.matching import Windows

    if tower == "dssm":
        return DSSM(tokenizer.size, dimensions)
    if tower == "cdssm":
        return CDSSM(tokenizer.size, dimensions)
    return Windows(tokenizer.size, dimensions, torch.from_numpy(table_for(tokenizer)), learned, filters, dropout)


def as_targets(tokenizer: Tokenizer, every: Sequence[Sequence[str]], least: int = 1) -> dict[str, Tensor]:
    """Several texts of each of B samples: ``tokens`` int32 (B, K, L) or (B, K, L, T), and ``codes`` int64 (B, K).

    Equal texts have equal codes; 0 is no text. K is at least `least`.
    """
    counts = np.array([len(of) for of in every], np.int64)
    place = np.arange(max(least, int(counts.max(initial=0)))) < counts[:, None]  # (B, K)
    flat = [text for of in every for text in of]
    ids = tokenizer.encode(flat, LONGEST)
    tokens = np.zeros((*place.shape, *ids.shape[1:]), np.int32)
    codes = np.zeros(place.shape, np.int64)
    if flat:
        tokens[place], codes[place] = ids, [_code(text) for text in flat]
    return {"tokens": torch.from_numpy(tokens), "codes": torch.from_numpy(codes)}


def _code(text: str) -> int:
    return int.from_bytes(blake2b(normal(text).strip().encode(), digest_size=8).digest(), "big", signed=True) or 1


class Matching(Task):
    """Which of one side belongs to which of the other, by vectors in one space."""

    goal = ("mean_recall", "max")
    figure = "mean recall"
    whole_batch = True
    views_back = False
    recipe = "towers"
    choices = {"loss": LOSSES}

    def __init__(self, tokenizer: Tokenizer, **options: Any) -> None:
        super().__init__(**options)
        self.tokenizer = tokenizer

    def to_json(self) -> dict[str, Any]:
        return {**super().to_json(), "tokenizer": self.tokenizer.to_json()}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Matching:
        return cls(**{**values, "tokenizer": load_tokenizer(values["tokenizer"])})

    def loss_of(self, cosines: Tensor, positive: Tensor, gamma: Tensor) -> Tensor:
        """The mean of the losses of both directions, see `matching_loss`."""
        options = {name: self.how[name] for name in ("loss", "margin", "negatives", "hard")}
        forward, backward = (
            matching_loss(c, p, gamma, **options) for c, p in ((cosines, positive), (cosines.T, positive.T))
        )
        return (forward + backward) / 2

    def error(self, figures: Mapping[str, Any]) -> float:
        p, n = figures[self.goal[0]], max(1, figures["n"])
        return math.sqrt(max(p * (1 - p), 0.0) / n) if math.isfinite(p) else 0.0

    def shown(self, value: float) -> str:
        return f"{100 * value:.1f} %"
