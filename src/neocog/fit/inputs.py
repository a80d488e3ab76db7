"""What goes into a training: the pictures of each split, the net, the task and the batches, made from a plan."""

from __future__ import annotations

import dataclasses
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn

from neocog.data.batches import Batches, normalised, ordered
from neocog.data.pictures import Held, Streamed
from neocog.data.source import Source
from neocog.errors import DataError, UsageError
from neocog.fit import features, transfer
from neocog.fit.device import with_right_gradients
from neocog.fit.guides import guides_of
from neocog.fit.job import Job, Split, open_split, reader_of
from neocog.fit.parallel import with_global_norms
from neocog.records import Preprocess


def prepare(job: Job, *, fresh: bool = True) -> None:
    """Read the pictures, measure their mean and deviation, and build the net on the device.

    A plan that starts from weights keeps their mean and deviation; without `fresh` they are not read, because those
    of a checkpoint will be.

    Raises:
        DataError: no training picture can be read.
    """
    plan, world, task = job.plan, job.world, job.task
    job.reader = reader_of(task, plan.reader)
    training, validation = (
        split_of(job, job.data.source, job.data.rows(name), f"{words} {job.data.source.kind}s")
        for name, words in (("train", "training"), ("val", "validation"))
    )
    measure = plan.start is None and job.reader is None
    pre = _measured(plan.preprocess, training.shown) if measure else plan.preprocess
    for one in (*training.pictures, *validation.pictures):
        one.pre = pre
    job.plan = plan = dataclasses.replace(plan, preprocess=pre)
    job.splits = {"train": training, "val": validation}
    task.begin(pre, lambda most: _some(training.shown, most))
    build(job, fresh=fresh)
    device = job.device
    own = task.feed(job.net, device, batch=plan.batch, seed=plan.seed, folder=job.folder)
    if own is not None and world.size > 1:
        raise UsageError(f"the task {task.name} is learned by one process; start it without torchrun")
    job.feed = own or feed_of(job)
    job.guides = guides_of(job, fresh, partial(net_of, job, plan.seed + 1, fresh=fresh))


def feed_of(job: Job) -> Batches:
    """Batches of the training split."""
    plan, task, device, world, training = job.plan, job.task, job.device, job.world, job.splits["train"]
    n, known, first = len(training), training.known, training.pictures[0]
    return Batches(
        training.pictures, known, plan.augment, plan.batch, seed=plan.seed, device=device.torch, dtype=device.dtype,
        channels_last=device.channels_last, rank=world.rank, world=world.size, texts=task.shown_texts,
        pieces=plan.pieces,
        order=lambda g: ordered(task.order(known.columns, n, min(plan.batch, n), g), first, plan.batch, g),
    )  # fmt: skip


def build(job: Job, *, fresh: bool = True) -> None:
    """Build the net of the plan on the device, where the pictures are read already."""
    job.net, job.trained = net_of(job, job.plan.seed, fresh=fresh)
    device = with_right_gradients(job.device, job.net, job.reader.shape if job.reader else ())
    if job.device != device:
        job.show.say("float32, because the processor's bfloat16 gradients of some of this net's convolutions are wrong")
    job.device = device


def net_of(job: Job, seed: int, *, fresh: bool) -> tuple[nn.Module, str]:
    """The net of the plan with its first weights, on the device, and what of it is trained, in words."""
    plan, device, task = job.plan, job.device, job.task
    torch.manual_seed(seed)
    net = features.build(plan.net, plan.taps, task)
    if plan.start is not None and plan.start["weights"]:
        if fresh:
            transfer.take_over(net, plan, task)
    elif job.reader is not None:
        if fresh:
            job.reader.begin(net)
    elif hasattr(net, "prepare"):
        net.prepare(_some(job.splits["train"].shown, 5000))  # type: ignore[operator]
    net = with_global_norms(device.placed(net), job.world)
    return net, transfer.prepare(net, plan) if plan.start is not None else ""


def split_of(job: Job, source: Source, rows: np.ndarray, what: str) -> Split:
    """The pictures of some rows as the net sees them, held if they fit, and the annotations of the readable ones."""
    return open_split(
        job.data.columns_of(source, rows), job.task, source, rows, job.plan.preprocess, job.device, job.show, what,
        job.reader,
    )  # fmt: skip


def _measured(pre: Preprocess, pictures: Held | Streamed, most: int = 2000) -> Preprocess:
    """`pre` with the mean and standard deviation of the training pictures' channels."""
    pixels = _pixels(pictures, most, 256)
    if not len(pixels):
        raise DataError("none of the training pictures can be read; 'neocog check' says why")
    x = pixels.reshape(-1, pre.channels).astype(np.float64) / 255
    mean, std = x.mean(0), np.maximum(x.std(0), 0.02)
    return dataclasses.replace(
        pre, mean=tuple(round(float(m), 4) for m in mean), std=tuple(round(float(s), 4) for s in std)
    )


def _pixels(pictures: Held | Streamed, most: int, decoded: int) -> np.ndarray:
    """uint8 (N, H, W, C) of up to `most` held pictures, or `decoded` that have to be read."""
    most = min(most if isinstance(pictures, Held) else decoded, len(pictures))
    rows = np.linspace(0, len(pictures) - 1, most).astype(int)
    if isinstance(pictures, Held):
        return pictures.pixels[torch.from_numpy(rows).to(pictures.pixels.device)].cpu().numpy()
    middle = torch.full((4,), 0.5) if pictures.pre.fit == "tile" else None
    found = [p[0] for row in rows if (p := pictures.read(int(row), middle)) is not None]
    return np.stack(found) if found else np.zeros((0, *pictures.pre.input, pictures.pre.channels), np.uint8)


def _some(pictures: Held | Streamed, most: int) -> Tensor:
    """Some normalised training pictures (N, C, H, W), float32, on the CPU."""
    pixels = torch.from_numpy(_pixels(pictures, most, 512)).permute(0, 3, 1, 2)
    return normalised(pixels / 255.0, pictures.pre)
