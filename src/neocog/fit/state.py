"""The state of a training: everything that a killed run needs to go on as if nothing had happened.

Random numbers are no part of it: they are functions of (seed, epoch) and (seed, step), see neocog.data.augment.
"""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from neocog.errors import RunError
from neocog.fit.optim import optimizers
from neocog.fit.recipes import Recipe
from neocog.fit.run import load_state, read_tensors, write_tensors
from neocog.nets import head_of

CHECKPOINT = "checkpoint.safetensors"


class State:
    """Net, optimizers, averaged weights and counters of one training."""

    def __init__(self, net: nn.Module, recipe: Recipe, batch: int, dtype: torch.dtype = torch.float32) -> None:
        self.net, self.recipe = net, recipe
        self.opts = optimizers(net, head_of(net), recipe, batch, dtype)
        self.average = copy.deepcopy(net) if recipe.ema else None
        self.slow = {k: p.detach().clone() for k, p in net.named_parameters()} if recipe.lookahead else {}
        self.step = 0
        self.elapsed = 0.0  # seconds of training, over all sittings
        self.seconds = 0.0  # that training may take; 0: it is counted in steps
        self.scale = 1.0  # on the learning rate, lowered when validation stalls
        self.best = float("-inf")  # best validation figure so far
        self.stale = 0  # epochs since then
        self.log_size = 0

    @property
    def final_net(self) -> nn.Module:
        """The net that is evaluated and saved: the averaged one if there is one."""
        return self.net if self.average is None else self.average

    @torch.no_grad()
    def update_averages(self) -> None:
        """Move the averaged (EMA) and slow (lookahead) weights after a step."""
        if self.average is not None:
            keep = min(self.recipe.ema, (1 + self.step) / (10 + self.step))  # short memory while all is new
            for old, new in zip(self.average.state_dict().values(), self.net.state_dict().values(), strict=True):
                if old.is_floating_point():
                    old.lerp_(new, 1.0 - keep)
                else:
                    old.copy_(new)
        if self.slow and self.step % 5 == 0:
            for name, p in self.net.named_parameters():
                self.slow[name].lerp_(p, 1.0 - self.recipe.lookahead)
                p.copy_(self.slow[name])

    def save(self, folder: Path) -> None:
        """Write the checkpoint, atomically."""
        tensors = {f"net/{k}": v for k, v in self.net.state_dict().items()}
        if self.average is not None:
            tensors |= {f"average/{k}": v for k, v in self.average.state_dict().items()}
        tensors |= {f"slow/{k}": v for k, v in self.slow.items()}
        plain: dict[str, Any] = {}
        for number, opt in enumerate(self.opts):
            for index, values in opt.state_dict()["state"].items():
                for key, value in values.items():
                    name = f"opt/{number}/{index}/{key}"
                    if isinstance(value, Tensor):
                        tensors[name] = value
                    elif value is not None:
                        plain[name] = value
        counters = {k: getattr(self, k) for k in ("step", "elapsed", "seconds", "scale", "best", "stale", "log_size")}
        write_tensors(folder / CHECKPOINT, tensors, {"counters": json.dumps(counters), "plain": json.dumps(plain)})

    def load(self, folder: Path) -> None:
        """Read the checkpoint of `folder` into this state.

        Raises:
            RunError: there is none, or it belongs to another net or recipe.
        """
        path = folder / CHECKPOINT
        tensors, metadata = read_tensors(path)
        load_state(self.net, _under(tensors, "net/"), str(path))
        if self.average is not None:
            load_state(self.average, _under(tensors, "average/"), str(path))
        if self.slow:
            self.slow = {k: v.to(self.slow[k].device) for k, v in _under(tensors, "slow/").items()}
        plain = json.loads(metadata["plain"])
        for number, opt in enumerate(self.opts):
            state: dict[int, dict[str, Any]] = {}
            for name, value in [*_under(tensors, f"opt/{number}/").items(), *_under(plain, f"opt/{number}/").items()]:
                index, key = name.split("/")
                state.setdefault(int(index), {})[key] = value
            try:
                opt.load_state_dict({"state": state, "param_groups": opt.state_dict()["param_groups"]})
            except ValueError as error:
                raise RunError(f"{path} was written with another optimizer: {error}") from None
        for key, value in json.loads(metadata["counters"]).items():
            setattr(self, key, value)


def _under(values: dict[str, Any], prefix: str) -> dict[str, Any]:
    return {k[len(prefix) :]: v for k, v in values.items() if k.startswith(prefix)}
