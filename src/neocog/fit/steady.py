"""Regime features by steps: what the frozen trunk makes of the pictures is computed once, and the loop runs on that."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from neocog import nets
from neocog.data.batches import Batches
from neocog.data.ready import Ready, Vectors
from neocog.fit.inputs import split_of
from neocog.fit.job import Job, Split
from neocog.fit.kept import Kept, fingerprint, neighbours


def features_in_place_of_pictures(job: Job) -> None:
    """Put features in the place of the pictures of every split, and of the training's feed.

    Training pictures also have those of their mirror images, as another view, if the plan mirrors them.
    """
    plan = job.plan
    assert plan.start is not None
    others = [Path(plan.start["weights"]), *neighbours(job.folder)]
    kept = Kept(job.net.eval(), key_of(job), job.folder, others, job.device, job.world, job.show)
    job.splits["test"] = split_of(job, *job.data.testing(), "test pictures")
    for name, split in job.splits.items():
        mirrored = name == "train" and plan.augment.flip != "none"
        job.splits[name] = _as_vectors(kept, split, name, mirrored=mirrored)
    training = job.splits["train"]
    job.feed = Batches(
        training.pictures,
        training.known,
        plan.augment,
        plan.batch,
        seed=plan.seed,
        device=job.device.torch,
        dtype=job.device.dtype,
        order=lambda g: job.task.order(training.known.columns, len(training), min(plan.batch, len(training)), g),
        rank=job.world.rank,
        world=job.world.size,
        texts=job.task.shown_texts,
    )


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
