"""From what a user asked for to a job that is planned, and its folder: for `train`, and for the scan of rates."""

from __future__ import annotations

import dataclasses
import platform
import subprocess
import sys
import time
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

import neocog
from neocog import nets
from neocog.data.check import fast_groups
from neocog.data.reader import PICTURE
from neocog.data.source import Source
from neocog.errors import RunError, UsageError
from neocog.fit.choices import LEAKS_UP_TO, leaks, make_recipe
from neocog.fit.device import Device, check_precision, choose, hardware, place
from neocog.fit.features import check_layers
from neocog.fit.guides import described
from neocog.fit.job import Data, Job, Wishes, check_options
from neocog.fit.parallel import join, same_everywhere
from neocog.fit.plan import Plan, make_plan, plan_inputs
from neocog.fit.recipes import noisy_way
from neocog.fit.run import free_folder, write_json, write_tensors
from neocog.fit.show import Show
from neocog.fit.start import SCRATCH, open_start, pretrained_by_default
from neocog.fit.transfer import check_wishes
from neocog.records import SPLITS, counted
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
    opened = Data.open(data, test, wishes.offline, dict(columns) if columns else None, wishes.task, wishes.task_options)
    for note in opened.source.notes:
        show.say(f"note: {note}")
    if wishes.task is None and not opened.task.classifies:
        more = ", ".join(name for name in possible(opened.source) if name != opened.task.name)
        more = f"; --task can also be {more}" if more else ""
        show.say(f"task: {opened.task.name} ({opened.task.about}){more}")
    wishes = _checked(wishes, opened, at_once)
    precision = precision or opened.task.precision
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
    way = noisy_way(wishes.fields.get("noisy", ""))
    asked = {f"--noisy {way}".replace(" early", ""): way, "--teacher": wishes.teachers,
             "--unlabelled": wishes.unlabelled is not None}  # fmt: skip
    for option in (name for name, given in asked.items() if given):
        if not opened.task.classifies:
            raise UsageError(f"{option} is for the task label, and this training is for {opened.task.name}")
        if option == "--noisy":
            continue
        if opened.source.kind != PICTURE and not option.startswith("--noisy"):
            raise UsageError(f"{option} is for pictures, and {opened.source.name} holds {opened.source.kind}s")
        if at_once or wishes.regime == "features" or wishes.layers:
            raise UsageError(
                f"{option} needs gradient steps, and here only a last layer would be fitted; choose --regime top or "
                "all, or another --net"
            )
        # what a teacher or the net itself says is learned as it is; a field for steps asks for steps
        wishes = dataclasses.replace(wishes, fields={"label_smoothing": 0.0, **wishes.fields})
    return wishes


_SHOWN = 8  # class names in a note


def coverage(data: Data, mirrored: bool) -> list[str]:
    """What is wrong with the splits, in sentences; `mirrored`: mirror images count as copies."""
    test_source, test_rows = data.testing()
    apart = data.test is not None and data.source.kind == PICTURE
    notes = _leaks_to(data, test_source, test_rows, mirrored) if apart else []
    if not data.task.classifies:
        return notes
    codes = {name: data.source.labels[data.rows(name)] for name in ("train", "val")}
    labels: Any = data.columns_of(test_source, test_rows)["label"]
    codes["test"] = labels.codes
    count = {k: np.bincount(v[v >= 0], minlength=len(data.source.classes)) for k, v in codes.items()}
    for name in ("val", "test"):
        if strange := _names(data, (count[name] > 0) & (count["train"] == 0)):
            notes.append(f"no training picture, but {name} pictures of {strange}: every one of them counts as an error")
    if count["test"].any() and (absent := _names(data, (count["test"] == 0) & (count["train"] > 0))):
        notes.append(f"no test picture of {absent}: the test figures, macro-F1 too, do not show how well it is found")
    return notes


def _names(data: Data, which: np.ndarray) -> str:
    names = [repr(data.source.classes[i]) for i in np.flatnonzero(which)]
    more = f" and {counted(len(names) - _SHOWN, 'more class')}" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more


def _leaks_to(data: Data, test: Source, rows: np.ndarray, mirrored: bool) -> list[str]:
    """Near-duplicates of training and validation pictures among those of another source."""
    learned, many = np.flatnonzero((data.codes == 0) | (data.codes == 1)), len(data.source)
    if len(learned) + len(rows) > LEAKS_UP_TO:
        return [f"near-duplicates were not searched for between training and {len(rows):,} test pictures"]
    codes = np.concatenate((data.codes[learned], np.full(len(rows), SPLITS.index("test"), np.int8)))
    both: Any = SimpleNamespace(  # the pictures of two sources, one after the other
        read=lambda i: data.source.read(i) if i < many else test.read(i - many),
        key=lambda i: data.source.key(i) if i < many else test.key(i - many),
    )
    return leaks(codes, fast_groups(both, np.concatenate((learned, many + rows)), mirrored=mirrored))


def make_folder(folder: Path, plan: Plan, data: Data) -> None:
    """Make it, with run.json and split.safetensors. Raises: RunError if a run is there."""
    if (folder / "run.json").exists():
        raise RunError(
            f"{folder} already holds a run; continue it with 'neocog resume {folder}', or choose another --out"
        )
    folder.mkdir(parents=True, exist_ok=True)
    counts = {split: len(data.rows(split)) for split in SPLITS} | {"test": len(data.testing()[1])}
    write_tensors(folder / "split.safetensors", {"codes": torch.from_numpy(data.codes)})
    write_json(
        folder / "run.json",
        {
            "neocog": neocog.__version__,
            "command": sys.argv,
            "settings": plan.as_dict(),
            "data": {
                "name": data.source.name,
                "spec": plan.data,
                "fingerprint": data.fingerprint(),
                **counts,
                "classes": list(plan.task.get("classes", ())),
                "notes": [*data.source.notes, *data.notes],
            },
            "versions": _versions(),
            "hardware": hardware(),
            "device": str(Device.from_dict(plan.device)),
            "git": _git_commit(),
            "started": time.strftime("%Y-%m-%d %H:%M:%S"),
        },
    )


def _versions() -> dict[str, str]:
    packages = ("torch", "numpy", "pillow", "pyarrow", "safetensors")
    return {"neocog": neocog.__version__, "python": platform.python_version()} | {p: version(p) for p in packages}


def _git_commit() -> str | None:
    """The commit of the caller's working folder, with a + if something in it is not committed."""
    try:
        done = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, timeout=5, check=True)
        dirty = subprocess.run(["git", "status", "--porcelain", "-uno"], capture_output=True, text=True, timeout=5)
        return done.stdout.strip() + ("+" if dirty.stdout.strip() else "")
    except (OSError, subprocess.SubprocessError):
        return None
