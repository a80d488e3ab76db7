"""A short trial before a training that starts from weights: what a last layer learns on the features of some pictures.

The number of pictures proposes what is trained (see `transfer.choose_regime`). A last layer on features of a few
hundred pictures, cross-validated, shows what that number cannot: that the features say nothing of these pictures, or
that they say all there is. It is compared with the same layer on 8x8 pixels of the pictures themselves.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from neocog import nets
from neocog.errors import DataError
from neocog.fit.device import Device
from neocog.fit.features import features_of
from neocog.fit.heads import CrossValidated, cross_validate, strata_of
from neocog.fit.job import Data, open_split
from neocog.fit.parallel import World, same_everywhere
from neocog.fit.show import Show
from neocog.fit.start import Start
from neocog.records import Preprocess, counted
from neocog.tasks import Task
from neocog.tasks.at_once import FitsAtOnce

_LEAST, _MOST = 60, 256  # pictures that are looked at
_MACS = 6e11  # multiply-adds in all: some 10 s on two ordinary cores
_EACH = 5  # pictures a class, below which the figures say nothing
_PIXELS = 8
_SOLVED = 0.98  # of a figure that is 1 at best, the low end of its interval (200 of 200 right: 98.1 %)


@dataclass(frozen=True)
class Trial:
    """What a last layer reached on features, on pixels, and on nothing; the task's goal, and a line for the user."""

    goal: tuple[str, str]
    features: CrossValidated
    pixels: CrossValidated
    nothing: CrossValidated
    said: str

    @property
    def useless(self) -> bool:
        """The features are worse than pixels, beyond chance, and not good either."""
        (low, high), b, none = self.features.interval, self.pixels.value, self.nothing.value
        return low >= max(b, none / 2) if self.goal[1] == "min" else high <= min(b, (none + 1) / 2)

    @property
    def solved(self) -> bool:
        """No training of the trunk could add much."""
        return self.goal[1] == "max" and self.features.interval[0] >= _SOLVED

    def judged(self, regime: str, why: str) -> tuple[str, str]:
        """The regime and why, after the proposal by numbers of pictures."""
        if self.useless and regime == "features":
            return "top", f"{self.said}: these features are worse than pixels, so the last stages are trained"
        if self.solved and regime != "features":
            return "features", f"{self.said}: there is nothing left that the trunk could learn"
        return regime, f"{why}; {self.said}"


def trial(
    start: Start, task: Task, data: Data, pre: Preprocess, device: Device, world: World, show: Show, seed: int
) -> Trial | None:
    """Try features of up to 256 training pictures; None where they are too few to say anything."""
    assert isinstance(task, FitsAtOnce)
    rows = data.rows("train")
    macs = nets.facts(start.spec["name"]).macs * (pre.size / nets.facts(start.spec["name"]).input[-1]) ** 2
    most = int(min(_MOST, max(_LEAST, _MACS / max(macs, 1))))
    random = np.random.default_rng(seed)
    rows = np.sort(random.choice(rows, most, replace=False)) if len(rows) > most else rows
    counts, _ = task.support(data.source, rows)
    if task.groups(data.source) is not None:
        return None  # whole classes are kept apart, so folds of pictures say nothing
    if len(rows) < _LEAST or float(np.mean(counts[counts > 0])) < _EACH:
        return None
    columns = data.columns_of(data.source, rows)
    split = open_split(columns, task, data.source, rows, pre, device, show, "some pictures")
    net: Any = device.placed(copy.deepcopy(start.net))

    def read(x: Tensor) -> Tensor:
        found = net.forward_features(x)
        small = F.adaptive_avg_pool2d(x.float(), _PIXELS)
        return torch.cat([(found.flatten(2).mean(2) if found.ndim > 2 else found).float(), small.flatten(1)], 1)

    with show.bar("trying the features") as bar:
        there, values = features_of(net, read, split.shown, device, world=world, show=bar)
    if len(there) < _LEAST:
        return None
    width = pre.channels * _PIXELS**2
    targets, strata = split.targets(there), strata_of(task, data.source, split.rows[there])
    how: dict[str, Any] = {"seed": seed, "most": 1, "kind": "linear" if "linear" in task.head_kinds else ""}
    parts = values[:, :-width], values[:, -width:], np.zeros((len(there), 1), np.float32)
    try:
        features, pixels, nothing = (cross_validate(part, targets, task, strata, **how) for part in parts)
    except DataError:
        return None
    if features is None or pixels is None or nothing is None:
        return None
    said = (
        f"on {counted(len(there))} the {task.figure} of a last layer alone is {task.shown(features.value)} "
        f"({task.shown(pixels.value)} on {_PIXELS}x{_PIXELS} pixels)"
    )
    return same_everywhere(Trial(task.goal, features, pixels, nothing, said), world)  # type: ignore[no-any-return]
