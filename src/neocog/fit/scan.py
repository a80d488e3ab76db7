"""The learning-rate scan: ``neocog train DATA --find-lr``."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from neocog.fit import diagnose
from neocog.fit.device import choose, place
from neocog.fit.inputs import prepare
from neocog.fit.job import Data, Job, Wishes
from neocog.fit.loop import Tally, gradients
from neocog.fit.parallel import World, share_gradients
from neocog.fit.plan import make_plan
from neocog.fit.show import Show
from neocog.fit.state import State


def find_lr(
    data: Any,
    *,
    task: str | None = None,
    task_options: Mapping[str, Any] | None = None,
    net: str | None = None,
    recipe: str | None = None,
    seed: int = 0,
    set: Mapping[str, Any] | None = None,
    size: int | None = None,
    columns: Mapping[str, str] | None = None,
    device: str | None = None,
    offline: bool = False,
    steps: int = 60,
    progress: bool = True,
) -> dict[str, Any]:
    """Train `steps` steps at rising learning rates, and say which to use. Nothing is kept.

    All the rates of the recipe are multiplied by the same rising factor, from 1/1000 to 30.

    Returns:
        ``{"points": [{"factor", "lr", "loss", "smoothed"}], "suggested_lr", "suggested_factor", "recipe_lr",
        "diverged_lr", "reason", "set"}``; `set` is what to type.
    """
    place(device)
    world, show = World(), Show(progress)
    opened = Data.open(data, None, offline, dict(columns) if columns else None, task)
    chosen = choose(device, training=True)
    show.say(f"device: {chosen}")
    wishes = Wishes(
        task=task,
        task_options=dict(task_options or {}),
        net=net,
        recipe=recipe,
        fields=dict(set or {}),
        seed=seed,
        size=size,
    )
    plan, asked = make_plan(wishes, opened, chosen, world, show)
    made = Job(plan, opened, asked, chosen, world, show, Path(), time.monotonic())
    prepare(made)
    plan = made.plan
    state = State(made.net, plan.recipe, plan.batch, chosen.dtype)
    stream = made.batches.stream(0)
    made.net.train()
    factors = diagnose.sweep(1e-3, 30.0, steps)
    taken = 0

    with show.bar("scanning learning rates") as bar:

        def step(factor: float) -> float:
            nonlocal taken
            for opt in state.opts:
                for group in opt.param_groups:
                    group["lr"] = group["peak"] * factor
            tally = Tally(chosen.torch)
            loss, count = gradients(made.net, next(stream), asked, chosen, plan.recipe.chunk, tally)
            share_gradients(made.net, count, world)
            for opt in state.opts:
                opt.step()
                opt.zero_grad(set_to_none=True)
            taken += 1
            bar(taken / steps, "")
            return float(loss)

        points, suggestion = diagnose.lr_scan(step, factors)
    stream.close()  # type: ignore[attr-defined]
    # the rate that the recipe names: Muon's for the filters, else SGD's or AdamW's
    name = "lr_filters" if plan.recipe.optimizer.startswith("muon") else "lr"
    peak = getattr(plan.recipe, name)

    def rate(factor: float | None) -> float | None:
        return None if factor is None else peak * factor

    return {
        "points": [
            {"factor": p["lr"], name: peak * p["lr"], "loss": p["loss"], "smoothed": p["smoothed"]} for p in points
        ],
        "recipe_lr": peak,
        "suggested_factor": suggestion.lr,
        "suggested_lr": rate(suggestion.lr),
        "diverged_lr": rate(suggestion.diverged),
        "reason": suggestion.reason,
        "set": f"--set {name}={rate(suggestion.lr):.3g}" if suggestion.lr else "",
    }
