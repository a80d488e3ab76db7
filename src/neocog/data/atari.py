"""Atari's games by the Arcade Learning Environment (extra ``atari``), prepared as in Mnih et al. 2015.

An action is done for four frames of the emulator. A frame that the net sees is the brightness of the last two of these,
the larger of each pixel (things flicker), scaled from 160x210 to 84x84 by areas. A game begins with up to 30 actions of
doing nothing, as its seed says. Sticky actions are off, as there.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from neocog.data.chance import draws
from neocog.data.game import Games, Stepped
from neocog.data.pictures import workers
from neocog.errors import DataError, UsageError, closest

_SKIP, _IDLE = 4, 30


class Atari(Games):
    """Emulators side by side, by threads.

    Args:
        name: of a game, such as pong.

    Raises: UsageError: there is no such game. DataError: ale-py is not installed.
    """

    shape = (84, 84)
    longest = 4_500  # five minutes at 60 frames a second, as the papers judge
    seen = (4, 8)
    start = 5_000
    explore = 60_000
    epoch = 5_000

    def __init__(self, name: str, count: int) -> None:
        super().__init__(count)
        try:
            import ale_py
            from ale_py import roms
        except ImportError:
            raise DataError("Atari's games need ale-py; install it with: pip install 'neocog[atari]'") from None
        if name not in roms.get_all_rom_ids():
            raise UsageError(
                f"unknown game atari:{name}{closest(name, roms.get_all_rom_ids())}; "
                "expected one such as atari:pong, breakout, space_invaders, ms_pacman or seaquest"
            )
        ale_py.ALEInterface.setLoggerMode(ale_py.LoggerMode.Error)
        self.emulators: list[Any] = []
        for _ in range(count):
            one = ale_py.ALEInterface()
            one.setInt("random_seed", 0)
            one.setFloat("repeat_action_probability", 0.0)
            one.loadROM(str(roms.get_rom_path(name)))
            self.emulators.append(one)
        self._set = self.emulators[0].getMinimalActionSet()
        self.actions = tuple(action.name.lower() for action in self._set)
        self.time, self.lives = np.zeros(count, np.int64), np.zeros(count, np.int64)
        self._screens = np.zeros((count, 2, *self.emulators[0].getScreenDims()), np.uint8)
        height, width = self._screens.shape[2:]
        self._rows, self._columns = _areas(height, self.shape[0]), _areas(width, self.shape[1])
        self._seen = np.zeros((count, *self.shape), np.uint8)
        self._pool = ThreadPoolExecutor(min(count, workers())) if count > 1 else None

    def begin(self, which: np.ndarray, seeds: np.ndarray) -> None:
        idle = 1 + (draws(1, seeds)[:, 0] * _IDLE).astype(int)
        self._each(self._begin, which, idle)
        self.time[which] = 0

    def step(self, which: np.ndarray, actions: np.ndarray) -> Stepped:
        before = self.lives[which]
        rewards = np.array(self._each(self._act, which, actions), np.float32)
        self.time[which] += 1
        over = np.array([self.emulators[one].game_over() for one in which], bool) | (self.time[which] >= self.longest)
        return Stepped(rewards, over, over | (self.lives[which] < before))

    def frames(self, which: np.ndarray) -> np.ndarray:
        return self._seen[which]

    def picture(self, one: int) -> np.ndarray:
        return np.asarray(self.emulators[one].getScreenRGB())

    def _each(self, do: Any, which: np.ndarray, values: np.ndarray) -> list[float]:
        return list((map if self._pool is None else self._pool.map)(do, which.tolist(), values.tolist()))

    def _begin(self, one: int, idle: int) -> float:
        emulator = self.emulators[one]
        emulator.reset_game()
        for _ in range(idle):
            emulator.act(0)
            if emulator.game_over():
                emulator.reset_game()
        emulator.getScreenGrayscale(self._screens[one, 0])
        self._screens[one, 1] = self._screens[one, 0]
        self.lives[one] = emulator.lives()
        self._look(one)
        return 0.0

    def _act(self, one: int, action: int) -> float:
        emulator, reward = self.emulators[one], 0.0
        for k in range(_SKIP):
            reward += emulator.act(self._set[action])
            if k >= _SKIP - 2:
                emulator.getScreenGrayscale(self._screens[one, k - _SKIP + 2])
            if emulator.game_over():
                break
        self.lives[one] = emulator.lives()
        self._look(one)
        return reward

    def _look(self, one: int) -> None:
        larger = self._screens[one].max(0).astype(np.float32)
        self._seen[one] = (self._rows @ larger @ self._columns.T).round()


def _areas(fine: int, coarse: int) -> np.ndarray:
    """The share of each of `fine` pixels in each of `coarse`, float32 (coarse, fine)."""
    edges = np.arange(coarse + 1) * fine / coarse
    inside = np.clip(edges[:, None] - np.arange(fine), 0, 1)  # of each fine pixel, before an edge
    return (np.diff(inside, axis=0) * coarse / fine).astype(np.float32)
