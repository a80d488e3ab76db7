"""A game that a run plays, as a film: what people see, and beside it what in the frames speaks for the action."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw

from neocog.errors import UsageError
from neocog.files import write_atomically
from neocog.fit.predicting import Run
from neocog.look.explaining import of_claim
from neocog.look.subject import Subject
from neocog.page import gif
from neocog.records import Preprocess
from neocog.tasks.play import Play, Player

_HEIGHT, _LINE = 216, 16
NEW = 3 << 40  # seeds from here on belong to no split


@dataclass(frozen=True, slots=True)
class Film:
    """A game that was played.

    Attributes:
        pictures: uint8 (T, H, W, 3), with a line on what is done. reward: the score. steps: of the whole game.
        actions: what was done, by name. values: float32 (T, actions), what the net expected of each.
    """

    pictures: np.ndarray = field(repr=False)
    reward: float
    steps: int
    actions: tuple[str, ...] = field(repr=False)
    values: np.ndarray = field(repr=False)

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write it as a GIF. Raises: UsageError: another ending."""
        out = Path(os.path.abspath(path))
        if out.suffix.lower() != ".gif":
            raise UsageError(f"expected a file that ends in .gif, got {out.name!r}")
        out.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(out, gif(self.pictures))
        return out


def film(run: Any, seed: int = NEW, *, method: str | None = None, most: int = 1000, device: str | None = None) -> Film:
    """Let a run of the task play play one game.

    Args:
        run: a `Run` or its folder. seed: of the game.
        method: one of ``look.METHODS``, for a map beside each frame of what speaks for the action; None: no map.
        most: steps that are shown; the score is that of the whole game.

    Raises: UsageError: the run is of another task; no such method.
    """
    run = run if isinstance(run, Run) else Run(run)
    task = run.task
    if not isinstance(task, Play):
        raise UsageError(f"{run.folder} was trained for the task {task.name}; the task play plays games")
    frames, side = task.how["frames"], run.spec["input_size"]
    pre = Preprocess(side, side, channels=frames, mean=(0.0,) * frames, std=(1.0,) * frames)
    seen = Subject(run.net(), pre, task, name=str(run.folder), device=device)
    with torch.no_grad():
        player = Player(task, seen.net, np.array([seed]), seen.device.torch)
    pictures: list[np.ndarray] = []
    actions: list[str] = []
    values: list[np.ndarray] = []
    reward = 0.0
    while len(player.playing):
        if len(pictures) < most:
            action, value = int(player.actions[0]), player.values[0]
            parts = [_high(player.games.picture(0))]
            if method is not None:
                x = torch.from_numpy(player.frames).to(seen.device.torch) / 255.0
                claim = task.claim(torch.from_numpy(player.values), None, task.actions[action])  # type: ignore[arg-type]
                parts.append(_high(of_claim(seen, x, claim, method).draw()))
            line = f"{task.actions[action]}  {value[action]:.2f}  score {reward:g}"
            pictures.append(_with_line(np.concatenate(parts, 1), line))
            actions.append(task.actions[action])
            values.append(value)
        with torch.no_grad():
            reward += float(player.step()[1][0])
    if len(pictures) == player.time:  # how it ended
        last = _high(player.games.picture(0))
        wide = np.zeros((last.shape[0], pictures[0].shape[1], 3), np.uint8)
        wide[:, : last.shape[1]] = last
        pictures.append(_with_line(wide, f"score {reward:g}"))
    return Film(np.stack(pictures), reward, player.time, tuple(actions), np.stack(values))


def _high(picture: np.ndarray) -> np.ndarray:
    height, width = picture.shape[:2]
    size = (round(width * _HEIGHT / height), _HEIGHT)
    return np.asarray(Image.fromarray(picture).resize(size, Image.Resampling.NEAREST))


def _with_line(picture: np.ndarray, line: str) -> np.ndarray:
    image = Image.new("RGB", (picture.shape[1], picture.shape[0] + _LINE))
    image.paste(Image.fromarray(picture), (0, 0))
    ImageDraw.Draw(image).text((4, picture.shape[0] + 2), line, fill=(255, 255, 255))
    return np.asarray(image)
