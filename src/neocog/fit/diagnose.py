"""Experiments on a net in training; `findings` judges the numbers.

Everything here is a pure function: nets, random state and modes are as they were when it returns.
"""

from __future__ import annotations

import copy
import math
import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from neocog.anatomy.running import watching
from neocog.errors import UsageError
from neocog.fit.findings import Finding
from neocog.records import counted
from neocog.tasks import Losses

# ---------------------------------------------------------------- before training


def overfit_one_batch(
    net: nn.Module,
    losses: Callable[[nn.Module], Losses],
    pictures: int,
    *,
    steps: int = 60,
    rates: Sequence[float] = (1e-3, 1e-2),
    seconds: float = 20.0,
) -> Finding | None:
    """Train a copy of `net` on one batch of `pictures`, given its `losses`, and say whether it can memorise it.

    Adam with each of `rates` in turn, at most `steps` steps each, ending when the loss is a tenth of what it was, or
    every picture is right and the loss halved (label smoothing keeps the loss up); where no accuracy is counted, half
    is enough. Dropout is off in the copy. 16 to 64 pictures are enough. Cost: up to ``steps * len(rates)`` training
    steps, and no new one after `seconds`; if little was learned by then, there is nothing to say: None.
    """
    begin = time.monotonic()
    best, first, done, learned, late, rate_used = math.inf, math.nan, 0, False, False, rates[0]
    enough = 0.8  # of a loss without answers that are right or wrong nobody knows the least: a likelihood's is not 0
    with _random_state_kept(next(net.parameters()).device), torch.enable_grad():
        for rate in rates:
            trial = copy.deepcopy(net)
            trial.train()
            for module in trial.modules():
                if isinstance(module, nn.modules.dropout._DropoutNd):
                    module.eval()
            parameters = [p for p in trial.parameters() if p.requires_grad]
            if not parameters:
                raise UsageError("overfit one batch: expected a net with trainable parameters, got all frozen")
            optimizer = torch.optim.Adam(parameters, lr=rate)
            for step in range(steps + 1):
                found = losses(trial)
                loss = found.total
                value = float(loss.detach())
                first = value if math.isnan(first) else first
                if value < best:
                    best, done, rate_used = value, step, rate
                right = found.figures.get("accuracy", found.count)  # where it is not counted, half the loss is enough
                enough = 0.5 if "accuracy" in found.figures else enough
                learned = value <= 0.1 * first or (value <= 0.5 * first and float(right) == float(found.count))
                late = time.monotonic() - begin > seconds
                if learned or late or step == steps or not math.isfinite(value):
                    break
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                torch.clear_autocast_cache()  # a caller's autocast would go on using the low-precision copies of before
            if learned or late:
                break
    evidence = f"loss {first:.3f} to {best:.3f} in {counted(done, 'step')} on one batch of "
    evidence += f"{counted(pictures)} (Adam, {rate_used:g})"
    if learned:
        return Finding("overfit one batch", "good", evidence)
    if late and best < first:
        said = f"{evidence}, and stopped there after {seconds:.0f} s"
        return Finding("overfit one batch", "good", said) if best <= 0.8 * first else None
    if best <= enough * first:
        advice = "Learns, but slowly. Try a higher learning rate, or normalisation layers if the net has none."
        return Finding("overfit one batch", "warn", evidence, advice)
    advice = "A net that cannot memorise one batch has an error: labels that do not belong to the pictures, a loss "
    advice += "that does not reach the weights, frozen layers, or units that are all dead."
    return Finding("overfit one batch", "bad", evidence, advice)


@contextmanager
def _random_state_kept(device: torch.device) -> Iterator[None]:
    """Restore the random state of torch (CPU and `device`), numpy and Python: nets may draw from any of them."""
    python, old = random.getstate(), np.random.get_state()
    on_device = device.type in ("cuda", "mps", "xpu")
    devices = [device.index or 0] if on_device else []
    try:
        with torch.random.fork_rng(devices=devices, device_type=device.type if on_device else "cuda"):
            yield
    finally:
        random.setstate(python)
        np.random.set_state(old)


