"""The feed of the task play: batches drawn from the replay of games that the net plays with the weights that it has.

What a step brings is a function of the seed, the step and the weights. Before a step is drawn, the games have gone on
by the frames that belong to it. `state` is what a checkpoint keeps beside the replay's file; the games themselves are
gone back to by their seeds and the actions since they began.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from neocog.data.batches import Batch, Feed
from neocog.data.chance import draws
from neocog.data.replay import Priorities, Replay

if TYPE_CHECKING:
    from neocog.tasks.play import Play

FILE = "replay.bin"
_EXPLORE, _BATCH = 1, 2  # what random numbers are for
_LEAST_PRIORITY = 1e-6


class Computing(Protocol):
    """Where the net is computed."""

    @property
    def torch(self) -> Any: ...

    @property
    def layout(self) -> Any: ...

    def autocast(self) -> AbstractContextManager[Any]: ...


@contextmanager
def judging(net: nn.Module, device: Computing | None = None) -> Iterator[None]:
    """The net in eval mode, without gradients, computed as on `device`; its mode is restored."""
    mode = net.training
    net.eval()
    try:
        with torch.no_grad(), device.autocast() if device else nullcontext():
            yield
    finally:
        net.train(mode)


def shown(frames: np.ndarray, device: Computing) -> Tensor:
    """Frames uint8 (B, F, H, W) as the net reads them, 0 to 1."""
    return (torch.from_numpy(frames).to(device.torch) / 255.0).contiguous(memory_format=device.layout)


class Experience(Feed):
    """Batches of steps of games; see ``data.batches.Feed``.

    The inputs are frames (B, F, H, W). Targets: ``action`` int64 (B,); ``value``, what the action was worth by its
    rewards and the target net; ``weight`` of each in the loss; ``error``, where the loss leaves how wrong the net was.
    """

    def __init__(self, task: Play, net: nn.Module, device: Computing, *, batch: int, seed: int, folder: Path) -> None:
        how = task.how
        self.task, self.net, self.device, self.how, self.batch, self.seed = task, net, device, how, batch, seed
        self.steps_per_epoch, self.waited = how["epoch"], 0.0
        self.games = task.games(how["games"])
        self.every = np.arange(how["games"])
        length = max(2 * how["steps"], -(-how["replay"] // how["games"]))
        room = -(-(how["acts"] * how["epoch"] + how["start"]) // how["games"])
        folder.mkdir(parents=True, exist_ok=True)
        self.replay = Replay(folder / FILE, how["games"], length, room, self.games.shape, how["frames"])
        self.target = copy.deepcopy(net).eval().requires_grad_(False)
        self.priorities = Priorities(self.replay.size * how["games"]) if how["prioritised"] else None
        self._begin()

    def _begin(self) -> None:
        """As before the first step."""
        self.at = -1  # the step up to which games were played
        self.replay.time = 0
        self.played = np.zeros(len(self.every), np.int64)  # games that each place has finished
        self.won = np.zeros(len(self.every))  # in the games that are played
        self.done: list[list[int]] = [[] for _ in self.every]  # actions in them
        self.finished: list[float] = []
        self._last: Batch | None = None
        self._places = np.zeros(0, np.int64)
        self.games.begin(self.every, self._seeds(self.every))
        self.replay.see(self.games.frames(self.every), np.ones(len(self.every), bool))

    def _seeds(self, which: np.ndarray) -> np.ndarray:
        """A seed for each game that begins, below those of validation and test."""
        return (draws(1, self.seed, which, self.played[which])[:, 0] * (1 << 39)).astype(np.int64)

    # ---- batches

    def stream(self, step: int) -> Iterator[Batch]:
        """Batches from `step` on, which is 0, the step of `load`, or where an earlier stream was."""
        if step == 0 and self.at > 0:
            self._begin()
        while True:
            if self.at < step:
                self._learned()
                self._go_on(step)
            self._last = batch = self._drawn(step)
            yield batch
            step += 1

    def _go_on(self, step: int) -> None:
        """Play the frames that belong to a step."""
        how, count = self.how, len(self.every)
        if step == 0:
            while self.replay.time * count < max(how["start"], (how["steps"] + 1) * count):
                self._act(draws(len(self.actions), self.seed, _EXPLORE, self.replay.time, self.every).argmax(1))
        for _ in range((step + 1) * how["acts"] // count - step * how["acts"] // count if step else 0):
            chance = draws(2, self.seed, _EXPLORE, self.replay.time, self.every)
            with judging(self.net, self.device):
                best = self.net(shown(self.replay.now(), self.device)).float().argmax(1).cpu().numpy()
            at_random = (chance[:, 1] * len(self.actions)).astype(np.int64)
            self._act(np.where(chance[:, 0] < self.exploration, at_random, best))
        if step % how["target"] == 0:
            self.target.load_state_dict(self.net.state_dict())
        self.at = step

    @property
    def actions(self) -> tuple[str, ...]:
        return self.games.actions

    @property
    def exploration(self) -> float:
        """The share of actions by chance: 1 at first, then less until `explore` frames were played."""
        over = (self.replay.time * len(self.every) - self.how["start"]) / max(1, self.how["explore"])
        return float(1.0 + (self.how["least"] - 1.0) * min(1.0, max(0.0, over)))

    def _act(self, actions: np.ndarray) -> None:
        begin = time.perf_counter()
        found = self.games.step(self.every, actions)
        self.waited += time.perf_counter() - begin
        self.won += found.rewards
        rewards = found.rewards.clip(-1, 1) if self.how["clip_rewards"] else found.rewards
        if self.priorities is not None:  # a step can be drawn once what follows is known, until it is forgotten
            now, size = self.replay.time, self.replay.size
            known, gone = now + 1 - self.how["steps"], now - self.replay.length
            self.priorities.set(gone % size * len(self.every) + self.every, 0.0)
            if known >= 0:
                self.priorities.set(known % size * len(self.every) + self.every, self.priorities.most)
        self.replay.note(actions, rewards, found.lost if self.how["lives"] else found.over)
        for one, action in enumerate(actions.tolist()):
            self.done[one].append(action)
        ended = np.flatnonzero(found.over)
        if len(ended):
            self.finished += self.won[ended].tolist()
            self.won[ended], self.played[ended] = 0.0, self.played[ended] + 1
            for one in ended.tolist():
                self.done[one] = []
            self.games.begin(ended, self._seeds(ended))
        self.replay.see(self.games.frames(self.every), found.over)

    def _drawn(self, step: int) -> Batch:
        how, count = self.how, len(self.every)
        low, times = self.replay.steps(how["steps"])
        chances = draws(self.batch, self.seed, _BATCH, step)
        if self.priorities is None:
            number = (chances * times * count).astype(np.int64)
            at, games = low + number // count, number % count
            weight = np.ones(self.batch, np.float32)
        else:
            # a draw from each of equal parts of the sum, as Schaul et al. have it
            places, share = self.priorities.draw((np.arange(self.batch) + chances) / self.batch)
            row, games = np.divmod(places, count)
            at = self.replay.time - 1 - (self.replay.time - 1 - row) % self.replay.size
            weight = (1.0 / np.maximum(share * times * count, 1e-12)) ** how["beta"]
            weight = (weight / weight.max()).astype(np.float32)
        found = self.replay.draw(at, games, how["steps"], how["discount"])
        self._places = found.places
        after = shown(found.after, self.device)
        with judging(self.net, self.device):
            values = self.target(after).float()
            best = self.net(after).float().argmax(1) if how["double"] else values.argmax(1)
        ahead = values.gather(1, best[:, None])[:, 0]
        here = {"reward": found.reward, "discount": found.discount, "weight": weight, "action": found.action}
        there = {name: torch.from_numpy(value).to(self.device.torch) for name, value in here.items()}
        return Batch(
            (shown(found.before, self.device),),
            {
                "action": there["action"],
                "value": there["reward"] + there["discount"] * ahead,
                "weight": there["weight"],
                "error": torch.zeros_like(ahead),
            },
            torch.arange(self.batch),
            torch.ones(self.batch, dtype=torch.bool, device=self.device.torch),
        )

    def _learned(self) -> None:
        """Take over how wrong the net was on the last batch."""
        if self._last is not None and self.priorities is not None:
            error = self._last.targets["error"].cpu().numpy().astype(np.float64)
            self.priorities.set(self._places, (error + _LEAST_PRIORITY) ** self.how["alpha"])
        self._last = None

    # ---- for the log, and a checkpoint

    def figures(self) -> dict[str, float]:
        """Of the training games that were finished since this was asked last, by chance and all."""
        found = {"frames": self.replay.time * len(self.every), "exploration": self.exploration}
        if self.finished:
            found |= {"train_reward": float(np.mean(self.finished)), "games": len(self.finished)}
            self.finished = []
        return found

    def state(self) -> dict[str, Tensor]:
        """What a checkpoint keeps, as tensors; the replay is brought to the disk."""
        self._learned()
        self.replay.ring.flush()
        flat = np.array([action for one in self.done for action in one], np.uint8)
        kept = {
            "at": np.array([self.at, self.replay.time]),
            "played": self.played,
            "won": self.won,
            "done": flat,
            "ends": np.cumsum([len(one) for one in self.done]),
        }
        if self.priorities is not None:
            kept |= {"priorities": self.priorities.values, "most": np.array([self.priorities.most])}
        weights = {f"target/{name}": value for name, value in self.target.state_dict().items()}
        return {**{name: torch.from_numpy(value) for name, value in kept.items()}, **weights}

    def load(self, state: dict[str, Tensor]) -> None:
        """Go on from what `state` gave."""
        self.target.load_state_dict(
            {name.removeprefix("target/"): value for name, value in state.items() if name.startswith("target/")}
        )
        self.at, self.replay.time = (int(k) for k in state["at"])
        self.played, self.won = state["played"].numpy().copy(), state["won"].numpy().copy()
        parts = np.split(state["done"].numpy(), state["ends"].numpy()[:-1])
        self.done = [part.tolist() for part in parts]
        self.games.begin(self.every, self._seeds(self.every))
        for k in range(max(map(len, self.done))):
            which = np.flatnonzero([len(one) > k for one in self.done])
            self.games.step(which, np.array([self.done[one][k] for one in which]))
        if self.priorities is not None:
            self.priorities.values[:] = state["priorities"].numpy()
            self.priorities.sums[:] = self.priorities.values.sum(1)
            self.priorities.most = float(state["most"][0])
