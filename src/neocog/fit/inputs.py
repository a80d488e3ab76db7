"""What goes into a training: the pictures of each split, the net, the task and the batches, made from a plan."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from neocog import nets
from neocog.data import open_source
from neocog.data.batches import Batches, Held, Streamed
from neocog.data.source import Source
from neocog.errors import DataError, UsageError
from neocog.fit import features, transfer
from neocog.fit.device import Device
from neocog.fit.heads import CrossValidated
from neocog.fit.kept import Kept
from neocog.fit.parallel import World, with_global_norms
from neocog.fit.plan import (
    Plan,
    choose_net,
    choose_size,
    fits_in_memory,
    growing,
    letters,
    make_batch,
    make_recipe,
    splits_of,
    usual_size,
)
from neocog.fit.show import Show
from neocog.fit.start import Start
from neocog.records import SPLITS, Preprocess
from neocog.tasks import Label, balance

_UNBALANCED = 2.0  # the largest class over the smallest from which on classes are weighted


class Data:
    """The pictures of a run: a source with a split code for each, and perhaps another source to test on."""

    def __init__(self, source: Source, test: Source | None, spec: str | None, test_spec: str | None) -> None:
        self.source, self.test, self.spec, self.test_spec = source, test, spec, test_spec
        self.codes = source.splits
        self.notes: list[str] = []
        self.columns: dict[str, str] | None = None

    @staticmethod
    def open(data: Any, test: Any, offline: bool, columns: dict[str, str] | None = None) -> Data:
        """Open what the user named. Raises: DataError if it cannot be used."""
        source = open_source(data, offline=offline, columns=columns)
        source.require_labels()
        other = None if test is None else open_source(test, offline=offline, columns=columns)
        if other is not None:
            other.require_labels()
            unknown = sorted({c for c in other.classes if c not in source.classes})
            if unknown:
                raise DataError(
                    f"the test data have classes that the training data lack: {', '.join(unknown[:5])}; "
                    f"training has {', '.join(source.classes[:5])}{' ...' if len(source.classes) > 5 else ''}"
                )
        found = Data(source, other, _spec(data), None if test is None else _spec(test))
        found.columns = columns
        return found

    def fingerprint(self) -> str:
        both = self.source.fingerprint()
        return both if self.test is None else f"{both}+{self.test.fingerprint()}"

    def rows(self, split: str) -> np.ndarray:
        """Indices into the source."""
        return np.flatnonzero(self.codes == SPLITS.index(split))

    def labelled_test(self) -> tuple[Source, np.ndarray, np.ndarray]:
        """The source to test on, indices into it, and labels in the numbers of the training classes."""
        if self.test is None:
            rows = self.rows("test")
            return self.source, rows, self.source.labels[rows].astype(np.int64)
        rows = np.flatnonzero(self.test.labels >= 0)
        number = np.array([self.source.classes.index(c) for c in self.test.classes] or [0])
        return self.test, rows, number[self.test.labels[rows]].astype(np.int64)


def _spec(data: Any) -> str | None:
    if isinstance(data, Path):
        return str(data.resolve())
    if isinstance(data, str):
        return str(Path(data).resolve()) if Path(data).exists() else data
    return None


@dataclass
class Inputs:
    """Everything that the loop needs, and what is needed afterwards."""

    plan: Plan  # with the measured mean and standard deviation
    net: nn.Module
    task: Label
    batches: Batches
    training: Held | Streamed
    train_rows: np.ndarray  # indices into the source
    train_labels: Tensor  # int64, one for each picture of `training`
    validation: Held | Streamed
    val_rows: np.ndarray  # indices into the source
    note: str  # what is done about unequal classes
    trained: str = ""  # what is trained, where it starts from weights
    kept: Kept | None = None  # regime features: what the trunk makes of the pictures
    cross: CrossValidated | None = None  # regime features with few pictures


def make_inputs(plan: Plan, parts: Data, device: Device, world: World, show: Show, *, fresh: bool = True) -> Inputs:
    """Read the pictures, measure their mean and deviation, and build the net on the device.

    A plan that starts from weights keeps their mean and deviation; without `fresh` they are not read, because those
    of a checkpoint will be.

    Raises:
        DataError: no training picture can be read.
    """
    torch.manual_seed(plan.seed)
    training, train_rows = _pictures(parts.source, parts.rows("train"), plan, device, show, "training pictures")
    validation, val_rows = _pictures(parts.source, parts.rows("val"), plan, device, show, "validation pictures")
    pre = _measured(plan.preprocess, training) if plan.start is None else plan.preprocess
    training.pre = validation.pre = pre
    plan = dataclasses.replace(plan, preprocess=pre)
    labels = torch.from_numpy(parts.source.labels[train_rows].astype(np.int64))
    task, weights, note = _task(plan, np.bincount(labels, minlength=len(plan.classes)), labels)
    net = features.build(plan.net, plan.taps, len(plan.classes))
    if plan.start is not None:
        if fresh:
            transfer.take_over(net, plan)
    elif hasattr(net, "prepare"):
        net.prepare(_some(training, 5000))  # type: ignore[operator]
    net = with_global_norms(net.to(device.torch).to(memory_format=device.layout), world)  # type: ignore[call-overload]
    trained = transfer.prepare(net, plan) if plan.start is not None else ""
    batches = Batches(
        training,
        labels,
        plan.augment,
        plan.batch,
        seed=plan.seed,
        device=device.torch,
        dtype=device.dtype,
        channels_last=device.channels_last,
        weights=weights,
        rank=world.rank,
        world=world.size,
    )
    return Inputs(plan, net, task, batches, training, train_rows, labels, validation, val_rows, note, trained)


def _pictures(
    source: Source, rows: np.ndarray, plan: Plan, device: Device, show: Show, what: str
) -> tuple[Held | Streamed, np.ndarray]:
    """The pictures of some rows, held if they fit, and the rows that are there."""
    if not fits_in_memory(len(rows), plan.preprocess):
        return Streamed(source, rows, plan.preprocess), rows
    with show.bar(f"reading {what}") as bar:
        held = Held(source, rows, plan.preprocess, device.torch, lambda done, of: bar(done / of, f"{done:,} of {of:,}"))
    return held, rows[held.kept]


def _measured(pre: Preprocess, pictures: Held | Streamed, most: int = 2000) -> Preprocess:
    """`pre` with the mean and standard deviation of the training pictures' channels."""
    rows = np.linspace(0, len(pictures) - 1, min(most, len(pictures))).astype(int)
    if isinstance(pictures, Held):
        pixels = pictures.pixels[torch.from_numpy(rows).to(pictures.pixels.device)].cpu().numpy()
    else:
        found = [
            p for row in rows[:: max(1, len(rows) // 256)] if (p := pictures.picture(int(row), None, 0)) is not None
        ]
        if not found:
            raise DataError("none of the training pictures can be read; 'neocog check' says why")
        pixels = np.stack(found)
    x = pixels.reshape(-1, pre.channels).astype(np.float64) / 255
    mean, std = x.mean(0), np.maximum(x.std(0), 0.02)
    return dataclasses.replace(
        pre, mean=tuple(round(float(m), 4) for m in mean), std=tuple(round(float(s), 4) for s in std)
    )


def _some(pictures: Held | Streamed, most: int) -> torch.Tensor:
    """Some normalised training pictures (N, C, H, W), float32, on the CPU."""
    rows = torch.linspace(0, len(pictures) - 1, min(most, len(pictures))).long()
    if isinstance(pictures, Held):
        pixels = pictures.pixels[rows.to(pictures.pixels.device)].cpu()
    else:
        found = [pictures.picture(int(row), None, 0.0) for row in rows[:512]]
        pixels = torch.from_numpy(np.stack([p for p in found if p is not None]))
    mean, std = (torch.tensor(v[: pictures.pre.channels]) for v in (pictures.pre.mean, pictures.pre.std))
    return ((pixels / 255.0 - mean) / std).permute(0, 3, 1, 2)


def _task(plan: Plan, counts: np.ndarray, labels: torch.Tensor) -> tuple[Label, torch.Tensor | None, str]:
    """The task, the weights by which pictures are drawn (or None), and what is done about unequal classes."""
    there = counts[counts > 0]
    uneven = len(there) > 1 and there.max() / there.min() >= _UNBALANCED
    how = plan.recipe.balance
    if how not in ("auto", "weights", "sampling", "none"):
        raise UsageError(f"unknown balance {how!r}; there are 'auto', 'weights', 'sampling' and 'none'")
    if how == "sampling":
        drawn = balance(counts)[labels]
        return Label(plan.classes, plan.recipe.label_smoothing), drawn, "rare classes are drawn more often"
    if how == "weights" or (how == "auto" and uneven):
        note = (
            f"the classes are unbalanced ({there.max():,} pictures against {there.min():,}), so rare ones weigh more "
            "in the loss (--set balance=none leaves them as they are, balance=sampling draws them more often)"
        )
        return Label(plan.classes, plan.recipe.label_smoothing, balance(counts)), None, note if uneven else ""
    return Label(plan.classes, plan.recipe.label_smoothing), None, ""


def make_plan(
    parts: Data,
    *,
    net: str | None,
    recipe: str | None,
    fields: Mapping[str, Any] | None,
    size: int | None,
    net_options: Mapping[str, Any] | None,
    epochs: float | None,
    minutes: float | None,
    seed: int,
    device: Device,
    world: World,
    show: Show,
    start: Start | None = None,
    regime: str | None = None,
    layers: tuple[str, ...] = (),
) -> Plan:
    """Decide what was left open: the size, the net, the recipe, the splits and the batch; and say so.

    With a `start`, net and preprocessing are those of its weights, and the regime is decided, too.
    """
    source = parts.source
    if not (source.labels >= 0).any():
        raise DataError(
            f"{source.name} has no labels; expected a folder for each class, or a table with a label column"
        )
    if len(source.classes) < 2:
        raise DataError(
            f"{source.name} has one class, {source.classes[0]!r}; expected at least two, such as a folder for each"
        )
    fields = dict(fields or {})
    side, channels = usual_size(source, np.flatnonzero(source.labels >= 0))
    usual = choose_size(side, device.kind == "cpu")
    name = start.spec["name"] if start else net or choose_net(size or usual)
    facts = nets.facts(name)
    if facts.task != "label" or len(facts.input) != 3:
        raise UsageError(
            f"{name} is a net for the task {facts.task!r} on inputs of shape {facts.input}, and training learns the "
            "classes of pictures; 'neocog nets --task label' lists the nets for that"
        )
    if getattr(nets.builder(name), "learns_by_itself", False):
        raise UsageError(f"{name} learns by its own rule, not by gradients: call its method learn(pictures, labels)")
    if start:
        pre = start.sized(size, side)
    else:
        if size is None:
            size = max(facts.smallest, min(facts.input[-1], usual)) if net else usual
        pre = Preprocess(size=size, resize=size if size <= 96 else round(size * 256 / 224), channels=channels)
    r = make_recipe(recipe or ("finetune" if start else None), name, fields)
    with show.bar("looking for near-duplicates") as bar:
        parts.codes, parts.notes = splits_of(
            source, r, seed, lambda done, of: bar(done / max(1, of), f"{done:,} of {of:,}")
        )
    counts = np.bincount(source.labels[parts.codes == 0], minlength=len(source.classes))
    options, taps, began = dict(net_options or {}), None, None
    if start:
        how: dict[str, Any] = {"regime": regime, "layers": layers, "recipe": recipe, "fields": fields}
        decision = transfer.decide(start, counts, source.classes, long=bool(epochs or minutes), **how)
        taps, began, r = decision.taps, decision.start, decision.recipe.changed(val_share=r.val_share)
        parts.notes += decision.notes
        if pre.channels < channels:
            parts.notes.append("the weights are for grey pictures, so colours are not used")
    elif transfer.each_class(counts) < transfer.FEW:
        parts.notes.append(transfer.ONE_SPLIT)
    if r.dropout >= 0:
        if "dropout" in nets.options(name):
            options.setdefault("dropout", r.dropout)
        else:
            parts.notes.append(f"{name} has no dropout, so the recipe's dropout of {r.dropout:g} is left out")
    r, said = growing(r, name, pre.size, compiled=device.compile and "small" not in fields)
    parts.notes += said
    if not start and pre.size <= 64 and nets.options(name).get("stem") == "imagenet":
        options.setdefault("stem", "small")  # the ImageNet stem would leave 2x2 of a 64x64 picture at the end
    spec = {
        **(start.spec if start else {}),
        "name": name,
        "classes": start.spec["classes"] if start and taps else len(source.classes),
        "in_channels": pre.channels,
        "input_size": pre.size,
        **options,
    }
    mirror = not letters(source.classes)
    if not mirror and r.flip != "none":
        parts.notes.append("the classes are single letters or digits, so pictures are not mirrored")
    for note in parts.notes:
        show.say(f"note: {note}")
    return Plan(
        data=parts.spec,
        test=parts.test_spec,
        columns=parts.columns,
        net=spec,
        recipe=r,
        classes=source.classes,
        preprocess=pre,
        batch=make_batch(r, int((parts.codes == 0).sum()), world.size),
        seed=seed,
        epochs=epochs,
        minutes=minutes,
        mirror=mirror,
        device=device.as_dict(),
        start=began,
        taps=taps,
    )
