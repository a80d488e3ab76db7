"""From pictures to a trained net and an honest report: `train`, `resume` and `find_lr`."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from neocog import nets
from neocog.data.batches import Batch
from neocog.errors import RunError, UsageError
from neocog.fit import diagnose
from neocog.fit import plan as planning
from neocog.fit.clock import Clock
from neocog.fit.device import Device, check_precision, choose, place, prepare
from neocog.fit.features import check_layers, layer_names
from neocog.fit.finish import finish
from neocog.fit.inputs import Data, Inputs, make_inputs, make_plan
from neocog.fit.learn_head import learn_head
from neocog.fit.loop import fit, weighted
from neocog.fit.new_run import make_folder
from neocog.fit.outputs import outputs_of
from neocog.fit.parallel import World, alone, join, leave, same_everywhere, wait_for_all
from neocog.fit.plan import Plan
from neocog.fit.predicting import Run
from neocog.fit.report import write_report
from neocog.fit.run import Log, free_folder, read_json, read_tensors, write_json, write_tensors
from neocog.fit.show import Show
from neocog.fit.signals import interruptible
from neocog.fit.start import open_start
from neocog.fit.state import CHECKPOINT, State
from neocog.fit.transfer import check_wishes
from neocog.fit.wait import seconds_to_train
from neocog.records import counted


def train(
    data: Any,
    *,
    test: Any = None,
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
    device: str | None = None,
    precision: str | None = None,
    offline: bool = False,
    diagnosis: bool = True,
    save_every: float = 60.0,
    progress: bool = True,
    start: Any = None,
    regime: str | None = None,
    layer: str | Sequence[str] | None = None,
) -> Run:
    """Train a net on pictures, and write a run folder.

    Args:
        data: a folder, a table, tar shards, the name of a data set, a Source, or (pictures, labels) in memory.
        test: pictures that are only used at the end (default: the test split of `data`, declared or made).
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
        device: ``"cpu"``, ``"cuda"``, ``"cuda:1"``, ``"mps"``; None chooses.
        precision: ``"float32"`` or ``"bfloat16"``; None takes what is faster.
        diagnosis: check the net on one batch before training starts (a few seconds).
        save_every: seconds between checkpoints within an epoch.
        start: weights to start from: a run, a safetensors file, or the name of a net for its ImageNet weights.
        regime: what is trained then: ``"features"`` (only a new last layer), ``"top"`` (the last stages, too) or
            ``"all"``; None chooses by the number of pictures. See ``neocog.fit.transfer``.
        layer: dotted names of the layers whose features a new last layer reads, joined by commas or as a list.

    Returns:
        The run; ``run.metrics``, ``run.predict(pictures)``, ``run.report``.

    Raises:
        DataError, NetError, UsageError: something cannot be used; says what to type.
        RunError: the training had to stop, because the loss was no number any more.
    """
    begin = time.monotonic()
    if epochs is not None and minutes is not None:
        raise UsageError("give --epochs or --minutes, not both: a training ends after so many epochs or after a time")
    for name, value in (("epochs", epochs), ("minutes", minutes), ("size", size)):
        if value is not None and not value > 0:
            raise UsageError(f"{name} must be more than 0, got {value}")
    if net is not None:
        nets.facts(net)
    planning.make_recipe(recipe, net or "speednet", dict(set or {}))  # a wrong name is told before anything is read
    check_wishes(start is not None, regime, layer_names(layer), set or {})
    check_precision(precision)
    opened = None
    world = join()
    place(device, local_rank=world.local_rank)
    show = Show(progress and world.first)
    parts = Data.open(data, test, offline, dict(columns) if columns else None)
    for note in parts.source.notes:
        show.say(f"note: {note}")
    here = choose(device, precision=precision, local_rank=world.local_rank, training=True)
    chosen = dataclasses.replace(same_everywhere(here, world), index=here.index)  # one choice for all processes
    show.say(f"device: {chosen}" + (f", {world.size} processes" if world.size > 1 else ""))
    if start is not None:
        opened = open_start(start, net=net, options=net_options, offline=offline or None, say=show.say)
        check_layers(opened.trunk, layer_names(layer))

    plan = make_plan(
        parts,
        net=net,
        recipe=recipe,
        fields=set,
        size=size,
        net_options=net_options,
        epochs=epochs,
        minutes=minutes,
        seed=seed,
        device=chosen,
        world=world,
        show=show,
        start=opened,
        regime=regime,
        layers=layer_names(layer),
    )
    return carry_out_new(plan, parts, out, chosen, world, show, diagnosis=diagnosis, save_every=save_every, begin=begin)


def carry_out_new(
    plan: Plan,
    parts: Data,
    out: str | Path | None,
    chosen: Device,
    world: World,
    show: Show,
    *,
    diagnosis: bool,
    save_every: float,
    begin: float,
) -> Run:
    """Make the folder of a new run, and train as planned."""
    stem = f"{parts.source.name or 'pictures'}-{plan.net['name']}".replace("/", "-").replace(" ", "-")
    folder = Path(same_everywhere(str(out or free_folder(stem)), world))
    if world.first:
        make_folder(folder, plan, parts)
    try:
        return _carry_out(
            plan, parts, folder, chosen, world, show, diagnosis=diagnosis, save_every=save_every, begin=begin
        )
    except KeyboardInterrupt as stop:
        stop.run = folder  # type: ignore[attr-defined]  # the command line says how to continue
        raise
    finally:
        leave()


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
    saved = read_json(folder / "run.json")
    plan = Plan.from_dict(saved["settings"])
    if epochs is not None:
        if not plan.by_steps:
            raise UsageError(
                f"{folder} has a last layer that was fitted at once, so there are no epochs to add; train the trunk, "
                f"too: neocog train DATA --from {folder} --regime top"
            )
        plan = dataclasses.replace(plan, epochs=float(epochs), minutes=None)
    world = join()
    show = Show(progress and world.first)
    chosen = Device.from_dict(plan.device)
    chosen = dataclasses.replace(chosen, index=prepare(chosen.kind, local_rank=world.local_rank))
    show.say(f"device: {chosen}")
    if plan.data is None and data is None:
        raise RunError(f"{folder} was trained on arrays in memory; give them again: neocog.resume(run, data=...)")
    parts = Data.open(plan.data if data is None else data, plan.test, offline=False, columns=plan.columns)
    if parts.fingerprint() != saved["data"]["fingerprint"]:
        raise RunError(
            f"the pictures of {plan.data} have changed since {folder} began (files, labels or splits), so it cannot "
            "be continued exactly; train a new run with 'neocog train'"
        )
    tensors, _ = read_tensors(folder / "split.safetensors")
    parts.codes = tensors["codes"].numpy()
    if world.first and epochs is not None:
        write_json(folder / "run.json", {**saved, "settings": plan.as_dict()})
    try:
        return _carry_out(plan, parts, folder, chosen, world, show, diagnosis=False, save_every=60.0, begin=begin)
    except KeyboardInterrupt as stop:
        stop.run = folder  # type: ignore[attr-defined]
        raise
    finally:
        leave()


def _carry_out(
    plan: Plan,
    parts: Data,
    folder: Path,
    device: Device,
    world: World,
    show: Show,
    *,
    diagnosis: bool,
    save_every: float,
    begin: float,
) -> Run:
    again = (folder / CHECKPOINT).exists()
    made = make_inputs(plan, parts, device, world, show, fresh=not again)
    plan, net, batches, task = made.plan, made.net, made.batches, made.task
    if made.note:
        show.say(f"note: {made.note}")
    state = State(net, plan.recipe, plan.batch, device.dtype)
    if again:
        state.load(folder)
        show.say(f"continuing {folder} at epoch {state.step / batches.steps_per_epoch:.2f}")
    epochs = plan.epochs if plan.epochs is not None else plan.recipe.epochs
    clock = Clock.for_epochs(epochs, batches.steps_per_epoch, plan.recipe.min_steps if plan.epochs is None else 0)
    clock.world = world
    log = Log(folder if world.first else None, keep=state.log_size)
    epochs = clock.steps / batches.steps_per_epoch
    length = f"about {counted(plan.minutes, 'minute')} in all" if plan.minutes else counted(epochs, "epoch")
    length = f": {length}, batches of {plan.batch}" if plan.by_steps else ""
    show.say(
        f"{plan.net['name']} ({sum(p.numel() for p in net.parameters() if p.requires_grad):,} parameters), recipe "
        f"{plan.recipe.name}{length}; {counted(len(made.training))} to train, "
        f"{len(made.validation):,} to validate, {len(plan.classes)} classes; {folder}"
    )
    if made.trained:
        show.say(made.trained)
    val_labels = parts.source.labels[made.val_rows].astype(np.int64)

    def validate(tried: nn.Module) -> dict[str, Any]:
        if len(made.validation) == 0:
            return {}
        rows, logits, _ = outputs_of(tried, made.validation, device, world=world)
        return {f"val_{k}": v for k, v in task.measure(logits, val_labels[rows]).items() if k != "n"}

    def inspect(tried: nn.Module, batch: Batch) -> dict[str, Any]:
        with device.autocast():
            return {"dead": diagnose.dead_units(tried, batch.x[:128])}

    try:
        if not again:
            _first_words(made, parts, log, device)
            if diagnosis and world.first and plan.by_steps:
                with alone(net):
                    findings = _first_look(made, device)
                for finding in findings:
                    log.write("diagnosis", **finding.to_json())
                    if finding.verdict != "good":
                        show.say(f"{finding.name}: {finding.evidence}. {finding.advice}")
        if plan.by_steps:
            if plan.minutes is not None:
                if not state.seconds:  # else a killed training goes on: its progress depends on them
                    spent = (made, parts, device, world, plan.minutes, lambda: time.monotonic() - begin)
                    state.seconds, said = seconds_to_train(*spent)
                    show.say(said)
                clock.seconds = state.seconds
            with show.bar("training") as bar, interruptible(world.size == 1) as asked:
                how: dict[str, Any] = {"validate": validate, "inspect": inspect, "show": bar, "world": world}
                how |= {"save_every": save_every, "interrupted": asked}
                fit(state, batches, task, device, clock, folder, log, **how)
        else:
            learn_head(made, parts, folder, device, world, log, show)
        finish(made, parts, folder, state, device, world, show, log, begin)
        log.write("end", seconds=time.monotonic() - begin)
    except RunError:
        if world.first and (folder / CHECKPOINT).exists():
            state.load(folder)
            write_tensors(folder / "weights.safetensors", state.final_net.state_dict())
        raise
    finally:
        log.close()
    if not world.first:
        wait_for_all(world)  # until the first process has written everything
        return Run(folder)
    test_source, test_rows, _ = parts.labelled_test()
    write_report(folder, pictures=test_source.read if len(test_rows) else parts.source.read)
    wait_for_all(world)
    return Run(folder)


def _first_words(made: Inputs, parts: Data, log: Log, device: Device) -> None:
    log.write(
        "start",
        device=str(device),
        recipe=made.plan.recipe.as_dict(),
        net=made.plan.net,
        params=sum(p.numel() for p in made.net.parameters() if p.requires_grad),
        **({"start": {**made.plan.start, "trained": made.trained}} if made.plan.start else {}),
        train=len(made.training),
        val=len(made.validation),
        test=len(parts.labelled_test()[1]),
        classes=len(made.plan.classes),
        notes=[*parts.source.notes, *parts.notes, *([made.note] if made.note else [])],
    )


def _first_look(made: Inputs, device: Device) -> list[diagnose.Finding]:
    """Loss before the first step, and whether the net can learn one small batch by heart."""
    net, task = made.net, made.task
    stream = made.batches.stream(0)
    batch = next(stream)
    stream.close()  # type: ignore[attr-defined]
    x, y = batch.x[:256], batch.y[:256]
    net.train()
    kept = {k: v.clone() for k, v in net.named_buffers()}
    with torch.no_grad(), device.autocast():
        loss = float(task.loss(weighted(net(x))[0][0].float(), y))
    for k, v in net.named_buffers():
        v.copy_(kept[k])

    def loss_of(outputs: Any, labels: torch.Tensor) -> torch.Tensor:
        return task.loss(weighted(outputs)[0][0].float(), labels)

    few = min(32, len(x))
    with device.autocast():
        learned = diagnose.overfit_one_batch(net, loss_of, x[:few], y[:few])
    if made.plan.start and made.plan.start["head"] == "kept":
        return [learned]  # better than chance, as it should be
    return [diagnose.initial_loss(loss, len(made.plan.classes)), learned]
