"""What a game is: pixels, actions and rewards, several games of one kind side by side.

A game is a function of its seed and of the actions: nothing else is random. So one that was interrupted is gone back
to by its seed and what was done since, and a training on games can be resumed bit for bit.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar, NamedTuple

import numpy as np


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
