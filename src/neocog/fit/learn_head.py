"""Regime features: the pictures' features are computed once, and a last layer is fitted on them in seconds."""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path
from typing import Any

import numpy as np

from neocog import nets
from neocog.fit.fusion import fuse, put
from neocog.fit.heads import FOLDS, check_kind, choose, cross_validate, group_folds, part, strata_of, stratified_folds
from neocog.fit.job import Data, Job
from neocog.fit.kept import Kept, neighbours
from neocog.fit.steady import key_of
from neocog.fit.suspects import doubted, out_of_fold
from neocog.fit.transfer import FEW, ONE_SPLIT, each_class
from neocog.nets.descriptors import Fused
from neocog.nets.taps import LAST
from neocog.records import counted

_GROUPS_UP_TO = 20_000  # pictures among which near-duplicates are looked for before cross-validation


def learn_head(job: Job) -> None:
    """Compute the features, fit the last layer of ``job.net``, and cross-validate where pictures are few.

    Sets ``job.kept`` and ``job.cross``; the log gets a record "head".
    """
    plan, show = job.plan, job.show
    net: Any = job.net.eval()
    assert plan.start is not None
    began = time.monotonic()
    training, validation = job.splits["train"], job.splits["val"]
    others = [*(Path(one) for one in [plan.start["weights"]] if one), *neighbours(job.folder)]
    kept = job.kept = Kept(net, key_of(job), job.folder, others, job.device, job.world, show)
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
    groups = _groups(job.data, seen, plan.mirror) if apart is None and (few or crossed) else None
    strata = strata_of(task, source, seen)
    # a validation picture or two of each class say less about the strength than every training picture in its turn;
    # so do a few groups
    held_out = (val_x, val_y) if apart is None and not few and len(val_x) >= 5 * len(counts) else None
    folds, copies = None, None if groups is None else groups[: len(x)]
    good = np.ones(len(x), dtype=bool)
    if r.noisy and task.classifies:  # figures are of all pictures
        doubts, _ = doubted(out_of_fold(x, y["label"], task, copies), y["label"])
        good[doubts if len(doubts) < len(x) / 2 else []] = False
        left = f"{counted(len(x) - int(good.sum()), 'label')} of {len(x):,} are probably wrong and not learned from"
        show.say(f"noisy: {left if len(doubts) < len(x) / 2 else 'the features do not tell which labels are wrong'}")
        copies = None if copies is None else copies[good]
    if apart is not None:
        folds = group_folds(apart[training.rows[rows]], FOLDS, plan.seed)
    elif held_out is None and not r.strength:
        folds = stratified_folds(strata[: len(x)][good], FOLDS, copies, plan.seed)
    own, own_y, judged = x[good], part(y, good), None
    if task.fits_mirrored and plan.augment.flip != "none":
        more, mirrored = kept.of(training.shown, "train-mirrored", mirrored=True)
        same = training.targets(more)
        own, own_y = np.concatenate((x, mirrored)), {k: np.concatenate((v, same[k])) for k, v in y.items()}
        judged = np.arange(len(own)) < len(x)
        folds = None if folds is None else np.concatenate((folds, folds[np.searchsorted(rows, more)]))
    layers = (plan.taps or {}).get("layers", ())
    parts = net.parts if layers[1:] == [LAST] else ()  # layers that were not named are tried one by one
    kind = check_kind(r.head, task)
    how: dict[str, Any] = {"kind": kind, "strength": r.strength, "held_out": held_out, "folds": folds, "judged": judged}
    if isinstance(layer, Fused):
        head = fuse(layer, own, own_y, task, **how)
    else:
        head = choose(own, own_y, task, parts=parts, **how)
        put(layer, head)
    if parts:
        what = f"the maps of {layers[0]}" if head.part == 0 else "the input of the net's last layer"
        head = dataclasses.replace(head, chosen=f"{head.chosen or 'given'}, as that it reads {what}")
    fitted = time.monotonic()
    if crossed:
        both = {name: np.concatenate((y[name], val_y[name])) for name in y} if len(val_x) else y
        job.cross = cross_validate(
            np.concatenate((x, val_x)) if len(val_x) else x,
            both,
            task,
            strata,
            kind=kind,
            strength=r.strength,
            groups=groups,
            seed=plan.seed,
            folds=r.folds or FOLDS,
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


def _groups(data: Data, index: np.ndarray, mirrored: bool) -> np.ndarray | None:
    """Near-duplicates share a number, mirrored ones if wanted; None where there are too many pictures to look."""
    if len(index) > _GROUPS_UP_TO:
        return None
    from neocog.data.check import fast_groups

    return fast_groups(data.source, index, mirrored=mirrored)
