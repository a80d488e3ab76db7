"""The built-in games, in NumPy: catch, paddle and maze; and any game by its name."""

from __future__ import annotations

from abc import abstractmethod

import numpy as np

from neocog.data.chance import draws
from neocog.data.game import Games, Stepped
from neocog.errors import UsageError, closest

_CELLS, _PIXELS = 12, 3  # of the built-in games: 12 x 12 cells of 3 x 3 pixels


class _Cells(Games):
    """Games on a square of cells; `cells` are their brightness, uint8 (count, 12, 12), drawn by `_draw`."""

    shape = (_CELLS * _PIXELS, _CELLS * _PIXELS)

    def __init__(self, count: int) -> None:
        super().__init__(count)
        self.cells = np.zeros((count, _CELLS, _CELLS), np.uint8)
        self.seeds = np.zeros(count, np.int64)
        self.time = np.zeros(count, np.int64)

    def begin(self, which: np.ndarray, seeds: np.ndarray) -> None:
        self.seeds[which], self.time[which] = seeds, 0
        self._begin(which, draws(8, seeds))
        self._draw(which)

    def step(self, which: np.ndarray, actions: np.ndarray) -> Stepped:
        self.time[which] += 1
        rewards, over = self._step(which, np.asarray(actions))
        over |= self.time[which] >= self.longest
        self._draw(which)
        return Stepped(rewards.astype(np.float32), over, over)

    def frames(self, which: np.ndarray) -> np.ndarray:
        return self.cells[which].repeat(_PIXELS, 1).repeat(_PIXELS, 2)

    @abstractmethod
    def _begin(self, which: np.ndarray, chance: np.ndarray) -> None: ...

    @abstractmethod
    def _step(self, which: np.ndarray, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray]: ...

    @abstractmethod
    def _draw(self, which: np.ndarray) -> None: ...