# ---------------------------------------------------------------- during training


def update_ratios(before: Mapping[str, Tensor], after: Mapping[str, Tensor]) -> dict[str, float]:
    """Return ``||after - before|| / ||before||`` for each floating tensor that is in both (names as in state_dict).

    `before` must hold copies. About 1e-3 for one step is healthy with SGD and Adam. Weights that a normalisation layer
    follows have no scale of their own: there the ratio is a turning angle, and settles at about ``sqrt(2 * learning
    rate * weight decay)``, 1e-3 to 1e-2. A tensor that was all zero is compared with its new value (ratio 1).
    """
    ratios = {}
    for name, old in before.items():
        new = after.get(name)
        if new is None or new.shape != old.shape or not old.is_floating_point() or not old.numel():
            continue
        # double: a bf16 tensor, or a ratio of 1e-5, would otherwise drown in rounding
        a, b = old.detach().double().cpu(), new.detach().double().cpu()
        change, scale = float((b - a).norm()), float(a.norm())
        scale = scale or float(b.norm())
        ratios[name] = change / scale if scale else 0.0
    return ratios


_GATES = {"relu", "relu_", "gelu", "gelu_", "silu", "silu_", "mish", "mish_", "hardswish", "hardswish_"}
_BOUNDED = {"hardtanh", "hardtanh_", "clamp", "clamp_", "clamp_min", "clamp_min_", "threshold", "threshold_"}


class _Watch(TorchDispatchMode):
    """Notes, for every activation operator with a dead side, which channels are ever above zero.

    Operators are seen whether a module, a function or a tensor method called them.
    """

    def __init__(self) -> None:
        super().__init__()
        self.callers: list[str] = [""]
        self.fired: list[tuple[str, Tensor]] = []
        self._linear: Tensor | None = None  # held, so that its memory cannot be given to another tensor meanwhile

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        # Before the call: an operator in place would hide where its input came from.
        last = self._linear is not None and any(
            isinstance(a, Tensor) and a.data_ptr() == self._linear.data_ptr() for a in args
        )
        out = func(*args, **(kwargs or {}))
        if name in ("addmm", "mm", "bmm", "linear") or (last and name in ("add", "add_")):
            self._linear = out
        elif self._has_dead_side(name, args, kwargs or {}) and isinstance(out, Tensor) and out.ndim >= 2:
            # Channels are dimension 1, but last when a linear layer made them: (B, L, C) and (B, H, W, C).
            channels = out.detach().movedim(-1 if last or out.ndim == 3 else 1, 0).flatten(1)
            self.fired.append((self.callers[-1], (channels > 0).any(dim=1)))
        return out

    @staticmethod
    def _has_dead_side(name: str, args: Any, kwargs: Any) -> bool:
        if name in _GATES:
            return True
        if name not in _BOUNDED:
            return False
        low = args[1] if len(args) > 1 else kwargs.get("min", -1 if name.startswith("hardtanh") else None)
        return isinstance(low, int | float) and low == 0


def dead_units(net: nn.Module, *inputs: Tensor, run: Callable[[nn.Module], Any] | None = None) -> dict[str, float]:
    """Return for each activation the share (0 to 1) of channels that are nowhere above zero in a batch of `inputs`.

    The net runs once in eval mode without gradient. Seen are ReLU, ReLU6, clamp and threshold at zero, GELU, SiLU, Mish
    and Hardswish, as modules, functions or methods; names are those of the innermost module that called the operator,
    with ``#2``, ``#3`` when it did so again. Give at least 100 pictures: in a small batch rare units look dead.

    `run`: how the net is run, where that is more than ``net(*inputs)``.
    """
    net = getattr(net, "_orig_mod", net)  # operators inside a compiled net cannot be seen
    modes = {module: module.training for module in net.modules()}
    watch = _Watch()
    calls = watching(net, lambda _m, path, _args: watch.callers.append(path), lambda *_: watch.callers.pop())
    try:
        net.eval()
        with _random_state_kept(next(net.parameters()).device), torch.no_grad(), calls, watch:
            (run or (lambda net: net(*inputs)))(net)
    finally:
        for module, mode in modes.items():
            module.training = mode
    shares: dict[str, float] = {}
    times: dict[str, int] = {}
    for caller, fired in watch.fired:
        times[caller] = times.get(caller, 0) + 1
        name = (caller or "net") + (f"#{times[caller]}" if times[caller] > 1 else "")
        shares[name] = 1 - float(fired.double().mean())
    return shares


