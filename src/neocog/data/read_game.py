"""Games as inputs: a sample is a game that is played from its beginning, named by its seed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from neocog.data.games import make_games
from neocog.data.kinds import Column, digest
from neocog.data.reader import Reader, register
from neocog.data.source import Source
from neocog.errors import DataError, UsageError
from neocog.page import Html, text

_TRAIN = 10_000  # training games that have a name; there is no end of them


class Seeds(Column):
    """The seed of each game, int64 (N,)."""

    kind = "seed"

    def __init__(self, values: np.ndarray) -> None:
        self.values, self._present = values, np.ones(len(values), dtype=bool)

    def __getitem__(self, i: int) -> int:
        return int(self.values[i])

    def select(self, rows: np.ndarray) -> Seeds:
        return Seeds(self.values[rows])

    def fingerprint(self) -> bytes:
        return digest(self.values)


class Episodes(Source):
    """Games of one kind, ``game:catch`` or ``atari:pong``; those of validation and test have seeds of their own."""

    kind = "game"
    drawn = True

    def __init__(self, spec: str) -> None:
        self.spec = spec
        counts = (_TRAIN, *make_games(spec, 1).seen)
        splits = np.repeat(np.arange(3), counts)
        self.seeds = Seeds(np.concatenate([np.arange(n) + k * (1 << 40) for k, n in enumerate(counts)]))
        super().__init__(spec.partition(":")[2], (), np.full(len(splits), -1), splits, columns={"seed": self.seeds})

    def read(self, i: int) -> int:
        return self.seeds[i]


@register
class GameReader(Reader):
    """The seed of a game, which is played from there; while it is learned, the last `frames` frames of one.

    Args:
        game: ``game:catch``, ``atari:pong``.
    """

    kind = "game"
    about = "games: catch, paddle and maze are built in, Atari's with the extra 'atari'"
    net = "dqn_2013"  # a third of the arithmetic of dqn_2015, so more games in the same time
    recipe = "play"
    pictures = True
    kept = ("game", "frames")

    def __init__(self, game: str, frames: int) -> None:
        self.game, self.frames = game, frames

    @classmethod
    def plan(cls, source: Source, rows: np.ndarray, options: Mapping[str, Any]) -> GameReader:
        return cls(source.spec, 4)  # type: ignore[attr-defined]  # of a source of this kind

    @property
    def shape(self) -> tuple[int, ...]:
        return (self.frames, *make_games(self.game, 1).shape)

    def encode(self, raw: Any) -> np.ndarray:
        if not isinstance(raw, (int, np.integer)) or raw < 0:
            raise DataError(f"expected the seed of a game, a whole number of at least 0, got {str(raw)[:40]!r}")
        return np.array([raw], np.int64)

    def collate(self, arrays: Sequence[np.ndarray]) -> Tensor:
        return torch.from_numpy(np.stack(arrays))

    def inputs(self, given: Iterable[Any]) -> Iterator[tuple[str, Any]]:
        """Seeds, as numbers or as they are typed."""
        for one in given:
            if not isinstance(one, (int, np.integer)) and not str(one).isdigit():
                given = repr(one[:40] if isinstance(one, (str, bytes)) else one)
                raise UsageError(f"a run on games plays them: 'neocog play RUN', or the seed of a game, not {given}")
            yield f"game {one}", int(one)

    def show(self, raw: Any) -> Html:
        return text(f"game {raw}")