class Catch(_Cells):
    """A ball falls straight down; a paddle of three cells at the bottom must be there: 1, else -1. Eleven steps."""

    actions = ("stay", "left", "right")

    def _begin(self, which: np.ndarray, chance: np.ndarray) -> None:
        if not hasattr(self, "x"):
            self.x, self.y, self.paddle = (np.zeros(self.count, np.int64) for _ in range(3))
        self.x[which] = (chance[:, 0] * _CELLS).astype(np.int64)
        self.y[which], self.paddle[which] = 0, 1 + (chance[:, 1] * (_CELLS - 2)).astype(np.int64)

    def _step(self, which: np.ndarray, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        self.paddle[which] = np.clip(self.paddle[which] + np.array([0, -1, 1])[actions], 1, _CELLS - 2)
        self.y[which] += 1
        over = self.y[which] == _CELLS - 1
        caught = np.abs(self.x[which] - self.paddle[which]) <= 1
        return np.where(over, np.where(caught, 1.0, -1.0), 0.0), over

    def _draw(self, which: np.ndarray) -> None:
        self.cells[which] = 0
        for offset in (-1, 0, 1):
            self.cells[which, _CELLS - 1, self.paddle[which] + offset] = 128
        self.cells[which, self.y[which], self.x[which]] = 255


class Paddle(_Cells):
    """A ball bounces off three walls and the paddle: 1 each time it is returned. It ends after ten, or when it is lost.

    Where it is returned to is chance, so that nothing can be learned by heart.
    """

    actions = ("stay", "left", "right")

    def _begin(self, which: np.ndarray, chance: np.ndarray) -> None:
        if not hasattr(self, "x"):
            self.x, self.y, self.dx, self.dy, self.paddle, self.hits = (
                np.zeros(self.count, np.int64) for _ in range(6)
            )
        self.x[which], self.y[which] = (chance[:, 0] * _CELLS).astype(np.int64), 2
        self.dx[which], self.dy[which] = np.where(chance[:, 1] < 0.5, -1, 1), 1
        self.paddle[which], self.hits[which] = 1 + (chance[:, 2] * (_CELLS - 2)).astype(np.int64), 0

    def _step(self, which: np.ndarray, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        self.paddle[which] = np.clip(self.paddle[which] + np.array([0, -1, 1])[actions], 1, _CELLS - 2)
        x, y = self.x[which] + self.dx[which], self.y[which] + self.dy[which]
        wall = (x < 0) | (x >= _CELLS)
        self.dx[which] = np.where(wall, -self.dx[which], self.dx[which])
        x = np.where(wall, self.x[which] + self.dx[which], x)
        self.dy[which] = np.where(y == 0, 1, self.dy[which])
        there = y == _CELLS - 2  # the row above the paddle
        hit = there & (np.abs(x - self.paddle[which]) <= 2)
        turn = draws(1, self.seeds[which], self.hits[which] + 1)[:, 0]
        self.dx[which] = np.where(hit, np.where(turn < 0.5, -1, 1), self.dx[which])
        self.dy[which] = np.where(hit, -1, self.dy[which])
        self.hits[which] += hit
        self.x[which], self.y[which] = x, y
        return hit.astype(np.float32), (there & ~hit) | (self.hits[which] == 10)

    _draw = Catch._draw


class Maze(_Cells):
    """Find the way to the bright cell: 1 when there, -0.02 for each step; over after 60. Every game is another maze."""

    actions = ("up", "down", "left", "right")
    longest = 60
    explore = 50_000
    _rooms = 5  # each way, with walls between them: 11 x 11 cells

    def _begin(self, which: np.ndarray, chance: np.ndarray) -> None:
        if not hasattr(self, "walls"):
            self.walls = np.ones((self.count, _CELLS, _CELLS), bool)
            self.at, self.goal = np.zeros((self.count, 2), np.int64), np.zeros((self.count, 2), np.int64)
        n = self._rooms
        for one, seed in zip(which, self.seeds[which], strict=True):
            self.walls[one] = _maze(n, int(seed))
            first, second = np.argsort(draws(n * n, int(seed), 1))[:2]
            self.at[one], self.goal[one] = ([1 + 2 * (k // n), 1 + 2 * (k % n)] for k in (first, second))

    def _step(self, which: np.ndarray, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        there = self.at[which] + np.array([(-1, 0), (1, 0), (0, -1), (0, 1)])[actions]
        free = ~self.walls[which, there[:, 0], there[:, 1]]
        self.at[which] = np.where(free[:, None], there, self.at[which])
        over = (self.at[which] == self.goal[which]).all(1)
        return np.where(over, 1.0, -0.02), over

    def _draw(self, which: np.ndarray) -> None:
        self.cells[which] = 64 * self.walls[which]
        self.cells[which, self.goal[which, 0], self.goal[which, 1]] = 255
        self.cells[which, self.at[which, 0], self.at[which, 1]] = 160


def _maze(rooms: int, seed: int) -> np.ndarray:
    """Walls, bool (12, 12): a spanning tree of rooms (each wall that joins two parts goes, in an order by chance)."""
    walls = np.ones((_CELLS, _CELLS), bool)
    part = np.arange(rooms * rooms)
    walls[1 : 2 * rooms : 2, 1 : 2 * rooms : 2] = False
    between = [(k, k + step) for k in range(rooms * rooms) for step in (1, rooms) if _neighbours(k, k + step, rooms)]
    for number in np.argsort(draws(len(between), seed, 2)):
        a, b = between[number]
        if part[a] != part[b]:
            part[part == part[b]] = part[a]
            walls[1 + a // rooms + b // rooms, 1 + a % rooms + b % rooms] = False
    return walls


def _neighbours(a: int, b: int, rooms: int) -> bool:
    return b < rooms * rooms and (b - a == rooms or a // rooms == b // rooms)


GAMES: dict[str, type[Games]] = {"catch": Catch, "paddle": Paddle, "maze": Maze}


def make_games(spec: str, count: int) -> Games:
    """`count` games by name: ``game:catch``, ``atari:pong``. Raises: UsageError: there is none of that name."""
    kind, _, name = spec.partition(":")
    if kind == "atari":
        from neocog.data.atari import Atari

        return Atari(name, count)
    if name not in GAMES:
        raise UsageError(
            f"unknown game {name!r}{closest(name, GAMES)}; expected one of {', '.join(f'game:{n}' for n in GAMES)}, or "
            "atari:NAME"
        )
    return GAMES[name](count)
