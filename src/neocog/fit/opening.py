"""From what a user asked for to a job that is planned: for `train`, and for the scan of learning rates."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from neocog import nets
from neocog.data.reader import PICTURE
from neocog.errors import UsageError
from neocog.fit.choices import make_recipe
from neocog.fit.coverage import coverage
from neocog.fit.device import check_precision, choose, place
from neocog.fit.features import check_layers
from neocog.fit.guides import described
from neocog.fit.job import Data, Job, Wishes, check_options
from neocog.fit.parallel import join, same_everywhere
from neocog.fit.plan import make_plan, plan_inputs
from neocog.fit.pretrained import SCRATCH, pretrained_by_default
from neocog.fit.run import free_folder
from neocog.fit.show import Show
from neocog.fit.start import open_start
from neocog.fit.transfer import check_wishes
from neocog.tasks import find
from neocog.tasks.task import possible


def planned(
    wishes: Wishes,
    data: Any,
    test: Any = None,
    *,
    columns: Mapping[str, str] | None = None,
    device: str | None = None,
    precision: str | None = None,
    out: str | Path | None = None,
    progress: bool = True,
    save_every: float = 60.0,
) -> Job:
    """Open the pictures, choose device and weights, and plan the training; see `training.train`. Writes nothing.

    Raises:
        DataError, NetError, UsageError: something cannot be used; says what to type.
    """
    begin = time.monotonic()
    for name in ("epochs", "minutes", "size"):
        if (value := getattr(wishes, name)) is not None and not value > 0:
            raise UsageError(f"{name} must be more than 0, got {value}")
    if wishes.net is not None:
        wishes = wishes.read()
        nets.facts(str(wishes.net))
    if wishes.task is not None:
        check_options(find(wishes.task), wishes.task_options)
    # a wrong name is refused before anything is read
    make_recipe(wishes.recipe, wishes.net or "speednet", wishes.fields)
    if scratch := isinstance(wishes.start, str) and wishes.start in SCRATCH:
        wishes = dataclasses.replace(wishes, start=None)
    at_once = wishes.net is not None and nets.engineered(wishes.net)
    check_wishes(at_once or not scratch, wishes.regime, wishes.layers, wishes.fields)
    check_precision(precision)
    world = join()
    place(device, local_rank=world.local_rank)
    show = Show(progress and world.first)
    opened = Data.open(data, test, wishes.offline, dict(columns) if columns else None, wishes.task)
    for note in opened.source.notes:
        show.say(f"note: {note}")
    if wishes.task is None and not opened.task.classifies:
        more = ", ".join(name for name in possible(opened.source) if name != opened.task.name)
        more = f"; --task can also be {more}" if more else ""
        show.say(f"task: {opened.task.name} ({opened.task.about}){more}")
    wishes = _checked(wishes, opened, at_once)
    here = choose(device, precision=precision, local_rank=world.local_rank, training=True)
    chosen = dataclasses.replace(same_everywhere(here, world), index=here.index)  # one choice for all processes
    show.say(f"device: {chosen}" + (f", {world.size} processes" if world.size > 1 else ""))
    start, weights = wishes.start, None
    pictures = opened.source.kind == PICTURE
    if wishes.input_options and pictures:
        raise UsageError("--input-option is for texts, sounds and clips; of pictures --size says how they are read")
    if pictures and start is None and not scratch:
        start, said = pretrained_by_default(wishes, opened)
        if said:
            show.say(said)
    check_wishes(at_once or start is not None, wishes.regime, wishes.layers, wishes.fields)
    if start is not None and pictures:
        how: dict[str, Any] = {"options": wishes.net_options or None, "offline": wishes.offline or None}
        weights = open_start(start, net=wishes.net, say=show.say, **how)
        check_layers(weights.trunk, wishes.layers)
    if not pictures:
        plan, task = plan_inputs(wishes, opened, chosen, world, show)
    else:
        plan, task = make_plan(wishes, opened, chosen, world, show, weights)
    if wishes.teachers or wishes.unlabelled is not None:
        beside = described(wishes.teachers, wishes.unlabelled, task.classes)  # type: ignore[attr-defined]
        plan = dataclasses.replace(plan, **beside)
    for note in coverage(opened, plan.mirror):
        opened.notes.append(note)
        show.say(f"note: {note}")
    stem = f"{opened.source.name or 'pictures'}-{plan.net['name']}".replace("/", "-").replace(" ", "-")
    folder = Path(same_everywhere(str(out or free_folder(stem)), world))
    return Job(plan, opened, task, chosen, world, show, folder, begin, save_every)


def _checked(wishes: Wishes, opened: Data, at_once: bool) -> Wishes:
    """The wishes, where what is to be learned from beside labels can be. Raises: UsageError: it cannot."""
    asked = {"--noisy": wishes.fields.get("noisy"), "--teacher": wishes.teachers,
             "--unlabelled": wishes.unlabelled is not None}  # fmt: skip
    for option in (name for name, given in asked.items() if given):
        if not opened.task.classifies:
            raise UsageError(f"{option} is for the task label, and this training is for {opened.task.name}")
        if option == "--noisy":
            continue
        if opened.source.kind != PICTURE:
            raise UsageError(f"{option} is for pictures, and {opened.source.name} holds {opened.source.kind}s")
        if at_once or wishes.regime == "features" or wishes.layers:
            raise UsageError(
                f"{option} needs gradient steps, and here only a last layer would be fitted; choose --regime top or "
                "all, or another --net"
            )
        # soft answers and thresholds do their own smoothing; a field for steps asks for steps
        wishes = dataclasses.replace(wishes, fields={"label_smoothing": 0.0, **wishes.fields})
    return wishes
