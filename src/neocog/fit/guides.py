"""What a training learns from beside the labels of its batches: its own answers, teachers, unlabelled pictures.

A guide adds a part to the loss of each batch. The tensors that it keeps are part of the checkpoint.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
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
from neocog.fit.optim import load_optimizers, of_optimizers, optimizers, set_rates
from neocog.fit.parallel import World, gathered, same_everywhere, share_gradients, total
from neocog.fit.predicting import Run
from neocog.fit.suspects import AUTO, judged, noise_matrix
from neocog.nets import head_of
from neocog.records import SPLITS, Preprocess, some_of
from neocog.tasks import Losses, Task
from neocog.tasks.experience import judging
from neocog.tasks.label import IGNORED


class Guide:
    """One of them; this one adds nothing."""

    whole_batch = False  # whether batches may not be computed in pieces
    tensors: dict[str, Tensor] = {}  # noqa: RUF012  # what it keeps, changed in place

    def go_on(self, kept: dict[str, Tensor]) -> None:
        """Go on from the `tensors` of a checkpoint."""
        for name, value in self.tensors.items():
            value.copy_(kept[name])

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


class Bootstrap(Guide):
    """Bootstrapped targets (Reed et al. 2015, arXiv:1412.6596, section 3.2).

    The target is `trust` of the label, and for the rest what the net says itself: its likeliest class, or where it is
    `soft`, its probabilities (then the part is their entropy, and pulls the net to be sure).
    """

    def __init__(self, trust: float, soft: bool) -> None:
        self.trust, self.soft = trust or (0.95 if soft else 0.8), soft

    def add(self, found: Losses, outputs: Tensor, beside: Tensor, batch: Batch) -> None:
        said = outputs.log_softmax(1)
        own = -(said.exp() * said).sum(1) if self.soft else -said.amax(1)
        own = (own * (batch.targets["label"] >= 0)).sum() / len(own)
        found.parts["noisy"] = (1.0 - self.trust) * (own - found.parts["loss"])


class Corrected(Guide):
    """Forward loss correction (Patrini et al. 2017, arXiv:1609.03683, theorem 2).

    The net's probabilities are taken through the noise matrix before they are compared with the label, so that what it
    answers itself are true classes. `matrix`: float (K, K), how often pictures of class i carry label j.
    """

    def __init__(self, task: Task, matrix: Tensor) -> None:
        self.task, self.matrix = task, matrix
        self.tensors = {"noise": matrix}

    def add(self, found: Losses, outputs: Tensor, beside: Tensor, batch: Batch) -> None:
        said = (outputs.softmax(1) @ self.matrix).clamp(min=1e-30).log()  # of labels (B, K)
        found.parts["noisy"] = self.task.losses(said, batch).total - found.parts["loss"]


_FALL = 0.2  # share of a training in which co-teaching falls to what it keeps of each batch


class Coteaching(Guide):
    """Co-teaching (Han et al. 2018, arXiv:1804.06872, algorithm 1).

    A second net with other first weights learns beside the first, and each learns of a batch only what has the
    smallest loss for the other one: all of it at first, and after a fifth of the training ``1 - wrong`` of it. The run
    keeps the first net.

    Args:
        net: the second net, with its first weights.
        wrong: share of the labels that are wrong.
    """

    whole_batch = True

    def __init__(self, job: Job, net: nn.Module, wrong: float) -> None:
        self.job, self.net, self.wrong = job, net.train(), torch.tensor(wrong)
        self.opts = optimizers(net, head_of(net), job.plan.recipe, job.plan.batch, job.device.dtype)
        self.count = 0

    @property
    def tensors(self) -> dict[str, Tensor]:  # type: ignore[override]
        kept = {**self.net.state_dict(), **of_optimizers(self.opts)}
        return {"wrong": self.wrong, **{f"second/{k}": v for k, v in kept.items()}}

    def go_on(self, kept: dict[str, Tensor]) -> None:
        own = {k.removeprefix("second/"): v for k, v in kept.items() if k.startswith("second/")}
        load_optimizers(self.opts, own)
        self.net.load_state_dict({k: v for k, v in own.items() if not k.startswith("opt/")})
        self.wrong.copy_(kept["wrong"])

    def add(self, found: Losses, outputs: Tensor, beside: Tensor, batch: Batch) -> None:
        with self.job.device.training():
            made = self.job.task.run(self.net, batch)
        others = floated(getattr(made, "logits", made))
        found.parts["noisy"] = self._loss(outputs, others, batch) - found.parts["loss"]
        (self._loss(others, outputs, batch) * len(batch)).backward()
        self.count += len(batch)

    def _loss(self, own: Tensor, others: Tensor, batch: Batch) -> Tensor:
        """The loss of one net's outputs (B, K) on what the other one finds easy, over the batch of all processes."""
        labels = batch.targets["label"]
        hard = F.cross_entropy(others.detach(), labels, reduction="none", ignore_index=IGNORED)
        every = gathered(hard.masked_fill(labels < 0, torch.inf), self.job.world).to(hard)
        share = 1.0 - float(self.wrong) * min(1.0, self.job.task.progress / _FALL)
        limit = every.sort().values[max(0, round(share * int(every.isfinite().sum())) - 1)]
        easy = dataclasses.replace(batch, targets={"label": labels.masked_fill(hard > limit, IGNORED)})
        return self.job.task.losses(own, easy).total * (len(every) / (every <= limit).sum())

    def share(self, world: World) -> None:
        share_gradients(self.net, torch.tensor(float(self.count)), world)
        recipe, self.count = self.job.plan.recipe, 0
        if recipe.clip:
            nn.utils.clip_grad_norm_(self.net.parameters(), recipe.clip)
        set_rates(self.opts, recipe, self.job.task.progress)
        for opt in self.opts:
            opt.step()
            opt.zero_grad(set_to_none=True)


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
        found.parts["teachers"] = self.share_ * (soft - found.parts["loss"] - found.parts.get("noisy", 0.0))


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
    """Self-training: the class that the net gives a picture is learned for the same picture, changed.

    In each step `beside` unlabelled pictures for each labelled one are answered as they are, by the net in evaluation
    mode, and what it says is learned for the same pictures with other colours, another scale, turned, and with a blank
    square (after FixMatch, Sohn et al. 2020, arXiv:2001.07685, without its threshold, which few steps never reach).
    Two things keep the net from talking itself into a few classes: its probabilities are multiplied by how frequent a
    class is among the labels, and divided by how frequent the net has made it of late (distribution alignment,
    Berthelot et al. 2020, arXiv:1911.09785, section 3.1); and the weight of the part rises from 0 to 1 over half of the
    training.
    """

    whole_batch = True

    def __init__(self, job: Job, source: Source, rows: np.ndarray) -> None:
        plan, self.device, self.task, world = job.plan, job.device, job.task, job.world
        split = open_split({}, job.task, source, rows, plan.preprocess, job.device, job.show, "unlabelled pictures")
        weak = dataclasses.replace(plan.augment, mixup=0.0, cutmix=0.0)
        strong = dataclasses.replace(
            weak, colour=0.5, zoom=0.3, rotate=20.0, cutout=max(2, min(plan.preprocess.input) // 2)
        )
        size = min(plan.recipe.beside * plan.batch, len(split) // world.size * world.size)
        self.feeds = [self._feed(job, split.pictures, how, size) for how in (weak, strong)]  # the same pictures
        self.streams: list[Iterator[Batch]] = []
        counts = job.task.support(job.data.source, job.data.rows("train"))[0]  # type: ignore[attr-defined]
        self.due = torch.tensor(class_shares(counts), dtype=torch.float32, device=job.device.torch)
        self.said = self.due.clone()  # (K,), as due: the mean of the net's answers of late
        self.tensors = {"said": self.said}

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
        self.valid = weak.valid
        self.labels = (p * (self.due / self.said.clamp(min=1e-6))).argmax(1)
        self.sums = torch.cat((p[weak.valid].sum(0), weak.valid.sum()[None].to(p)))  # (K + 1,)
        return smaller(strong.x, side)

    def add(self, found: Losses, outputs: Tensor, beside: Tensor, batch: Batch) -> None:
        loss = F.cross_entropy(beside, self.labels, reduction="none") * self.valid
        found.parts["unlabelled"] = min(1.0, self.task.progress / _RISE) * loss.sum() / len(loss)

    def share(self, world: World) -> None:
        sums = total(self.sums, world)
        self.said.lerp_(sums[:-1] / sums[-1].clamp(min=1), 0.01 * sums[-1].clamp(max=1))


_RISE = 0.5  # share of a training in which the weight of what the net says about unlabelled pictures rises to 1


def class_shares(counts: np.ndarray) -> np.ndarray:
    """How frequent classes are, float64 (K,), from their numbers in a sample, int (K,).

    Counted shares, drawn towards equal ones as far as chance may have made them unequal: James-Stein shrinkage
    (Hausser and Strimmer 2009, arXiv:0811.3579, section 2). 50 pictures of ten classes say little else.
    """
    n, counted, equal = counts.sum(), counts / counts.sum(), 1.0 / len(counts)
    apart = ((equal - counted) ** 2).sum() * max(1, n - 1)
    chance = min(1.0, (1.0 - (counted**2).sum()) / apart) if apart else 1.0
    return chance * equal + (1.0 - chance) * counted


# ---------------------------------------------------------------- from wishes to guides


def described(teachers: tuple[Any, ...], unlabelled: Any, classes: tuple[str, ...]) -> dict[str, Any]:
    """What a plan keeps of them. Raises: UsageError: a teacher that knows other classes. RunError: no run."""
    told = []
    for one in teachers:
        run = one if isinstance(one, Run) else Run(one)
        if run.kind != PICTURE or not run.task.classifies or set(run.classes) != set(classes):
            alike = run.kind == PICTURE and run.task.classifies
            theirs = some_of(run.classes) if alike else f"the task {run.task.name} on {run.kind}s"
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


def guides_of(job: Job, fresh: bool, second: Callable[[], tuple[nn.Module, str]]) -> list[Guide]:
    """Those of a plan. Raises: RunError: a teacher or the unlabelled pictures are others than at the beginning.

    Args:
        fresh: the training begins; else what guides keep will be that of a checkpoint.
        second: makes another net of the plan, with other first weights.
    """
    plan, made = job.plan, list[Guide]()
    if plan.recipe.noisy and job.task.classifies and plan.by_steps:
        made.append(_noisy(job, fresh, second))
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


def _noisy(job: Job, fresh: bool, second: Callable[[], tuple[nn.Module, str]]) -> Guide:
    """The guide of ``recipe.noisy``."""
    r, way, classes = job.plan.recipe, job.plan.recipe.noisy, job.task.classes  # type: ignore[attr-defined]
    if way == "early":
        return Memory(len(job.splits["train"]), len(classes), r.early, r.memory, job.device.torch)
    if way.startswith("bootstrap"):
        return Bootstrap(r.trust, soft=way.endswith("soft"))
    joint = np.eye(len(classes)) / len(classes)
    if fresh and not (way == "coteach" and r.wrong):
        joint = same_everywhere(_estimated(job) if job.world.first else None, job.world)
    if way == "coteach":
        return Coteaching(job, second()[0], r.wrong or 1.0 - float(joint.trace()))
    return Corrected(job.task, torch.tensor(noise_matrix(joint), dtype=torch.float32, device=job.device.torch))


def _estimated(job: Job) -> np.ndarray:
    """The confident joint of the training labels, in the order of the task's classes; and says what it is."""
    judge, classes = job.plan.recipe.judge, job.task.classes  # type: ignore[attr-defined]
    found = judged(judge, job.data.source, device=job.device.kind, among=job.data.rows("train"))
    if set(found.classes) != set(classes):
        raise UsageError(
            f"--set judge={judge} knows {some_of(found.classes)}, and the pictures have {some_of(classes)}"
        )
    order = [found.classes.index(name) for name in classes]
    joint = found.joint[np.ix_(order, order)]
    by = "the other pictures" if judge == AUTO else judge
    job.show.say(f"noisy: about {1 - joint.trace():.0%} of the training labels are wrong, judged by {by}")
    return joint
