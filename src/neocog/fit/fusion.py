"""Late fusion: a linear layer for each part of the features, fitted by itself, and the mean of their probabilities.

The weights of the mean are those under which held-out pictures are most likely, found by expectation-maximisation (the
likelihood has one maximum); each part's probabilities are calibrated by a temperature before.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import nn

from neocog import nets
from neocog.errors import UsageError
from neocog.fit.heads import Head, choose, part
from neocog.fit.job import Job
from neocog.nets.descriptors import Fused
from neocog.tasks.at_once import Arrays, as_seen
from neocog.tasks.measures import fit_temperature, softmax

_ROUNDS = 200  # of expectation-maximisation


def fuse(layer: Fused, features: np.ndarray, targets: Arrays, task: Any, **how: Any) -> Head:
    """Fit every part of the layer, and say how much each counts; returns the head of the one that counts most.

    Args:
        how: as for `heads.choose`; where pictures are held out, or folds made, the weights are found on these, else all
            parts count alike.

    Raises: UsageError: the task has no probabilities that could be averaged.
    """
    if not task.classifies:
        raise UsageError(f"late fusion averages the probabilities of classes, and the task {task.name} has none")
    held_out, folds, judged = how.pop("held_out"), how["folds"], how["judged"]
    heads, logits = [], []
    for columns, linear in zip(layer.parts, layer.layers, strict=True):
        some = features[:, columns]
        out = None if held_out is None else (held_out[0][:, columns], held_out[1])
        head = choose(some, targets, task, held_out=out, **how)
        put(linear, head)
        heads.append(head)
        if out is not None:
            logits.append(head.logits(out[0]))
        elif folds is not None:
            found = np.zeros((len(some), task.outputs), np.float32)
            for fold in range(int(folds.max()) + 1):
                away = folds == fold
                again: dict[str, Any] = {"kind": head.kind, "strength": head.strength}
                if task.learnable(inside := part(targets, ~away)):
                    found[away] = choose(some[~away], inside, task, **again).logits(some[away])
            logits.append(found if judged is None else found[judged])
    if not logits:
        return heads[0]
    labels = (
        held_out[1]["label"] if held_out is not None else targets["label"][slice(None) if judged is None else judged]
    )
    temperatures = [fit_temperature(one, labels) for one in logits]
    rows = np.arange(len(labels))
    of_part = np.stack([softmax(one, t)[rows, labels] for one, t in zip(logits, temperatures, strict=True)], 1)
    shares = np.full(len(heads), 1 / len(heads))
    for _ in range(_ROUNDS):
        told = of_part * shares
        shares = (told / told.sum(1, keepdims=True).clip(1e-30)).mean(0)
    layer.shares.copy_(torch.from_numpy(shares))
    layer.temperatures.copy_(torch.tensor(temperatures))
    most = int(shares.argmax())
    return replace(heads[most], chosen=f"{heads[most].chosen or 'given'}, of {layer.names[most]}, which counts most")


def put(layer: nn.Module, head: Head) -> None:
    """Give a linear layer the weights that were fitted."""
    with torch.no_grad():
        layer.weight.copy_(torch.from_numpy(head.weight))  # type: ignore[operator, union-attr]
        layer.bias.copy_(torch.from_numpy(head.bias))  # type: ignore[operator, union-attr]


def parts_of(job: Job) -> list[dict[str, Any]]:
    """How much each part of a fused layer counts, and its figures alone; then those of all together.

    Returns:
        [{"part", "features", "share", "val", "test"}], the last two by the task's goal; [] for any other layer.
    """
    layer, task = nets.head_of(job.net), job.task
    if not isinstance(layer, Fused) or job.kept is None:
        return []
    layer = layer.cpu()
    most = max(columns.stop - columns.start for columns in layer.parts)
    rows: list[dict[str, Any]] = [
        {"part": name, "features": columns.stop - columns.start, "share": float(share)}
        for name, columns, share in zip(layer.names, layer.parts, layer.shares, strict=True)
    ] + [{"part": "fused", "features": most, "share": 1.0}]
    for split in ("val", "test"):
        shown = job.splits[split]
        there, values = job.kept.of(shown.shown, split)
        if len(there):
            x, targets = torch.from_numpy(values), shown.targets(there)
            with torch.no_grad():
                outputs = [one(x[:, columns]) for columns, one in zip(layer.parts, layer.layers, strict=True)]
                outputs.append(layer(x))
            for row, made in zip(rows, outputs, strict=True):
                row[split] = float(task.figures(as_seen(task, made.numpy(), targets))[task.goal[0]])
    return rows
