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
from neocog.fit.heads import FOLDS, cross_validate, fit_head
from neocog.fit.job import Data, Job
from neocog.fit.kept import Kept, fingerprint, neighbours
from neocog.fit.transfer import FEW, ONE_SPLIT, each_class
from neocog.records import counted

_GROUPS_UP_TO = 20_000  # pictures among which near-duplicates are looked for before cross-validation


def learn_head(job: Job) -> None:
    """Compute the features, fit the last layer of ``job.net``, and cross-validate where pictures are few.

    Sets ``job.kept`` and ``job.cross``; the log gets a record "head".
    """
    task: Any = job.task
    plan, net, classes, show = job.plan, job.net.eval(), len(task.classes), job.show
    assert plan.start is not None
    began = time.monotonic()
    training, validation = job.splits["train"], job.splits["val"]
    others = [Path(plan.start["weights"]), *neighbours(job.folder)]
    kept = job.kept = Kept(net, _key(job), job.folder, others, job.device, job.world, show)
    rows, x = kept.of(training.pictures[0], "train")
    y = job.labels("train").numpy()[rows]
    val_rows, val_x = kept.of(validation.pictures[0], "val")
    val_y = job.labels("val").numpy()[val_rows]
    looked = time.monotonic()

    r = plan.recipe
    weights = None if task.weights is None else task.weights.numpy()
    how: dict[str, Any] = {"kind": r.head, "strength": r.strength, "weights": weights, "seed": plan.seed}
    few = each_class(np.bincount(y, minlength=classes)) < FEW
    crossed = r.folds > 1 or (few and r.folds == 0)
    seen = np.concatenate((training.rows[rows], validation.rows[val_rows]))
    groups = _groups(job.data, seen, plan.mirror) if few or crossed else None
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
        job.cross = cross_validate(both, np.concatenate((y, val_y)), classes, **how)
        if job.cross is None:
            show.say(f"note: {ONE_SPLIT}")
    job.log.write(
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


def _groups(data: Data, index: np.ndarray, mirrored: bool) -> np.ndarray | None:
    """Near-duplicates share a number, mirrored ones if wanted; None where there are too many pictures to look."""
    if len(index) > _GROUPS_UP_TO:
        return None
    from neocog.data.check import fast_groups

    return fast_groups(data.source, index, mirrored=mirrored)


def _key(job: Job) -> str:
    """What features depend on: pictures, splits, weights of the trunk, layers, preprocessing and precision."""
    net, plan = job.net, job.plan
    values = {
        "data": job.data.fingerprint(),
        "splits": hashlib.sha256(job.data.codes.tobytes()).hexdigest(),
        "weights": fingerprint(net.state_dict(), without=[str(net.head)]),
        "net": {k: v for k, v in plan.net.items() if k != "classes"},
        "taps": plan.taps,
        "preprocess": dataclasses.asdict(plan.preprocess),
        "device": [job.device.kind, job.device.bf16],
    }
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()
