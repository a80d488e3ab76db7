"""What a game is: pixels, actions and rewards, several games of one kind side by side.

A game is a function of its seed and of the actions: nothing else is random. So one that was interrupted is gone back
to by its seed and what was done since, and a training on games can be resumed bit for bit.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar, NamedTuple

import numpy as np


def draws(count: int, *key: int | np.ndarray) -> np.ndarray:
    """`count` numbers in [0, 1) as a function of the key, float64 (count,), or (N, count) for keys of shape (N,).

    Source: the finaliser of SplitMix64 (Steele, Lea and Flood 2014), on a counter.
    """
    with np.errstate(over="ignore"):
        x = np.zeros(np.broadcast_shapes(*(np.shape(one) for one in key)), np.uint64)
        for one in key:
            x = _mixed(x + np.asarray(one).astype(np.uint64))
        return (_mixed(x[..., None] + np.arange(count, dtype=np.uint64)) >> np.uint64(11)) / float(1 << 53)


def _mixed(x: np.ndarray) -> np.ndarray:
    x = x + np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


class Stepped(NamedTuple):
    """What a step of some games brought: rewards float32 (n,), and bool (n,) which are over, which have lost a life."""

    rewards: np.ndarray
    over: np.ndarray
    lost: np.ndarray


class Games(ABC):
    """`count` games of one kind side by side. Those that are meant are named by their places, int (n,).

    Attributes:
        actions: what can be done, by name.
        shape: height and width of a frame.
        longest: steps after which a game is over in any case.
        seen: games of the validation and the test split.
        start, explore, epoch: frames played at random before learning, frames over which exploration fades, and steps
            of learning in an epoch, where the user says nothing.
    """

    actions: tuple[str, ...]
    shape: tuple[int, int]
    longest: int = 200
    seen: ClassVar[tuple[int, int]] = (100, 200)
    start: ClassVar[int] = 1_000
    explore: ClassVar[int] = 5_000
    epoch: ClassVar[int] = 1_000

    def __init__(self, count: int) -> None:
        self.count = count

    @abstractmethod
    def begin(self, which: np.ndarray, seeds: np.ndarray) -> None:
        """Begin games anew, each as its seed (int64 (n,), 0 or more) says."""

    @abstractmethod
    def step(self, which: np.ndarray, actions: np.ndarray) -> Stepped:
        """Do one action, int (n,), in each of some games."""

    @abstractmethod
    def frames(self, which: np.ndarray) -> np.ndarray:
        """What the net sees of some games, uint8 (n, H, W)."""

    def picture(self, one: int) -> np.ndarray:
        """A game as people see it, uint8 (H, W, 3)."""
        return np.repeat(self.frames(np.array([one]))[0][..., None], 3, axis=2)
