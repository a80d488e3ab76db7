"""The learning-rate scan: ``neocog train DATA --find-lr``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from neocog.errors import UsageError
from neocog.fit import diagnose
from neocog.fit.inputs import prepare
from neocog.fit.job import Wishes
from neocog.fit.loop import Tally, gradients
from neocog.fit.opening import planned
from neocog.fit.parallel import share_gradients
from neocog.fit.state import State


def find_lr(
    data: Any,
    *,
    task: str | None = None,
    task_options: Mapping[str, Any] | None = None,
    net: str | None = None,
    net_options: Mapping[str, Any] | None = None,
    recipe: str | None = None,
    seed: int = 0,
    set: Mapping[str, Any] | None = None,
    size: int | None = None,
    columns: Mapping[str, str] | None = None,
    device: str | None = None,
    precision: str | None = None,
    offline: bool = False,
    start: Any = None,
    regime: str | None = None,
    steps: int = 60,
    progress: bool = True,
) -> dict[str, Any]:
    """Train `steps` steps at rising learning rates, and say which to use. Nothing is kept.

    All the rates of the recipe are multiplied by the same rising factor, from 1/1000 to 30. The training that is
    scanned is the one that `train` would do with the same arguments, from the same weights.

    Returns:
        ``{"points": [{"factor", "lr", "loss", "smoothed"}], "suggested_lr", "suggested_factor", "recipe_lr",
        "diverged_lr", "reason", "set"}``; `set` is what to type.

    Raises:
        UsageError: the training would fit a last layer at once, which has no learning rate.
    """
    wishes = Wishes(
        task=task,
        task_options=dict(task_options or {}),
        net=net,
        net_options=dict(net_options or {}),
        recipe=recipe,
        fields=dict(set or {}),
        seed=seed,
        size=size,
        start=start,
        regime=regime,
        offline=offline,
    )
    made = planned(wishes, data, columns=columns, device=device, precision=precision, progress=progress)
    if not made.plan.by_steps:
        raise UsageError(
            "regime features fits a last layer at once, without a learning rate; --find-lr goes with --regime top or "
            "all, or with --from scratch"
        )
    prepare(made)
    plan = made.plan
    state = State(made.net, plan.recipe, plan.batch, made.device.dtype)
    stream = made.batches.stream(0)
    for guide in made.guides:
        guide.begin(0)
    made.net.train()
    factors = diagnose.sweep(1e-3, 30.0, steps)
    taken = 0

    with made.show.bar("scanning learning rates") as bar:

        def step(factor: float) -> float:
            nonlocal taken
            for opt in state.opts:
                for group in opt.param_groups:
                    group["lr"] = group["peak"] * factor
            tally = Tally(made.device.torch)
            loss, count = gradients(
                made.net, next(stream), made.task, made.device, plan.recipe.chunk, tally, made.guides
            )
            share_gradients(made.net, count, made.world)
            for guide in made.guides:
                guide.share(made.world)
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
