"""Regime features: the pictures' features are computed once, and a last layer is fitted on them in seconds."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from neocog import nets
from neocog.data.batches import Batch
from neocog.fit.features import LAST
from neocog.fit.heads import FOLDS, CrossValidated, Head, choose, cross_validate, fit_head
from neocog.fit.job import Data, Job, Split
from neocog.fit.kept import Kept, fingerprint, neighbours
from neocog.fit.transfer import FEW, ONE_SPLIT, each_class
from neocog.records import counted
from neocog.tasks import Meter

_HELD_OUT = 20  # validation pictures from which on they choose the strength
_GROUPS_UP_TO = 20_000  # pictures among which near-duplicates are looked for before cross-validation


def learn_head(job: Job) -> None:
    """Compute the features, fit the last layer of ``job.net``, and cross-validate where pictures are few.

    Sets ``job.kept`` and ``job.cross``; the log gets a record "head".
    """
    plan, net, show = job.plan, job.net.eval(), job.show
    assert plan.start is not None
    began = time.monotonic()
    training, validation = job.splits["train"], job.splits["val"]
    others = [Path(plan.start["weights"]), *neighbours(job.folder)]
    kept = job.kept = Kept(net, _key(job), job.folder, others, job.device, job.world, show)
    rows, x = kept.of(training.pictures[0], "train")
    kept.of(validation.pictures[0], "val")
    looked = time.monotonic()
    head, cross = _fit_label(job, kept) if job.task.name == "label" else (_fit(job, kept), None)
    layer = nets.head_of(net)
    with torch.no_grad():
        layer.weight.copy_(torch.from_numpy(head.weight))  # type: ignore[operator, union-attr]
        layer.bias.copy_(torch.from_numpy(head.bias))  # type: ignore[operator, union-attr]
    fitted = time.monotonic()
    if cross is not None:
        job.cross = cross()
        if job.cross is None:
            show.say(f"note: {ONE_SPLIT}")
    job.log.write(
        "head",
        head=head.kind,
        strength=head.strength,
        chosen=head.chosen or "given",
        judge="log loss" if job.task.name == "label" else job.task.figure if job.task.whole_batch else "loss",
        tried=head.tried,
        features=int(x.shape[1]),
        pictures=len(rows),
        seen=kept.seen,
        feature_seconds=looked - began,
        fit_seconds=fitted - looked,
        cross_seconds=time.monotonic() - fitted,
    )
    found = "" if kept.seen else ", all at hand"
    show.say(
        f"{head.kind} head on {counted(x.shape[1], 'feature')} of {counted(len(rows))}{found}: strength "
        f"{head.strength:g} ({head.chosen or 'given'}); features {looked - began:.1f} s, head {fitted - looked:.1f} s"
    )


def _fit(job: Job, kept: Kept) -> Head:
    """The last layer of a task that says how it is fitted; its strength by the loss on pictures that were held out.

    A loss that compares the pictures of a batch depends on which they are; there the goal is the judge.
    """
    task = job.task
    judge, better = task.goal if task.whole_batch else ("loss", "min")
    training = job.splits["train"]
    x, targets = _known(training, kept, "train")
    val_x, val_targets = _known(job.splits["val"], kept, "val")
    groups = task.groups(training.source)
    groups = np.arange(len(x)) if groups is None else groups[training.rows[kept.of(training.pictures[0], "train")[0]]]
    judged = None
    if job.plan.augment.flip != "none":
        more, same = _known(training, kept, "train-mirrored", mirrored=True)
        judged = np.arange(len(x) + len(more)) < len(x)
        x, groups = np.concatenate((x, more)), np.concatenate((groups, groups))
        targets = {key: np.concatenate((value, same[key])) for key, value in targets.items()}

    def score(outputs: np.ndarray, part: dict[str, np.ndarray]) -> float:
        n = len(outputs)
        tensors = {name: torch.from_numpy(value) for name, value in part.items()}
        meter = Meter(task)
        meter.add(torch.from_numpy(outputs), Batch((), tensors, torch.arange(n), torch.ones(n, dtype=torch.bool)))
        return float(task.figures(meter.seen())[judge]) * (1 if better == "max" else -1)

    # as many groups as validation has say less about the strength than every training group in its turn
    alone = task.groups(training.source) is None
    held_out = (val_x, val_targets) if alone and len(val_x) >= _HELD_OUT else None
    units, of_unit = np.unique(groups, return_inverse=True)
    count = FOLDS if alone else max(2, min(FOLDS, len(units) // 2))  # with two groups or more in each
    folds = (np.random.default_rng(job.plan.seed).permutation(len(units)) % count)[of_unit]
    net: Any = job.net  # layers that were not named are tried one by one
    layers = (job.plan.taps or {}).get("layers", ())
    parts = net.parts if layers[1:] == [LAST] else ()
    head = choose(
        x,
        targets,
        task.fit_head,
        score,
        kind=task.name,
        strength=job.plan.recipe.strength,
        held_out=held_out,
        folds=folds,
        judged=judged,
        parts=parts,
    )
    if parts:
        what = f"the maps of {layers[0]}" if head.part == 0 else "the input of the net's last layer"
        head = dataclasses.replace(head, chosen=f"{head.chosen}, as that it reads {what}")
    return head


def _known(split: Split, kept: Kept, name: str, mirrored: bool = False) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Features of a split's pictures, and the task's targets for them."""
    rows, x = kept.of(split.pictures[0], name, mirrored)
    which = torch.from_numpy(rows)
    made = split.known.collate(split.known.values(which), None, torch.ones(len(rows), dtype=torch.bool))
    return x, {key: value.numpy() for key, value in made.items()}


def _fit_label(job: Job, kept: Kept) -> tuple[Head, Callable[[], CrossValidated | None] | None]:
    """The last layer for one label, and where pictures are few, its cross-validation."""
    task: Any = job.task
    plan, classes = job.plan, len(task.classes)
    training, validation = job.splits["train"], job.splits["val"]
    rows, x = kept.of(training.pictures[0], "train")
    y = job.labels("train").numpy()[rows]
    val_rows, val_x = kept.of(validation.pictures[0], "val")
    val_y = job.labels("val").numpy()[val_rows]
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
    if not crossed:
        return head, None
    both = np.concatenate((x, val_x)) if len(val_y) else x
    how |= {"folds": r.folds or FOLDS, "costly": r.folds > 1, "groups": groups}
    return head, lambda: cross_validate(both, np.concatenate((y, val_y)), classes, **how)


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
