"""Clips of Atari play, as folders of frames, with exact labels: which game is it, and is the ball going up or down?

    python scripts/make_atari_clips.py FOLDER [--games 100] [--ball 300] [--seed 0]      (extra atari)
    neocog train clips:FOLDER/games
    neocog train clips:FOLDER/ball --input-option size=70 --input-option frames=8

A player presses buttons at random, each for up to eight frames. A clip is 8 screens, 2 frames of the emulator apart (at
60 a second): the playing field, 160x160 pixels of 160x210. Where the ball of Pong and Breakout is stands in the
console's memory; a clip counts if the ball is there and goes one way all the time, 8 pixels or more. Up and down are
equally many in each game. A fifth of the rounds of play is the test, so that no round is in both splits.
"""

from __future__ import annotations

import argparse
from collections import Counter, deque
from collections.abc import Iterator
from pathlib import Path

import ale_py
import numpy as np
from ale_py import roms
from PIL import Image

GAMES = ("breakout", "freeway", "ms_pacman", "pong", "seaquest", "space_invaders")
BALL = {"pong": 54, "breakout": 101}  # the byte of memory with its height, from the top (Anand et al. 2019)
FRAMES, SKIP, LEAST, HELD = 8, 2, 8, 8
FIELD = slice(34, 194)  # rows
ROUND = 1200  # frames of the emulator in a round of play


def play(game: str, number: int, seed: int) -> Iterator[tuple[np.ndarray, int]]:
    """Yield screens uint8 (160, 160, 3) of a round, with the height of its ball (0: there is none)."""
    random = np.random.default_rng((seed, number, *game.encode()))
    emulator = ale_py.ALEInterface()
    emulator.setInt("random_seed", int(random.integers(1 << 30)))
    emulator.setFloat("repeat_action_probability", 0.0)
    emulator.loadROM(str(roms.get_rom_path(game)))
    actions, held = emulator.getMinimalActionSet(), 0
    action = actions[0]
    for frame in range(ROUND):
        if not held:
            action, held = actions[int(random.integers(len(actions)))], int(random.integers(1, HELD + 1))
        emulator.act(action)
        held -= 1
        if emulator.game_over():
            return
        if frame % SKIP == 0:
            yield emulator.getScreenRGB()[FIELD], int(emulator.getRAM()[BALL[game]]) if game in BALL else 0


def clips(game: str, number: int, seed: int, ball: bool) -> Iterator[tuple[str, list[np.ndarray]]]:
    """Yield (label, screens) of the clips of a round: of the ball, or every 40th screen of the game."""
    seen: deque[tuple[np.ndarray, int]] = deque(maxlen=FRAMES)
    for at, one in enumerate(play(game, number, seed)):
        seen.append(one)
        heights = np.array([height for _, height in seen])
        if len(seen) < FRAMES or (not ball and at % 40):
            continue
        steps = np.diff(heights)
        if not ball:
            yield game, [screen for screen, _ in seen]
        elif heights.all() and abs(steps.sum()) >= LEAST and (abs(np.sign(steps).sum()) == FRAMES - 1):
            yield "down" if steps[0] > 0 else "up", [screen for screen, _ in seen]
            seen.clear()


def write(out: Path, game: str, seed: int, most: dict[str, int], ball: bool) -> None:
    """Write the clips of a game: so many of each label for training, and a quarter of that for the test."""
    made: Counter[tuple[str, str]] = Counter()
    for number in range(100_000):
        split = "train" if number % 5 else "test"
        wanted = {label: count if split == "train" else count // 4 for label, count in most.items()}
        for label, screens in clips(game, number, seed, ball):
            if made[split, label] < wanted[label]:
                folder = out / split / label / f"{game}-{number}-{made[split, label]}"
                folder.mkdir(parents=True)
                for k, screen in enumerate(screens):
                    Image.fromarray(screen).save(folder / f"{k}.png")
                made[split, label] += 1
        if sum(made.values()) == sum(count + count // 4 for count in most.values()):
            break
    print(out.name, game, dict(made), f"{number + 1} rounds", flush=True)


def main() -> None:
    """Write both sets."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--games", type=int, default=100, help="training clips of each of six games")
    parser.add_argument("--ball", type=int, default=300, help="training clips of each direction, of each of two games")
    parser.add_argument("--seed", type=int, default=0)
    how = parser.parse_args()
    ale_py.ALEInterface.setLoggerMode(ale_py.LoggerMode.Error)
    for game in GAMES:
        write(how.folder / "games", game, how.seed, {game: how.games}, ball=False)
    for game in BALL:
        write(how.folder / "ball", game, how.seed, {"up": how.ball, "down": how.ball}, ball=True)


if __name__ == "__main__":
    main()
