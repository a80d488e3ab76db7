"""The loss of a batch, and what a task keeps of the batches of a split, joined."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

if TYPE_CHECKING:
    from neocog.data.batches import Batch
    from neocog.tasks.task import Task

Seen = dict[str, np.ndarray]  # what `Task.observe` kept of a whole split, joined


@dataclass(slots=True)
class Losses:
    """The loss of one batch, by part.

    Attributes:
        parts: named scalars, each a mean over `count` things; their sum is minimised.
        count: how many things that is (pictures, labelled pixels, pairs): pieces of a batch, and the batches of
            several processes, are joined in these proportions.
        figures: named sums over the same things, detached, shown as curves of the training (number of right answers).
    """

    parts: dict[str, Tensor]
    count: Tensor | float
    figures: dict[str, Tensor] = field(default_factory=dict)

    @property
    def total(self) -> Tensor:
        """The sum of the parts."""
        return torch.stack(list(self.parts.values())).sum()


class Meter:
    """What `observe` gave for the batches of a split, joined; streams, and is joined over processes.

    Args:
        gather: joins a list of one value from each process into the list of all (``fit.parallel``).
    """

    def __init__(self, task: Task) -> None:
        self.task = task
        self._parts: dict[str, list[np.ndarray]] = {}

    def add(self, outputs: Any, batch: Batch) -> None:
        """Take one batch."""
        for name, value in self.task.observe(outputs, batch).items():
            made = value.detach().cpu().numpy() if isinstance(value, Tensor) else np.asarray(value)
            parts = self._parts.setdefault(name, [])
            if name in self.task.summed and parts:
                parts[0] = parts[0] + made
            else:  # a number of a whole batch is one of a row of such numbers
                parts.append(made if name in self.task.summed else np.atleast_1d(made))

    def seen(self, gather: Callable[[Any], Sequence[Any]] = lambda own: [own]) -> Seen:
        """Everything, of all processes; rows in the order of the pictures where each array has one for each."""
        joined = {
            name: parts[0] if name in self.task.summed else np.concatenate(parts) for name, parts in self._parts.items()
        }
        every = [one for one in gather(joined) if one]
        if not every:
            return {}
        made = {
            name: sum(one[name] for one in every[1:]) + every[0][name]
            if name in self.task.summed
            else np.concatenate([one[name] for one in every])
            for name in every[0]
        }
        return by_rows(made, self.task.summed)


def by_rows(seen: Seen, summed: Collection[str]) -> Seen:
    """The same in the order of ``seen["rows"]``, where an array has one value for each."""
    rows = seen.get("rows")
    if rows is None:
        return seen
    order = np.argsort(rows, kind="stable")
    return {
        name: value[order] if name not in summed and len(value) == len(rows) and not name.startswith("each_") else value
        for name, value in seen.items()
    }
