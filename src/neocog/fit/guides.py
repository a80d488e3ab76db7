"""What a training learns from beside the labels of its batches: what it answered before, teachers, unlabelled pictures.

A guide adds a part to the loss of each batch. The tensors that it keeps are part of the checkpoint.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from neocog.data import open_source
from neocog.data.augment import Augment, smaller
from neocog.data.batches import NOTHING, Batch, Batches, normalised
from neocog.data.reader import PICTURE
from neocog.data.source import Source
from neocog.errors import DataError, RunError, UsageError
from neocog.fit.evaluating import floated
from neocog.fit.job import Job, open_split
from neocog.fit.kept import fingerprint
from neocog.fit.parallel import World, gathered
from neocog.fit.predicting import Run
from neocog.records import SPLITS, Preprocess, some_of
from neocog.tasks import Losses
from neocog.tasks.experience import judging


class Guide:
    """One of them; this one adds nothing."""

    whole_batch = False  # whether batches may not be computed in pieces
    tensors: dict[str, Tensor] = {}  # noqa: RUF012  # what it keeps, changed in place

    def begin(self, step: int) -> None:
        """The training begins, or goes on, at a step."""

    def beside(self, net: nn.Module, batch: Batch) -> Tensor | None:
        """Pictures that the net is shown together with those of a batch."""
        return None

    def add(self, found: Losses, outputs: Tensor, beside: Tensor, batch: Batch) -> None:
        """Add to the losses of a batch: its `outputs` (B, K), and those for the pictures `beside` it (M, K)."""

    def share(self, world: World) -> None:
        """After a step: what other processes have kept is kept here, too."""


class Memory(Guide):
    """Early-learning regularisation (Liu et al. 2020, arXiv:2007.00151, equations 6 and 9).

    A net learns what most pictures of a class have in common before it learns wrong labels by heart. So a running
    average of the predictions for each picture is kept, and ``weight * log(1 - <average, prediction>)`` holds the net
    to it, where labels would pull it away later.

    Args:
        pictures: of the training split; their averages take pictures x classes x 4 bytes.
        keep: the share of the average that stays when a picture is seen again.
    """

    def __init__(self, pictures: int, classes: int, weight: float, keep: float, device: torch.device) -> None:
        self.weight, self.keep = weight, keep
        self.average = torch.zeros(pictures, classes, device=device)
        self.tensors = {"average": self.average}
        self._seen: list[Tensor] = []

    def add(self, found: Losses, outputs: Tensor, beside: Tensor, batch: Batch) -> None:
        p = outputs.float().softmax(1).clamp(1e-4, 1.0 - 1e-4)
        rows = batch.rows.to(p.device)
        known = batch.targets["label"] >= 0
        fresh = p.detach() / p.detach().sum(1, keepdim=True)
        self.average[rows[known]] = self.average[rows[known]].lerp(fresh[known], 1.0 - self.keep)
        self._seen.append(batch.rows[known.cpu()])
        term = (1.0 - (self.average[rows] * p).sum(1)).log()
        found.parts["early"] = self.weight * (term * known).sum() / len(p)

    def share(self, world: World) -> None:
        rows, self._seen = torch.cat(self._seen), []
        if world.size > 1:
            every, values = gathered(rows, world), gathered(self.average[rows.to(self.average.device)], world)
            self.average[every.to(self.average.device)] = values.to(self.average)


class Teachers(Guide):
    """Distillation (Hinton, Vinyals and Dean 2015, arXiv:1503.02531, section 2).

    The loss is ``(1 - share)`` of that of the labels and ``share`` of ``T^2 KL``, from the mean of the teachers'
    probabilities at temperature T to the net's own. Teachers see the pictures as the net sees them: cut, mirrored and
    mixed in the same way, at their own size.
    """

    def __init__(self, runs: list[Run], job: Job) -> None:
        recipe = job.plan.recipe
        self.share_, self.t, self.device, self.pre = recipe.teach, recipe.soften, job.device, job.plan.preprocess
        classes = job.task.classes  # type: ignore[attr-defined]
        self.nets = [
            (
                job.device.placed(run.net()).requires_grad_(False),
                run.preprocess,
                torch.tensor([run.classes.index(name) for name in classes], device=job.device.torch),
            )
            for run in runs
        ]

    @torch.no_grad()
    def say(self, x: Tensor) -> Tensor:
        """The mean of their probabilities (B, K) for a batch's pictures."""
        told = []
        for net, pre, order in self.nets:
            with self.device.autocast():
                logits = floated(net(reread(x, self.pre, pre)))
            told.append((logits[:, order] / self.t).softmax(1))
        return torch.stack(told).mean(0)

    def add(self, found: Losses, outputs: Tensor, beside: Tensor, batch: Batch) -> None:
        soft = F.kl_div((outputs / self.t).log_softmax(1), self.say(batch.x), reduction="none").sum(1) * self.t**2
        soft = (soft * batch.valid).sum() / len(soft)
        # so that the part called loss stays that of the labels, comparable with validation
        found.parts["teachers"] = self.share_ * (soft - found.parts["loss"])


def reread(x: Tensor, ours: Preprocess, theirs: Preprocess) -> Tensor:
    """A net's input (B, C, H, W) as another net reads the same pictures."""
    size = theirs.input
    alike = all(getattr(ours, name) == getattr(theirs, name) for name in ("mean", "std", "channels"))
    if tuple(x.shape[2:]) == size and alike:
        return x
    mean, std = (torch.tensor(v[: ours.channels], device=x.device)[None, :, None, None] for v in (ours.mean, ours.std))
    x = x.float() * std + mean
    if theirs.channels == 1 and ours.channels == 3:
        x = (x * torch.tensor([0.299, 0.587, 0.114], device=x.device)[None, :, None, None]).sum(1, keepdim=True)
    x = x.expand(-1, theirs.channels, -1, -1)
    if tuple(x.shape[2:]) != size:
        x = F.interpolate(x, size, mode="bilinear", antialias=True, align_corners=False)
    return normalised(x, theirs)


