"""net.json: what a run says of its trained net, read and checked."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypedDict

from neocog.errors import NeocogError
from neocog.fit.run import damaged, misfit, read_json
from neocog.records import Preprocess, counted
from neocog.tasks import Label, Task
from neocog.tasks.task import load


class Spec(TypedDict):
    """With which ``neocog.nets.build`` makes a net; further keys are its options."""

    name: str
    classes: int
    in_channels: int
    input_size: int


class _Layers(TypedDict):
    layers: list[str]
    pool: str


class _Strangers(TypedDict, total=False):
    false_alarm: float
    auroc: dict[str, float] | float | None
    caught: dict[str, float]


class _Kept(TypedDict):
    epoch: float
    of: float
    why: str


class _Needed(TypedDict):
    net: Spec
    classes: list[str]
    preprocess: Preprocess
    tta: str
    mirror: bool
    metrics: dict[str, Any]
    temperature: float


class Card(_Needed, total=False):
    """What is in net.json."""

    task: dict[str, Any]
    reader: dict[str, Any]
    taps: _Layers | None
    unknown: _Strangers | None
    kept: _Kept


def read_card(folder: Path) -> dict[str, Any]:
    """Read net.json of a run folder. Raises: RunError if it is damaged, or names other classes than the net has."""
    path = folder / "net.json"
    card: dict[str, Any] = read_json(path, Card)
    if lacking := {"mean", "std", "channels"} - card["preprocess"].keys():
        raise damaged(path, f"preprocess has no key {min(lacking)!r}")
    pre, names, outputs = Preprocess.from_json(card["preprocess"]), len(card["classes"]), card["net"]["classes"]
    task = task_in(card, path)
    if task.classifies and not card.get("taps") and names != outputs:
        raise damaged(path, f"it names {counted(names, 'class')} for a net with {counted(outputs, 'output')}")
    if not (min(len(pre.mean), len(pre.std)) >= pre.channels > 0 and min(pre.size, pre.resize, *pre.std) > 0):
        raise damaged(path, f"invalid values: {pre}")
    if wrong := misfit_metrics(card["metrics"]) if task.classifies else "":
        raise damaged(path, wrong)
    if not (card["temperature"] > 0 and math.isfinite(card["temperature"])):
        raise damaged(path, f"the temperature is {card['temperature']} instead of a number above 0")
    return card


def task_in(card: Mapping[str, Any], path: Path) -> Task:
    """The task that net.json describes. Raises: RunError if it cannot be made."""
    if "task" not in card:  # of a version that knew one task only
        return Label(card["classes"], temperature=float(card["temperature"]))
    try:
        task = load(card["task"])
    except (KeyError, TypeError, ValueError, NeocogError) as error:
        raise damaged(path, f"its task cannot be built ({type(error).__name__}: {error})") from None
    if list(getattr(task, "classes", ())) != card["classes"]:
        raise damaged(path, "the classes of the task and of the net differ")
    return task


def misfit_metrics(metrics: Mapping[str, Any]) -> str:
    """What is wrong with the figures of the task label in net.json, "" if nothing: a split has all, or none."""
    common = {"accuracy": float, "accuracy_interval": tuple[float, float], "n": int}
    one, crossed = {"macro_f1": float}, {"repeats": int, "folds": int}
    for split, more in (("test", one), ("val", one), ("cv", crossed)):
        forms = {f"{split}_{name}": form for name, form in (common | more).items()}
        if f"{split}_classes" in metrics:  # not in the runs of older versions
            forms[f"{split}_classes"] = int
        if any(key.startswith(f"{split}_") for key in metrics):
            for key, form in forms.items():
                if wrong := misfit(metrics.get(key), form, f"metrics.{key}"):
                    return wrong
    return ""
