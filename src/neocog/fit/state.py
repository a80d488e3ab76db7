"""The state of a training: everything that a killed run needs to go on as if nothing had happened.

Random numbers are no part of it: they are functions of (seed, epoch) and (seed, step), see neocog.data.augment.
"""

from __future__ import annotations

import copy
import json
import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from neocog.errors import RunError
from neocog.fit.optim import load_optimizers, of_optimizers, optimizers
from neocog.fit.recipes import Recipe
from neocog.fit.run import damaged, load_state, read_tensors, write_tensors
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
        self.top: dict[str, Any] = {}  # the best epoch: step, figure (higher is better), loss, error
        self.last: dict[str, Any] = {}  # the same of the last epoch
        self._top: dict[str, Tensor] = {}  # weights of the best epoch
        self.log_size = 0
        self.beside: dict[str, Tensor] = {}  # what lies beside the weights when it was last saved, see job.Job.beside

    @property
    def final_net(self) -> nn.Module:
        """The net that is evaluated and saved: the averaged one if there is one."""
        return self.net if self.average is None else self.average

    @torch.no_grad()
    def update_averages(self) -> None:
        """Move the averaged (EMA) and slow (lookahead) weights after a step."""
        if self.average is not None:
            keep = min(self.recipe.ema, (1 + self.step) / (10 + self.step))  # short memory while all is new
            fixed = {name for name, p in self.net.named_parameters() if not p.requires_grad}
            new = self.net.state_dict()
            for name, old in self.average.state_dict().items():
                if name in fixed:  # equal from the beginning; given word vectors are 8 million numbers
                    continue
                if old.is_floating_point():
                    old.lerp_(new[name], 1.0 - keep)
                else:
                    old.copy_(new[name])
        if self.slow and self.step % 5 == 0:
            for name, p in self.net.named_parameters():
                self.slow[name].lerp_(p, 1.0 - self.recipe.lookahead)
                p.copy_(self.slow[name])

    def note(self, figure: float, loss: float, error: float) -> None:
        """Note an epoch's validation figure, higher is better, and its standard error.

        Its weights are copied if it is the best (then by loss; of equals, the last).
        """
        self.last = {"step": self.step, "figure": figure, "loss": loss, "error": error}
        if math.isfinite(figure) and (not self.top or _rank(self.last) >= _rank(self.top)):
            self.top = self.last
            self._top = {k: v.detach().to("cpu", copy=True) for k, v in self.final_net.state_dict().items()}

    def choose(self, better: str, sign: float) -> dict[str, Any]:
        """Give `final_net` the weights that are kept; returns their step, and why they are.

        `sign`: -1 where less of the figure is better, as such were noted.

        Where validation ends the training (early stop, stall) they are those of the best epoch. Otherwise they are
        the last, which the whole schedule led to, unless the best epoch is better by more than two standard errors: the
        highest of many noisy figures is mostly luck.
        """
        last, top = self.last, self.top
        if not top:
            return {"step": self.step, "why": "the last weights, because there is no validation figure"}
        if top["step"] == self.step:
            return {"step": self.step, "why": f"the last weights, which have the best validation {better}"}
        figures = f"(validation {better} {sign * top['figure']:.4f}, the last {sign * last['figure']:.4f})"
        steered = self.recipe.early_stop or self.recipe.stall
        if not steered and last["figure"] >= top["figure"] - 2 * max(last["error"], top["error"]):
            return {
                "step": self.step,
                "why": f"the last weights; the best epoch is within two standard errors {figures}",
            }
        self.final_net.load_state_dict(self._top)
        return {"step": top["step"], "why": f"the weights of the best epoch {figures}"}

    def save(self, folder: Path) -> None:
        """Write the checkpoint, atomically."""
        tensors = {f"net/{k}": v for k, v in self.net.state_dict().items()}
        if self.average is not None:
            tensors |= {f"average/{k}": v for k, v in self.average.state_dict().items()}
        tensors |= {f"slow/{k}": v for k, v in self.slow.items()}
        if self.top and self.top["step"] != self.step:
            tensors |= {f"top/{k}": v for k, v in self._top.items()}
        tensors |= {f"beside/{k}": v for k, v in self.beside.items()}
        of_opts = of_optimizers(self.opts)
        tensors |= {k: v for k, v in of_opts.items() if isinstance(v, Tensor)}
        plain = {k: v for k, v in of_opts.items() if not isinstance(v, Tensor)}
        names = ("step", "elapsed", "seconds", "scale", "best", "stale", "top", "last", "log_size")
        counters = {k: getattr(self, k) for k in names}
        write_tensors(folder / CHECKPOINT, tensors, {"counters": json.dumps(counters), "plain": json.dumps(plain)})

    def load(self, folder: Path) -> None:
        """Read the checkpoint of `folder` into this state.

        Raises:
            RunError: there is none, or it belongs to another net or recipe.
        """
        path = folder / CHECKPOINT
        tensors, metadata = read_tensors(path)
        try:
            plain, counters = json.loads(metadata["plain"]), json.loads(metadata["counters"])
        except (KeyError, ValueError, RecursionError):
            raise damaged(path, "its counters cannot be read") from None
        load_state(self.net, _under(tensors, "net/"), str(path))
        if self.average is not None:
            load_state(self.average, _under(tensors, "average/"), str(path))
        if self.slow:
            self.slow = {k: v.to(self.slow[k].device) for k, v in _under(tensors, "slow/").items()}
        try:
            load_optimizers(self.opts, {**tensors, **plain})
        except ValueError as error:
            raise RunError(f"{path} was written with another optimizer: {error}") from None
        for key, value in counters.items():
            setattr(self, key, value)
        self._top = _under(tensors, "top/")
        self.beside = {**_under(tensors, "feed/"), **_under(tensors, "beside/")}  # feed/: of older versions
        if self.top and not self._top:  # the best epoch is the one of the checkpoint
            self._top = {k: v.to("cpu", copy=True) for k, v in self.final_net.state_dict().items()}


def _rank(epoch: dict[str, Any]) -> tuple[float, float]:
    return epoch["figure"], -epoch["loss"] if math.isfinite(epoch["loss"]) else -math.inf


def _under(values: dict[str, Any], prefix: str) -> dict[str, Any]:
    return {k[len(prefix) :]: v for k, v in values.items() if k.startswith(prefix)}
