"""From pictures to a trained net and an honest report: `train` and `resume`."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypedDict

import torch
from torch import nn

from neocog.data.batches import Batch
from neocog.errors import RunError, UsageError
from neocog.fit import diagnose
from neocog.fit.depth import count_parameters
from neocog.fit.device import Device
from neocog.fit.device import prepare as prepare_device
from neocog.fit.evaluating import floated, observed
from neocog.fit.examples import write_sheets
from neocog.fit.features import layer_names
from neocog.fit.findings import Finding, initial_loss
from neocog.fit.finish import finish, seconds_to_train, write_seen
from neocog.fit.inputs import prepare
from neocog.fit.job import Data, Job, Wishes
from neocog.fit.learn_head import features_in_place_of_pictures, learn_head, parts_of
from neocog.fit.loop import fit, weighted
from neocog.fit.opening import make_folder, planned
from neocog.fit.parallel import alone, join, wait_for_all
from neocog.fit.plan import Plan, task_of
from neocog.fit.predicting import Run
from neocog.fit.report import write_report
from neocog.fit.run import Log, damaged, misfit, read_json, read_tensors, write_json, write_tensors
from neocog.fit.schedules import Clock
from neocog.fit.show import Show, interruptible
from neocog.fit.state import CHECKPOINT, State
from neocog.fit.watching import records
from neocog.records import counted
from neocog.tasks import Losses, Task

_LOOK = 0.05  # of the minutes asked for, that the look before training may take


class _SavedData(TypedDict):
    fingerprint: str


class _SavedTask(TypedDict):
    name: str


class _Saved(TypedDict):
    settings: dict[str, Any]
    data: _SavedData


def train(
    data: Any,
    *,
    test: Any = None,
    task: str | None = None,
    task_options: Mapping[str, Any] | None = None,
    net: str | None = None,
    recipe: str | None = None,
    epochs: float | None = None,
    minutes: float | None = None,
    seed: int = 0,
    out: str | Path | None = None,
    set: Mapping[str, Any] | None = None,
    size: int | None = None,
    columns: Mapping[str, str] | None = None,
    net_options: Mapping[str, Any] | None = None,
    input_options: Mapping[str, Any] | None = None,
    device: str | None = None,
    precision: str | None = None,
    offline: bool = False,
    diagnosis: bool = True,
    save_every: float = 60.0,
    progress: bool = True,
    start: Any = None,
    regime: str | None = None,
    layer: str | Sequence[str] | None = None,
    noisy: bool | str = False,
    teachers: Sequence[Run | str | Path] = (),
    unlabelled: str | Path | None = None,
) -> Run:
    """Train a net on pictures, and write a run folder.

    Args:
        data: a folder, a table, tar shards, the name of a data set, a Source, or (pictures, labels) in memory.
        test: pictures that are only used at the end (default: the test split of `data`, declared or made).
        task: what is asked of the pictures, a name of ``neocog.tasks.names()``; None takes what the data are made for.
        task_options: options of the task to change.
        net: a name of ``neocog.nets.names()``; None chooses by the size of the pictures.
        recipe: a name of ``neocog.fit.recipes.RECIPES``; None chooses by the net.
        epochs: how often every picture is shown.
        minutes: how long it takes in all, instead of `epochs`: preparation, training and evaluation.
        seed: of everything random; the same seed gives the same weights on the same machine.
        out: the run folder; None makes a new one under ``runs/``.
        set: recipe fields to change.
        size: height and width in pixels that pictures are brought to; None chooses.
        columns: which column of a table is what, as for ``neocog.open_source``.
        net_options: further options for ``neocog.nets.build``.
        input_options: how inputs that are not pictures are read: the options of their ``data.reader.Reader``.
        device: ``"cpu"``, ``"cuda"``, ``"cuda:1"``, ``"mps"``; None chooses.
        precision: ``"float32"`` or ``"bfloat16"``; None takes what is faster.
        diagnosis: check the net on one batch before training starts (a few seconds).
        save_every: seconds between checkpoints within an epoch.
        start: weights to start from: a run, a safetensors file, or the name of a net for its ImageNet weights;
            ``"scratch"`` for random ones. None takes ImageNet weights that are at hand where the pictures are
            photographs and not too many, see ``neocog.fit.start``.
        regime: what is trained then: ``"features"`` (only a new last layer), ``"top"`` (the last stages, too) or
            ``"all"``; None chooses by the number of pictures. See ``neocog.fit.transfer``.
        layer: dotted names of the layers whose features a new last layer reads, joined by commas or as a list.
        noisy: many labels may be wrong: one of ``recipes.NOISY``; True is the first, early-learning regularisation.
        teachers: runs on the same classes, whose mean probabilities are learned from beside the labels.
        unlabelled: pictures without labels (a folder, shards, ...) to learn from beside the labelled ones.

    Returns:
        The run; ``run.metrics``, ``run.predict(pictures)``, ``run.report``.

    Raises:
        DataError, NetError, UsageError: something cannot be used; says what to type.
        RunError: the training had to stop, because the loss was no number any more.
    """
    if epochs is not None and minutes is not None:
        raise UsageError(
            "give --epochs or --minutes, not both: a training ends after a number of epochs or after a time"
        )
    wishes = Wishes(
        task=task,
        task_options=dict(task_options or {}),
        net=net,
        net_options=dict(net_options or {}),
        input_options=dict(input_options or {}),
        recipe=recipe,
        fields={**({"noisy": noisy} if noisy else {}), **dict(set or {})},
        teachers=tuple(teachers),
        unlabelled=unlabelled,
        epochs=epochs,
        minutes=minutes,
        seed=seed,
        size=size,
        start=start,
        regime=regime,
        layers=layer_names(layer),
        offline=offline,
    )
    where: dict[str, Any] = {"device": device, "precision": precision, "out": out, "columns": columns}
    job = planned(wishes, data, test, progress=progress, save_every=save_every, **where)
    return carry_out_new(job, diagnosis=diagnosis)


def carry_out_new(job: Job, *, diagnosis: bool) -> Run:
    """Make the folder of a new run, and train as planned."""
    if job.world.first:
        make_folder(job.folder, job.plan, job.data)
    return _carry_out(job, diagnosis=diagnosis)


def resume(folder: str | Path, *, epochs: float | None = None, data: Any = None, progress: bool = True) -> Run:
    """Continue a run that was stopped or killed, as if nothing had happened; or train a finished one for longer.

    Args:
        epochs: the new total; the learning rate then follows the schedule of the longer training.
        data: the pictures, if they were given as arrays.

    Raises:
        RunError: no run, or the pictures are not those that the run began with.
    """
    begin = time.monotonic()
    folder = Path(folder)
    saved = read_json(folder / "run.json", _Saved)
    settings = Plan.upgraded(saved["settings"])
    wrong = misfit(settings, Plan, "settings") or misfit(settings["task"], _SavedTask, "settings.task")
    if wrong := wrong or misfit(settings.get("device"), Device, "settings.device"):
        raise damaged(folder / "run.json", wrong)
    plan = Plan.from_dict(settings)
    if epochs is not None:
        if not plan.by_steps:
            raise UsageError(
                f"the last layer of {folder} was fitted in one step, so there are no epochs to add; to train the "
                f"trunk, too, type: neocog train DATA --from {folder} --regime top"
            )
        done = max((one["epoch"] for one in records(Path(folder), "epoch")), default=0.0)
        if epochs < done:
            raise UsageError(f"{folder} has had {done:.3g} epochs already; give more than that with --epochs, or none")
        plan = dataclasses.replace(plan, epochs=float(epochs), minutes=None)
    world = join()
    show = Show(progress and world.first)
    chosen = Device.from_dict({"rates": (), **plan.device})
    chosen = dataclasses.replace(chosen, index=prepare_device(chosen.kind, local_rank=world.local_rank))
    show.say(f"device: {chosen}")
    if plan.data is None and data is None:
        raise RunError(f"{folder} was trained on arrays in memory; give them again: neocog.resume(run, data=...)")
    opened = Data.open(
        plan.data if data is None else data,
        plan.test,
        offline=False,
        columns=plan.columns,
        task=plan.task["name"],
        options=plan.task,
    )
    if opened.fingerprint() != saved["data"]["fingerprint"]:
        raise RunError(
            f"the pictures of {plan.data} have changed since {folder} began (files, labels or splits), so it cannot "
            "be continued; train a new run with 'neocog train'"
        )
    tensors, _ = read_tensors(folder / "split.safetensors")
    opened.codes = tensors["codes"].numpy()
    if world.first and epochs is not None:
        write_json(folder / "run.json", {**saved, "settings": plan.as_dict()})
    try:
        task = task_of(plan, opened)
    except (KeyError, TypeError, ValueError) as error:
        raise damaged(folder / "run.json", f"its task cannot be built ({type(error).__name__}: {error})") from None
    return _carry_out(Job(plan, opened, task, chosen, world, show, folder, begin), diagnosis=False)


def _carry_out(job: Job, *, diagnosis: bool) -> Run:
    folder, world, show = job.folder, job.world, job.show
    again = (folder / CHECKPOINT).exists()
    prepare(job, fresh=not again)
    plan, net, task, device = job.plan, job.net, job.task, job.device
    state = State(net, plan.recipe, plan.batch, device.dtype)
    if again:
        state.load(folder)
        job.go_on(state.beside)
    if plan.on_features:
        features_in_place_of_pictures(job)
    if again:
        show.say(f"continuing {folder} at epoch {state.step / job.batches.steps_per_epoch:.2f}")
    epochs = plan.epochs if plan.epochs is not None else plan.recipe.epochs
    least = plan.recipe.min_steps if plan.epochs is None else 0
    clock = Clock.for_epochs(epochs, job.batches.steps_per_epoch, least, world)
    job.log = Log(folder if world.first else None, keep=state.log_size)
    _say_what_is_done(job, clock)

    def validate(tried: nn.Module) -> dict[str, Any]:
        return validated(job, tried, state.step)

    def inspect(tried: nn.Module, batch: Batch) -> dict[str, Any]:
        some = dataclasses.replace(batch, mix=None).part(slice(0, 128))
        with device.autocast():
            return {"dead": diagnose.dead_units(tried, run=lambda net: task.run(net, some))}

    try:
        if not again:
            _first_words(job)
            if diagnosis and world.first and plan.by_steps and not task.adversarial:
                with alone(net):
                    findings = _first_look(job)
                for finding in findings:
                    job.log.write("diagnosis", **finding.to_json())
                    if finding.verdict != "good":
                        show.say(f"{finding.name}: {finding.evidence}. {finding.advice}")
        if plan.by_steps:
            if plan.minutes is not None:
                if not state.seconds:  # else a killed training goes on: its progress depends on them
                    state.seconds, said = seconds_to_train(job)
                    show.say(said)
                clock.seconds = state.seconds
            with show.bar("training") as bar, interruptible(world.size == 1) as asked:
                fit(job, state, clock, validate=validate, inspect=inspect, show=bar, interrupted=asked)
        else:
            learn_head(job)
        finish(job, state)
        if parts := parts_of(job):
            job.log.write("parts", rows=parts)
        job.log.write("end", seconds=time.monotonic() - job.begin)
    except RunError:
        if world.first and (folder / CHECKPOINT).exists():
            state.load(folder)
            state.choose(task.figure, 1.0)  # only its weights are of interest
            write_tensors(folder / "weights.safetensors", state.final_net.state_dict())
        raise
    except KeyboardInterrupt as stop:
        stop.run = folder  # type: ignore[attr-defined]  # the command line says how to continue
        raise
    finally:
        job.log.close()
    if world.first:
        source, rows = job.data.testing()
        write_report(folder, pictures=source.read if len(rows) else job.data.source.read)
    wait_for_all(world)  # until the first process has written everything
    return Run(folder)


def validated(job: Job, tried: nn.Module, step: int | None = None) -> dict[str, Any]:
    """The figures of a net on the validation pictures of a job; an empty dict if there are none, or it diverges.

    Args:
        step: after which it is so; what can be looked at while it learns is written. None: nothing is.
    """
    validation, task = job.splits["val"], job.task
    if len(validation) == 0:
        return {}
    seen, _ = observed(tried, task, validation, job.device, world=job.world)
    if step is not None:
        if job.world.first and task.classifies:  # what it is wrong about now
            write_seen(job.folder / "val.safetensors", seen, validation)
        write_sheets(job, tried, validation, step)
    figures = task.figures(seen)  # what `seen` has of things that are not known may be nan
    if not math.isfinite(figures["loss"]):
        return {}
    return {f"val_{k}": v for k, v in {**figures, "error": task.error(figures)}.items()}


def _say_what_is_done(job: Job, clock: Clock) -> None:
    plan = job.plan
    epochs = clock.steps / job.batches.steps_per_epoch
    length = f"about {counted(plan.minutes, 'minute')} in total" if plan.minutes else counted(epochs, "epoch")
    length = f": {length}, batches of {plan.batch}" if plan.by_steps else ""
    classes = getattr(job.task, "classes", ())
    of = f", {counted(len(classes), 'class')}" if classes else ""
    job.show.say(
        f"{plan.net['name']} ({count_parameters(job.net):,} parameters), task {job.task.name}, recipe "
        f"{plan.recipe.name}{length}; {counted(len(job.splits['train']))} to train, "
        f"{len(job.splits['val']):,} to validate{of}; {job.folder}"
    )
    if job.trained:
        job.show.say(job.trained)


def _first_words(job: Job) -> None:
    plan, data = job.plan, job.data
    job.log.write(
        "start",
        device=str(job.device),
        task=job.task.name,
        goal=[f"val_{job.task.goal[0]}", job.task.goal[1]],
        recipe=plan.recipe.as_dict(),
        net=plan.net,
        params=count_parameters(job.net),
        **({"start": {**plan.start, "trained": job.trained}} if plan.start else {}),
        train=len(job.splits["train"]),
        val=len(job.splits["val"]),
        test=len(data.testing()[1]),
        classes=len(getattr(job.task, "classes", ())),
        notes=[*data.source.notes, *data.notes],
    )


def _first_look(job: Job) -> list[Finding]:
    """Loss before the first step, and whether the net can learn one small batch by heart."""
    net, task, device = job.net, job.task, job.device
    stream = job.batches.stream(0)
    batch = next(stream)
    stream.close()  # type: ignore[attr-defined]
    batch.mix = None
    some = batch.part(slice(0, 256))
    net.train()
    kept = {k: v.clone() for k, v in net.named_buffers()}
    with torch.no_grad(), device.autocast():
        loss = float(losses_of(task, net, some).total)
    for k, v in net.named_buffers():
        v.copy_(kept[k])
    # with places there is much to memorise in each picture
    few = some.part(slice(0, 4 if task.geometry and max(some.x.shape[-2:]) > 96 else 32))
    most = 20.0 if job.plan.minutes is None else min(20.0, _LOOK * 60 * job.plan.minutes)
    with device.autocast():
        learned = diagnose.overfit_one_batch(net, lambda trial: losses_of(task, trial, few), len(few), seconds=most)
    found = [learned] if learned else []
    if task.chance is None or (job.plan.start and job.plan.start["head"] == "kept"):
        return found  # better than chance, as it should be, or a loss of which chance says nothing
    return [initial_loss(loss, task.chance), *found]


def losses_of(task: Task, net: nn.Module, batch: Batch) -> Losses:
    """The losses of a net's main output for a batch."""
    return task.losses(floated(weighted(task.run(net, batch))[0][0]), batch)
