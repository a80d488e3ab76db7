"""Regime features: the pictures' features are computed once, and a last layer is fitted on them in seconds."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from neocog import nets
from neocog.fit.device import Device
from neocog.fit.heads import FOLDS, cross_validate, fit_head
from neocog.fit.inputs import Data, Inputs
from neocog.fit.kept import Kept, fingerprint, neighbours
from neocog.fit.parallel import World
from neocog.fit.run import Log
from neocog.fit.show import Show
from neocog.fit.transfer import FEW, ONE_SPLIT, each_class
from neocog.records import counted

_GROUPS_UP_TO = 20_000  # pictures among which near-duplicates are looked for before cross-validation


def learn_head(made: Inputs, parts: Data, folder: Path, device: Device, world: World, log: Log, show: Show) -> None:
    """Compute the features, fit the last layer of ``made.net``, and cross-validate where pictures are few.

    Sets ``made.kept`` and ``made.cross``; the log gets a record "head".
    """
    plan, net, classes = made.plan, made.net.eval(), len(made.plan.classes)
    assert plan.start is not None
    began = time.monotonic()
    others = [Path(plan.start["weights"]), *neighbours(folder)]
    kept = made.kept = Kept(net, _key(made, parts, device), folder, others, device, world, show)
    rows, x = kept.of(made.training, "train")
    y = made.train_labels.numpy()[rows]
    val_rows, val_x = kept.of(made.validation, "val")
    val_index = made.val_rows[val_rows]
    val_y = parts.source.labels[val_index].astype(np.int64)
    looked = time.monotonic()

    r = plan.recipe
    weights = None if made.task.weights is None else made.task.weights.numpy()
    how: dict[str, Any] = {"kind": r.head, "strength": r.strength, "weights": weights, "seed": plan.seed}
    few = each_class(np.bincount(y, minlength=classes)) < FEW
    crossed = r.folds > 1 or (few and r.folds == 0)
    groups = _groups(parts, np.concatenate((made.train_rows[rows], val_index))) if few or crossed else None
    # a validation picture or two of each class say less about the strength than every training picture in its turn
    held_out = (val_x, val_y) if not few and len(val_y) >= 5 * classes else None
    head = fit_head(x, y, classes, held_out=held_out, groups=None if groups is None else groups[: len(y)], **how)
    layer = nets.head_of(net)
    with torch.no_grad():
        layer.weight.copy_(torch.from_numpy(head.weight))  # type: ignore[operator, union-attr]
        layer.bias.copy_(torch.from_numpy(head.bias))  # type: ignore[operator, union-attr]
    fitted = time.monotonic()
    if crossed:
        both = np.concatenate((x, val_x)) if len(val_y) else x
        how |= {"folds": r.folds or FOLDS, "costly": r.folds > 1, "groups": groups}
        made.cross = cross_validate(both, np.concatenate((y, val_y)), classes, **how)
        if made.cross is None:
            show.say(f"note: {ONE_SPLIT}")
    log.write(
        "head",
        head=head.kind,
        strength=head.strength,
        chosen=head.chosen or "given",
        tried=head.tried,
        features=int(x.shape[1]),
        pictures=len(y),
        seen=kept.seen,
        feature_seconds=looked - began,
        fit_seconds=fitted - looked,
        cross_seconds=time.monotonic() - fitted,
    )
    found = "" if kept.seen else ", all at hand"
    show.say(
        f"{head.kind} head on {counted(x.shape[1], 'feature')} of {counted(len(y))}{found}: strength {head.strength:g} "
        f"({head.chosen or 'given'}); features {looked - began:.1f} s, head {fitted - looked:.1f} s"
    )


def _groups(parts: Data, index: np.ndarray) -> np.ndarray | None:
    """Near-duplicates share a number; None where there are too many pictures to look."""
    if len(index) > _GROUPS_UP_TO:
        return None
    from neocog.data.check import fast_groups

    return fast_groups(parts.source, index)


def _key(made: Inputs, parts: Data, device: Device) -> str:
    """What features depend on: pictures, splits, weights of the trunk, layers, preprocessing and precision."""
    net, plan = made.net, made.plan
    values = {
        "data": parts.fingerprint(),
        "splits": hashlib.sha256(parts.codes.tobytes()).hexdigest(),
        "weights": fingerprint(net.state_dict(), without=[str(net.head)]),
        "net": {k: v for k, v in plan.net.items() if k != "classes"},
        "taps": plan.taps,
        "preprocess": dataclasses.asdict(made.training.pre),
        "device": [device.kind, device.bf16],
    }
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()
