"""Games, by deep Q-learning: the net says what each action is worth, by the score that follows, and plays the best.

Mnih et al. 2013, Playing Atari with Deep Reinforcement Learning (arXiv:1312.5602), and 2015, Human-level control
through deep reinforcement learning (Nature 518); recipes ``paper-dqn-2013`` and ``paper-dqn-2015``. What came after is
a switch: double (van Hasselt et al. 2016), rewards of several steps (Sutton 1988), prioritised replay (Schaul et al.
2016), and in the net (``--net-option duelling=true``) the duelling head (Wang et al. 2016).

A batch of training is drawn from the replay of games that the net plays meanwhile (``tasks.experience``). In
evaluation a sample is a game, which the net plays from its seed to its end.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from neocog.charts import line_chart
from neocog.data.chance import draws
from neocog.data.game import Games
from neocog.data.games import make_games
from neocog.data.read_game import GameReader
from neocog.errors import UsageError
from neocog.page import Html, animation, paragraph
from neocog.tasks.answer import Answer, Claim, which
from neocog.tasks.experience import Computing, Experience
from neocog.tasks.task import Batch, Losses, Section, Seen, Source, Targets, Task, Warp, register

_FILM = 200  # frames of a game that a report shows
_CHANCE = 3  # what the random numbers of evaluation are for


@dataclass(frozen=True, slots=True)
class Played(Answer):
    """A game that a net has played: its score, and how many steps it took."""

    reward: float = 0.0
    steps: int = 0

    def row(self) -> dict[str, Any]:
        return {"reward": round(self.reward, 4), "steps": self.steps}

    def to_json(self) -> dict[str, Any]:
        return {"key": self.key, **self.row(), "problem": self.problem}


class Player:
    """A net that plays some games from their seeds to their ends, one step of all at a time.

    Attributes:
        games: the games. playing: places of those that are not over. values: float32 (n, actions), what the net says
            of the actions in each of them. actions: int (n,), what is done next.
    """

    def __init__(self, task: Play, net: nn.Module, seeds: np.ndarray, device: torch.device) -> None:
        self.task, self.net, self.seeds, self.device = task, net, seeds, device
        self.games = task.games(len(seeds))
        self.playing, self.time = np.arange(len(seeds)), 0
        self.games.begin(self.playing, seeds)
        self.frames = np.zeros((len(seeds), task.how["frames"], *self.games.shape), np.uint8)
        self._look(self.playing)

    def _look(self, which: np.ndarray) -> None:
        self.frames[which, :-1] = self.frames[which, 1:]
        self.frames[which, -1] = self.games.frames(which)
        if not len(which):
            return
        x = torch.from_numpy(self.frames[which]).to(self.device) / 255.0
        self.values = self.net(x).float().cpu().numpy()
        chance = draws(2, self.seeds[which], _CHANCE, self.time)
        at_random = (chance[:, 1] * self.values.shape[1]).astype(np.int64)
        self.actions = np.where(chance[:, 0] < self.task.how["tested"], at_random, self.values.argmax(1))

    def step(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Do it: which games it was done in, the rewards, and the differences to what the values had promised."""
        which, said = self.playing, self.values[np.arange(len(self.playing)), self.actions]
        found = self.games.step(which, self.actions)
        self.time += 1
        self.playing = which[~found.over]
        self._look(self.playing)
        after = np.zeros(len(which), np.float32)
        if len(self.playing):
            after[~found.over] = self.values.max(1)
        rewards = found.rewards.clip(-1, 1) if self.task.how["clip_rewards"] else found.rewards
        return which, found.rewards, rewards + self.task.how["discount"] * after - said