# ---------------------------------------------------------------- learning-rate scan


@dataclass(frozen=True, slots=True)
class Suggestion:
    """What a scan suggests: `lr`, or None when the loss never fell; `steepest` and `diverged` are learning rates."""

    lr: float | None
    steepest: float | None
    diverged: float | None
    reason: str


def sweep(low: float = 1e-5, high: float = 10.0, count: int = 100) -> list[float]:
    """Return `count` learning rates from `low` to `high`, each the same factor above the one before."""
    if not 0 < low < high or count < 2:
        raise UsageError(f"sweep: expected 0 < low < high and count >= 2, got {low}, {high}, {count}")
    return [float(v) for v in np.geomspace(low, high, count)]


def lr_scan(
    step_fn: Callable[[float], float], lrs: Sequence[float], *, smoothing: float = 0.8, stop: float = 3.0
) -> tuple[list[dict[str, float]], Suggestion]:
    """Take one training step at each of the rising `lrs`, and suggest where to train (Smith 2017).

    `step_fn(lr)` trains one step and returns its loss. It changes the net and the optimizer: the caller restores them.
    The scan ends when the loss, smoothed by an exponential mean, has risen from its lowest by `stop` times as much as
    it had fallen, or to three times the first, or is not finite. Suggested is the lower of: where the smoothed loss
    falls steepest per decade, and a tenth of where it diverged. Points are ``{"lr", "loss", "smoothed"}``.
    """
    points: list[dict[str, float]] = []
    mean, weight, best = 0.0, 0.0, math.inf
    diverged: float | None = None
    for lr in lrs:
        loss = float(step_fn(lr))
        if not math.isfinite(loss):
            diverged = lr
            break
        mean, weight = smoothing * mean + (1 - smoothing) * loss, smoothing * weight + 1 - smoothing
        smoothed = mean / weight
        points.append({"lr": lr, "loss": loss, "smoothed": smoothed})
        best, first = min(best, smoothed), points[0]["smoothed"]
        # Before anything was learned there is nothing to diverge from but the start.
        if len(points) > 5 and smoothed > min(
            best + stop * max(first - best, 0.1 * abs(first)), first + 2 * abs(first)
        ):
            diverged = lr
            break
    return points, _suggest(points, diverged)


def _suggest(points: Sequence[Mapping[str, float]], diverged: float | None) -> Suggestion:
    if len(points) < 5:
        return Suggestion(None, None, diverged, f"only {len(points)} finite losses: start the scan lower")
    loss = np.array([p["smoothed"] for p in points])
    decade = np.log10([p["lr"] for p in points])
    lowest = int(loss.argmin())
    if lowest < 2 or loss[0] - loss[lowest] < 0.02 * abs(loss[0]):
        return Suggestion(None, None, diverged, "the loss never decreased: train more steps per rate, or check the net")
    slope = np.gradient(loss[: lowest + 1], decade[: lowest + 1])
    steepest = float(points[int(slope.argmin())]["lr"])
    if diverged is not None and diverged / 10 < steepest:
        return Suggestion(diverged / 10, steepest, diverged, f"a tenth of {diverged:.2g}, where the loss diverged")
    return Suggestion(steepest, steepest, diverged, "where the loss falls steepest")
