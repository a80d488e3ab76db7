"""The replay of games: what was seen, done and won, in a file of the run folder, so that a training resumes with it.

One record for each step of each game. A frame is kept once; what the net reads, the last few frames, is put together
when it is drawn. The file is a ring with room for as many further steps as are played between two checkpoints: what a
checkpoint may still draw is not written over, and what was written after it is written again, equally.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

import numpy as np

from neocog.errors import RunError

_BLOCK = 1024  # priorities whose sums are kept


class Drawn(NamedTuple):
    """Some steps: frames before and after uint8 (B, F, H, W), action, the discounted rewards between, what the value
    after counts (0 where the game was over), and their places in the replay."""

    before: np.ndarray
    action: np.ndarray
    reward: np.ndarray
    after: np.ndarray
    discount: np.ndarray
    places: np.ndarray


class Replay:
    """The last `length` steps of `games` games.

    Args:
        file: made, with its whole size, if it is not there.
        room: further steps between two checkpoints.
        frames: that are read together.

    Attributes:
        time: steps played so far.

    Raises: RunError: there is no room on the disk.
    """

    def __init__(self, file: Path, games: int, length: int, room: int, shape: tuple[int, int], frames: int) -> None:
        self.length, self.games, self.frames, self.time = length, games, frames, 0
        self.size = length + room + 2
        record = np.dtype([("frame", "u1", shape), ("action", "u1"), ("first", "?"), ("over", "?"), ("reward", "<f4")])
        size = record.itemsize * self.size * games
        if not file.exists() or file.stat().st_size != size:
            try:
                with file.open("wb") as out:
                    os.truncate(out.fileno(), size) if not hasattr(os, "posix_fallocate") else os.posix_fallocate(
                        out.fileno(), 0, size
                    )
            except OSError as error:
                file.unlink(missing_ok=True)
                raise RunError(
                    f"the replay takes {size / 1e9:.1f} GB in {file.parent}, which cannot be written "
                    f"({error.strerror}); --task-option replay=N keeps fewer frames"
                ) from None
        self.ring = np.memmap(file, record, "r+", shape=(self.size, games))

    def see(self, frames: np.ndarray, first: np.ndarray) -> None:
        """What is seen now, uint8 (games, H, W), and which games have just begun, bool (games,)."""
        row = self.ring[self.time % self.size]
        row["frame"], row["first"] = frames, first

    def note(self, actions: np.ndarray, rewards: np.ndarray, over: np.ndarray) -> None:
        """What was done, what it brought, and which games it ended; time goes on."""
        row = self.ring[self.time % self.size]
        row["action"], row["reward"], row["over"] = actions, rewards, over
        self.time += 1

    def stacked(self, times: np.ndarray, games: np.ndarray) -> np.ndarray:
        """The last frames up to some times, uint8 (B, F, H, W), the latest last; 0 before a game began."""
        back = times[:, None] - np.arange(self.frames)  # (B, F), the latest first
        first = self.ring["first"][back % self.size, games[:, None]] | (back <= 0)
        there = np.ones(back.shape, bool)
        there[:, 1:] = ~np.logical_or.accumulate(first[:, :-1], axis=1)
        found = self.ring["frame"][back % self.size, games[:, None]] * there[..., None, None]
        return np.ascontiguousarray(found[:, ::-1])

    def now(self) -> np.ndarray:
        """What each game shows, uint8 (games, F, H, W)."""
        return self.stacked(np.full(self.games, self.time), np.arange(self.games))

    def steps(self, ahead: int) -> tuple[int, int]:
        """The first time that can be drawn, and how many, if `ahead` steps follow each."""
        low = max(0, self.time - self.length)
        return low, max(0, self.time - ahead + 1 - low)

    def draw(self, times: np.ndarray, games: np.ndarray, ahead: int, discount: float) -> Drawn:
        """Steps, and what came `ahead` steps later."""
        following = (times[:, None] + np.arange(ahead)) % self.size
        column = games[:, None]
        rewards, over = self.ring["reward"][following, column], self.ring["over"][following, column]
        alive = np.ones((len(times), ahead + 1), np.float32)
        alive[:, 1:] = np.cumprod(~over, axis=1)
        factors = np.float32(discount) ** np.arange(ahead, dtype=np.float32)
        return Drawn(
            self.stacked(times, games),
            self.ring["action"][times % self.size, games].astype(np.int64),
            (rewards * factors * alive[:, :-1]).sum(1, dtype=np.float32),
            self.stacked(times + ahead, games),
            alive[:, -1] * np.float32(discount**ahead),
            (times % self.size) * self.games + games,
        )


class Priorities:
    """How much is to be learned of each place of a replay; a place is drawn as often as its share says.

    Sums of blocks are kept, so that a draw among a million takes two short searches.
    """

    def __init__(self, places: int) -> None:
        self.values = np.zeros((-(-places // _BLOCK), _BLOCK))
        self.sums = np.zeros(len(self.values))
        self.most = 1.0

    def set(self, places: np.ndarray, values: np.ndarray | float) -> None:
        """New values of some places."""
        block, inner = np.divmod(places, _BLOCK)
        self.values[block, inner] = values
        self.most = max(self.most, float(np.max(values)))
        block = np.unique(block)
        self.sums[block] = self.values[block].sum(1)

    def draw(self, chances: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Places, int (B,), for numbers in [0, 1), and the share that each has."""
        ends = np.cumsum(self.sums)
        wanted = chances * ends[-1]
        block = np.minimum(np.searchsorted(ends, wanted, side="right"), len(ends) - 1)
        inner_ends = np.cumsum(self.values[block], axis=1)
        rest = wanted - (ends[block] - self.sums[block])
        inner = np.minimum((inner_ends <= rest[:, None]).sum(1), _BLOCK - 1)
        return block * _BLOCK + inner, self.values[block, inner] / ends[-1]