@register
class Play(Task):
    """What each action is worth in a game.

    Args:
        game: ``game:catch``, ``atari:pong``.
        actions: their names.
        how: the `options`, all with values.
    """

    name = "play"
    about = "how a game is played well: what each action is worth, by deep Q-learning"
    needs = {"seed": "seed"}
    inputs = ("game",)
    goal = ("reward", "max")
    figure = "mean reward of a game"
    mirrors = False
    views_back = False
    recipe = "play"
    precision = "float32"  # actions differ by little of what the game is worth: less than bfloat16 rounds off
    answer = Played
    options = {
        "frames": 4,  # that the net reads
        "games": 8,  # that are played side by side
        "acts": 4,  # frames played for each step of learning
        "replay": 100_000,  # frames that are kept
        "start": 0,  # frames played by chance before the first step; 0: as the game says
        "explore": 0,  # frames over which actions by chance become fewer; 0: as the game says
        "least": 0.02,  # share of actions by chance after that
        "tested": 0.001,  # and in evaluation
        "target": 500,  # steps after which the target net becomes the net
        "discount": 0.99,
        "steps": 3,  # whose rewards are added up before the value of what follows is asked for
        "double": True,  # the net chooses the action whose value the target net says
        "prioritised": False,  # what the net was wrong about is drawn more often,
        "alpha": 0.6,  # by this power of its error,
        "beta": 0.4,  # and counts less, by this power
        "clip_rewards": True,  # to -1 .. 1
        "clip_errors": True,  # beyond 1 the loss grows with the error, not its square
        "lives": True,  # a life lost ends the game, as far as values go
        "longest": 0,  # steps after which a game is over in any case; 0: as the game says
        "epoch": 0,  # steps of learning between two evaluations; 0: as the game says
    }

    def __init__(self, game: str, actions: Sequence[str], how: Mapping[str, Any]) -> None:
        super().__init__(**how)
        self.game, self.actions = game, tuple(actions)
        self.notes = (
            f"{len(self.actions)} actions: {', '.join(self.actions)}; exploration fades over {how['explore']:,} frames "
            f"(--task-option explore=N); an epoch is {how['epoch']:,} steps",
        )

    @classmethod
    def plan(cls, source: Source, rows: np.ndarray, settings: Mapping[str, Any]) -> Play:
        how = cls.chosen(settings)
        game: str = source.spec  # type: ignore[attr-defined]  # of a source of this kind
        games = make_games(game, 1)
        for name in ("start", "explore", "epoch", "longest"):
            how[name] = how[name] or getattr(games, name)
        for name in ("frames", "games", "acts", "target", "steps"):
            if how[name] < 1:
                raise UsageError(f"--task-option {name} must be at least 1, got {how[name]}")
        if how["replay"] < how["start"]:
            raise UsageError(f"replay={how['replay']} must hold the start={how['start']} frames played before learning")
        return cls(game, games.actions, how)

    def to_json(self) -> dict[str, Any]:
        return {"game": self.game, "actions": list(self.actions), "how": self.how}

    @property
    def outputs(self) -> int:
        return len(self.actions)

    def own_reader(self) -> GameReader:
        return GameReader(self.game, self.how["frames"])

    def games(self, count: int) -> Games:
        """So many games side by side."""
        made = make_games(self.game, count)
        made.longest = self.how["longest"]
        return made

    def feed(self, net: nn.Module, device: Computing, *, batch: int, seed: int, folder: Path) -> Experience:
        return Experience(self, net, device, batch=batch, seed=seed, folder=folder)

    # ---- a batch

    def collate(self, values: dict[str, Any], warp: Warp | None, valid: Tensor) -> Targets:
        return {}

    def run(self, net: nn.Module, batch: Batch) -> Any:
        """Of frames the values of actions (B, actions); of seeds int64 (B, 1) what came of the games."""
        if batch.x.is_floating_point():
            return net(*batch.inputs)
        return self.played(net, batch.x[:, 0].cpu().numpy(), batch.x.device)

    @torch.no_grad()
    def played(self, net: nn.Module, seeds: np.ndarray, device: torch.device) -> dict[str, Tensor]:
        """Play games to their ends: ``reward``, ``value`` (mean of the best actions), ``steps`` and ``loss`` (B,).

        And of the first game ``film`` (T, H, W) and ``told`` (T, 2), the best value and the reward at its first steps.
        """
        player = Player(self, net, seeds, device)
        reward, value, steps, loss = (np.zeros(len(seeds), dtype) for dtype in (float, float, np.int64, float))
        film: list[np.ndarray] = []
        told: list[tuple[float, float]] = []
        while len(player.playing):
            first = player.playing[0] == 0 and len(film) < _FILM
            if first:
                film.append(player.frames[0, -1].copy())
                best = float(player.values[0].max())
            value[player.playing] += player.values.max(1)
            which, rewards, wrong = player.step()
            reward[which] += rewards
            steps[which] += 1
            loss[which] += np.where(np.abs(wrong) < 1, wrong**2 / 2, np.abs(wrong) - 0.5)
            if first:
                told.append((best, rewards[0]))
        made = {
            "reward": reward,
            "value": value / steps,
            "steps": steps,
            "loss": loss / steps,
            "film": np.stack(film),
            "told": np.array(told),
        }
        return {name: torch.from_numpy(value) for name, value in made.items()}

    def losses(self, outputs: Any, batch: Batch) -> Losses:
        aim = batch.targets
        said = outputs.gather(1, aim["action"][:, None])[:, 0]
        wrong = said - aim["value"]
        if wrong.requires_grad:  # a look at the batch afterwards changes nothing
            aim["error"].copy_(wrong.detach().abs())
        each = F.huber_loss(said, aim["value"], reduction="none") if self.how["clip_errors"] else wrong**2 / 2
        count = torch.tensor(float(len(said)))
        return Losses({"error": (aim["weight"] * each).mean()}, count, {"value": outputs.detach().amax(1).sum()})

    # ---- figures

    def observe(self, outputs: Any, batch: Batch) -> dict[str, Any]:
        film = {f"each_{name}": outputs[name] for name in ("film", "told")}
        return {"rows": batch.rows, **{name: outputs[name] for name in ("reward", "value", "steps", "loss")}, **film}

    def figures(self, seen: Seen) -> dict[str, Any]:
        if not seen:
            return {"n": 0, "reward": float("nan"), "loss": float("nan")}
        reward, n = seen["reward"], len(seen["reward"])
        return {
            "n": n,
            "reward": float(reward.mean()),
            "reward_standard_error": float(reward.std() / np.sqrt(n)),
            "value": float(seen["value"].mean()),
            "steps": float(seen["steps"].mean()),
            "loss": float(seen["loss"].mean()),
        }

    def error(self, figures: Mapping[str, Any]) -> float:
        return float(figures["reward_standard_error"])

    def sections(self, seen: Seen, figures: Mapping[str, Any]) -> list[Section]:
        film, told = seen["each_film"], seen["each_told"]
        points = {
            name: [(float(k), float(v)) for k, v in enumerate(told[:, column])]
            for column, name in enumerate(("value of the best action", "reward"))
        }
        said = f"The first game that was judged{', its beginning' * (len(film) == _FILM)}. "
        said += "The value is the reward that the net expects from there on, later rewards counting less."
        body = (
            paragraph(said)
            + animation(_enlarged(film), "as the net sees it")
            + line_chart(points, x="step", y="value, reward")
        )
        return [Section("A game", Html(body))]

    # ---- answers

    def answers(self, outputs: Any, batch: Batch, keys: Sequence[str], top: int = 5) -> list[Answer]:
        both = zip(keys, outputs["reward"].tolist(), outputs["steps"].tolist(), strict=True)
        return [Played(key, reward, int(steps)) for key, reward, steps in both]

    claims = "an action"

    def claim(self, outputs: Any, batch: Batch, what: str | None = None, other: Any = None) -> Claim:
        k = which(what, self.actions, "action", int(outputs[0].argmax()))
        return Claim(f"{self.actions[k]}", lambda out: out[:, k])

    unportable = "a game is played with it, one step after another"


def _enlarged(film: np.ndarray) -> np.ndarray:
    """Frames at least 144 pixels wide."""
    times = -(-144 // film.shape[2])
    return film.repeat(times, 1).repeat(times, 2)