class Unlabelled(Guide):
    """FixMatch (Sohn et al. 2020, arXiv:2001.07685): what the net is sure of, it learns for the picture changed.

    In each step `beside` unlabelled pictures for each labelled one are answered as they are, by the net in evaluation
    mode; where a class has at least the probability `sure`, it is the label of the same picture with other colours,
    another scale, turned, and with a blank square. The part of the loss is the mean over all of them.
    """

    whole_batch = True

    def __init__(self, job: Job, source: Source, rows: np.ndarray) -> None:
        plan, device, world = job.plan, job.device, job.world
        self.device, self.sure = device, plan.recipe.sure
        split = open_split({}, job.task, source, rows, plan.preprocess, device, job.show, "unlabelled pictures")
        weak = dataclasses.replace(plan.augment, mixup=0.0, cutmix=0.0)
        strong = dataclasses.replace(
            weak, colour=0.5, zoom=0.3, rotate=20.0, cutout=max(2, min(plan.preprocess.input) // 2)
        )
        size = min(plan.recipe.beside * plan.batch, len(split) // world.size * world.size)
        self.feeds = [self._feed(job, split.pictures, how, size) for how in (weak, strong)]  # the same pictures
        self.streams: list[Iterator[Batch]] = []

    @staticmethod
    def _feed(job: Job, pictures: Any, how: Augment, size: int) -> Batches:
        device, world = job.device, job.world
        layout: dict[str, Any] = {"dtype": device.dtype, "channels_last": device.channels_last}
        return Batches(
            pictures, NOTHING, how, size, seed=job.plan.seed + 1, device=device.torch, rank=world.rank,
            world=world.size, **layout,
        )  # fmt: skip

    def begin(self, step: int) -> None:
        self.streams = [feed.stream(step) for feed in self.feeds]

    def beside(self, net: nn.Module, batch: Batch) -> Tensor:
        weak, strong = (next(stream) for stream in self.streams)
        side = batch.x.size(-2)
        with judging(net, self.device):
            p = floated(net(smaller(weak.x, side))).softmax(1)
        most, self.labels = p.max(1)
        self.trusted = (most >= self.sure) & weak.valid
        return smaller(strong.x, side)

    def add(self, found: Losses, outputs: Tensor, beside: Tensor, batch: Batch) -> None:
        loss = F.cross_entropy(beside, self.labels, reduction="none") * self.trusted
        found.parts["unlabelled"] = loss.sum() / len(loss)
        found.figures["trusted"] = self.trusted.float().mean() * len(batch)


# ---------------------------------------------------------------- from wishes to guides


def described(teachers: tuple[Any, ...], unlabelled: Any, classes: tuple[str, ...]) -> dict[str, Any]:
    """What a plan keeps of them. Raises: UsageError: a teacher that knows other classes. RunError: no run."""
    told = []
    for one in teachers:
        run = one if isinstance(one, Run) else Run(one)
        if not run.task.classifies or set(run.classes) != set(classes):
            theirs = some_of(run.classes) or f"the task {run.task.name}"
            raise UsageError(
                f"a teacher must know the classes of the pictures and no others; {run.folder} knows {theirs}, and the "
                f"pictures have {some_of(classes)}: train a teacher on pictures of these classes"
            )
        told.append({"run": str(run.folder.resolve()), "fingerprint": fingerprint(run.net().state_dict())})
    if unlabelled is None:
        return {"teachers": told}
    source = open_source(unlabelled)
    if source.kind != PICTURE:
        raise UsageError(f"--unlabelled {unlabelled} holds {source.kind}s, and pictures are needed")
    spec = str(Path(unlabelled).resolve()) if Path(unlabelled).exists() else str(unlabelled)
    return {"teachers": told, "unlabelled": {"data": spec, "fingerprint": source.fingerprint()}}


def guides_of(job: Job) -> list[Guide]:
    """Those of a plan. Raises: RunError: a teacher or the unlabelled pictures are others than at the beginning."""
    plan, made = job.plan, list[Guide]()
    if plan.recipe.noisy and job.task.classifies and plan.by_steps:
        how = plan.recipe.early, plan.recipe.memory, job.device.torch
        made.append(Memory(len(job.splits["train"]), len(job.task.classes), *how))  # type: ignore[attr-defined]
    if plan.teachers:
        runs = [Run(one["run"]) for one in plan.teachers]
        for run, one in zip(runs, plan.teachers, strict=True):
            if fingerprint(run.net().state_dict()) != one["fingerprint"]:
                raise RunError(f"the teacher {run.folder} has other weights than when the training began; train anew")
        made.append(Teachers(runs, job))
    if plan.unlabelled:
        source = open_source(plan.unlabelled["data"])
        if source.fingerprint() != plan.unlabelled["fingerprint"]:
            raise RunError(
                f"the pictures of {plan.unlabelled['data']} have changed since {job.folder} began; train anew"
            )
        rows = np.flatnonzero(np.isin(source.splits, (-1, SPLITS.index("train"))))
        if len(rows) < job.world.size:
            raise DataError(f"{source.name} has no pictures outside its validation and test splits to learn from")
        made.append(Unlabelled(job, source, rows))
    return made
