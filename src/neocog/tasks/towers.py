"""What the tasks that match texts have in common: tokenizers and towers by name, and texts as targets."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from hashlib import blake2b
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from neocog.errors import UsageError, closest
from neocog.text.tokens import Tokenizer, learn, normal
from neocog.text.vectors import table_for

TOWERS = {"sentence": "subwords", "dssm": "trigrams", "cdssm": "trigrams"}  # and the tokens that each reads
LONGEST = 64  # tokens of a text that are read


def learn_tokenizer(tower: str, texts: Iterable[str]) -> Tokenizer:
    """The tokenizer for a tower, of the training's texts. Raises: UsageError: no such tower."""
    if tower not in TOWERS:
        raise UsageError(f"unknown tower {tower!r}{closest(tower, TOWERS)}; expected one of {', '.join(TOWERS)}")
    kind = TOWERS[tower]
    return learn(kind, texts)


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


def chosen(settings: Mapping[str, Any], names: Iterable[str]) -> dict[str, Any]:
    """Some of the settings."""
    return {name: settings[name] for name in names}
