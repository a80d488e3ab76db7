"""Regime features: what the frozen trunk makes of the pictures is computed once, and a last layer learns on that.

It is fitted in seconds where the task can be, else the loop runs on the features. Late fusion fits a linear layer for
each part of the features, and averages their probabilities: by weights under which held-out pictures are most likely,
found by expectation-maximisation (the likelihood has one maximum), after a temperature for each part.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from neocog import nets
from neocog.data.check import fast_groups
from neocog.data.ready import Ready, Vectors
from neocog.errors import UsageError
from neocog.fit import heads
from neocog.fit.inputs import feed_of, split_of
from neocog.fit.job import Job, Split
from neocog.fit.kept import Kept, fingerprint, neighbours
from neocog.fit.suspects import doubted, out_of_fold
from neocog.fit.transfer import FEW, ONE_SPLIT, each_class
from neocog.nets.descriptors import Fused
from neocog.nets.taps import LAST
from neocog.records import counted
from neocog.tasks.at_once import Arrays, as_seen
from neocog.tasks.measures import fit_temperature, softmax

_GROUPS_UP_TO = 20_000  # pictures among which near-duplicates are looked for before cross-validation


def learn_head(job: Job) -> None:
    """Compute the features, fit the last layer of ``job.net``, and cross-validate where pictures are few.

    Sets ``job.kept`` and ``job.cross``; the log gets a record "head".
    """
    plan, show = job.plan, job.show
    net: Any = job.net.eval()
    began = time.monotonic()
    training, validation = job.splits["train"], job.splits["val"]
    kept = job.kept = kept_of(job)
    (rows, x), (val_rows, val_x) = kept.of(training.shown, "train"), kept.of(validation.shown, "val")
    y, val_y = training.targets(rows), validation.targets(val_rows)
    looked = time.monotonic()
    task: Any = job.task
    r, source, seen = plan.recipe, job.data.source, np.concatenate((training.rows[rows], validation.rows[val_rows]))
    counts, _ = task.support(source, seen[: len(rows)])
    few = each_class(counts) < FEW
    apart = task.groups(source)  # whole classes, say, are kept apart
    layer = nets.head_of(net)
    crossed = apart is None and not isinstance(layer, Fused) and (r.folds > 1 or (few and r.folds == 0))
    wanted = apart is None and (few or crossed) and len(seen) <= _GROUPS_UP_TO
    groups = fast_groups(source, seen, mirrored=plan.mirror) if wanted else None
    strata = heads.strata_of(task, source, seen)
    # a validation picture or two of each class say less about the strength than every training picture in its turn;
    # so do a few groups
    held_out = (val_x, val_y) if apart is None and not few and len(val_x) >= 5 * len(counts) else None
    folds, copies = None, None if groups is None else groups[: len(x)]
    good = np.ones(len(x), dtype=bool)
    if r.noisy and task.classifies:  # figures are of all pictures
        doubts, _ = doubted(out_of_fold(x, y["label"], task, copies), y["label"])
        good[doubts if len(doubts) < len(x) / 2 else []] = False
        left = f"{counted(len(x) - int(good.sum()), f'label of {len(x):,}', 'is')} probably wrong and not learned from"
        show.say(f"noisy: {left if len(doubts) < len(x) / 2 else 'the features do not tell which labels are wrong'}")
        copies = None if copies is None else copies[good]
    if apart is not None:
        folds = heads.group_folds(apart[training.rows[rows]], heads.FOLDS, plan.seed)
    elif held_out is None and not r.strength:
        folds = heads.stratified_folds(strata[: len(x)][good], heads.FOLDS, copies, plan.seed)
    own, own_y, judged = x[good], heads.part(y, good), None
    if task.fits_mirrored and plan.augment.flip != "none":
        more, mirrored = kept.of(training.shown, "train-mirrored", mirrored=True)
        same = training.targets(more)
        own, own_y = np.concatenate((x, mirrored)), {k: np.concatenate((v, same[k])) for k, v in y.items()}
        judged = np.arange(len(own)) < len(x)
        folds = None if folds is None else np.concatenate((folds, folds[np.searchsorted(rows, more)]))
    layers = (plan.taps or {}).get("layers", ())
    parts = net.parts if layers[1:] == [LAST] else ()  # layers that were not named are tried one by one
    kind = heads.check_kind(r.head, task)
    how: dict[str, Any] = {"kind": kind, "strength": r.strength, "held_out": held_out, "folds": folds, "judged": judged}
    if isinstance(layer, Fused):
        head = fuse(layer, own, own_y, task, **how)
    else:
        head = heads.choose(own, own_y, task, parts=parts, **how)
        put(layer, head)
    if parts:
        what = f"the maps of {layers[0]}" if head.part == 0 else "the input of the net's last layer"
        head = dataclasses.replace(head, chosen=f"{head.chosen or 'given'}, as that it reads {what}")
    fitted = time.monotonic()
    if crossed:
        both = {name: np.concatenate((y[name], val_y[name])) for name in y} if len(val_x) else y
        job.cross = heads.cross_validate(
            np.concatenate((x, val_x)) if len(val_x) else x,
            both,
            task,
            strata,
            kind=kind,
            strength=r.strength,
            groups=groups,
            seed=plan.seed,
            folds=r.folds or heads.FOLDS,
            costly=r.folds > 1,
        )
        if job.cross is None:
            show.say(f"note: {ONE_SPLIT}")
    job.log.write(
        "head",
        head=head.kind,
        strength=head.strength,
        chosen=head.chosen or "given",
        doubted=int((~good).sum()),
        judge=task.head_judge,
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


_ROUNDS = 200  # of expectation-maximisation


def fuse(layer: Fused, features: np.ndarray, targets: Arrays, task: Any, **how: Any) -> heads.Head:
    """Fit every part of the layer, and say how much each counts; returns the head of the one that counts most.

    Args:
        how: as for `heads.choose`; where pictures are held out, or folds made, the weights are found on these, else all
            parts count alike.

    Raises: UsageError: the task has no probabilities that could be averaged.
    """
    if not task.classifies:
        raise UsageError(f"late fusion averages the probabilities of classes, and the task {task.name} has none")
    held_out, folds, judged = how.pop("held_out"), how["folds"], how["judged"]
    fitted, logits = [], []
    for columns, linear in zip(layer.parts, layer.layers, strict=True):
        some = features[:, columns]
        out = None if held_out is None else (held_out[0][:, columns], held_out[1])
        head = heads.choose(some, targets, task, held_out=out, **how)
        put(linear, head)
        fitted.append(head)
        if out is not None:
            logits.append(head.logits(out[0]))
        elif folds is not None:
            found = np.zeros((len(some), task.outputs), np.float32)
            for fold in range(int(folds.max()) + 1):
                away = folds == fold
                again: dict[str, Any] = {"kind": head.kind, "strength": head.strength}
                if task.learnable(inside := heads.part(targets, ~away)):
                    found[away] = heads.choose(some[~away], inside, task, **again).logits(some[away])
            logits.append(found if judged is None else found[judged])
    if not logits:
        return fitted[0]
    labels = (
        held_out[1]["label"] if held_out is not None else targets["label"][slice(None) if judged is None else judged]
    )
    temperatures = [fit_temperature(one, labels) for one in logits]
    rows = np.arange(len(labels))
    of_part = np.stack([softmax(one, t)[rows, labels] for one, t in zip(logits, temperatures, strict=True)], 1)
    shares = np.full(len(fitted), 1 / len(fitted))
    for _ in range(_ROUNDS):
        told = of_part * shares
        shares = (told / told.sum(1, keepdims=True).clip(1e-30)).mean(0)
    layer.shares.copy_(torch.from_numpy(shares))
    layer.temperatures.copy_(torch.tensor(temperatures))
    most = int(shares.argmax())
    return replace(fitted[most], chosen=f"{fitted[most].chosen or 'given'}, of {layer.names[most]}, which counts most")


def put(layer: nn.Module, head: heads.Head) -> None:
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


def features_in_place_of_pictures(job: Job) -> None:
    """Put features in the place of the pictures of every split, and of the training's feed.

    Training pictures also have those of their mirror images, as another view, if the plan mirrors them.
    """
    kept = kept_of(job)
    job.splits["test"] = split_of(job, *job.data.testing(), "test pictures")
    for name, split in job.splits.items():
        mirrored = name == "train" and job.plan.augment.flip != "none"
        job.splits[name] = _as_vectors(kept, split, name, mirrored=mirrored)
    job.feed = feed_of(job)


def _as_vectors(kept: Kept, split: Split, name: str, *, mirrored: bool) -> Split:
    """A split of which the net is shown features; pictures that cannot be read are left out."""
    if isinstance(split.pictures[0], Ready):
        return split
    pictures = split.shown
    rows, values = kept.of(pictures, name)
    views = [values]
    if mirrored:
        more, turned = kept.of(pictures, f"{name}-mirrored", mirrored=True)
        assert np.array_equal(rows, more), "a picture that can be read once can be read again"
        views.append(turned)
    return Split(
        (Vectors(views, pictures.pre, pictures.problems),), split.source, split.rows[rows], split.known.select(rows)
    )


def kept_of(job: Job) -> Kept:
    """The features of a job's trunk, also those that its start and runs beside it have."""
    weights = (job.plan.start or {}).get("weights")
    others = [*([Path(weights)] if weights else ()), *neighbours(job.folder)]
    return Kept(job.net.eval(), key_of(job), job.folder, others, job.device, job.world, job.show)


def key_of(job: Job) -> str:
    """What features depend on: pictures, splits, weights of the trunk, layers, preprocessing and precision."""
    net, plan = job.net, job.plan
    values: dict[str, Any] = {
        "data": job.data.fingerprint(),
        "splits": hashlib.sha256(job.data.codes.tobytes()).hexdigest(),
        "weights": fingerprint(net.state_dict(), without=[str(net.head)]),
        "net": {k: v for k, v in plan.net.items() if k != "classes"},
        "taps": plan.taps,
        "preprocess": asdict(plan.preprocess),
        "device": [job.device.kind, job.device.bf16],
    }
    if reads := getattr(nets.head_of(net), "reads", ""):
        values["reads"] = reads
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()
