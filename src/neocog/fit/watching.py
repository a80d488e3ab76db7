"""A run as its folder tells it, finished or not: settings, log, state. No torch here, so that watching is cheap."""

from __future__ import annotations

import contextlib
import json
import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from neocog.files import locked, read_dict


def records(folder: Path, kind: str | None = None) -> list[dict[str, Any]]:
    """The records of a run's log, a half-written last line left out."""
    return [one for one in follow(folder) if kind in (None, one.get("kind"))]


def follow(folder: Path, after: int = 0) -> Iterator[dict[str, Any]]:
    """Yield the records of a run's log from number `after` on, as far as it is written."""
    with contextlib.suppress(FileNotFoundError), open(folder / "log.jsonl", "rb") as file:
        number = 0
        for line in file:
            try:
                record = json.loads(line)
            except (ValueError, RecursionError):
                continue
            if isinstance(record, dict):
                if number >= after:
                    yield record
                number += 1


def state_of(folder: Path) -> str:
    """Return "running", "done" or "stopped" (it can be resumed)."""
    if held(folder / "log.jsonl"):
        return "running"
    done = (folder / "net.json").exists() and any(True for _ in records(folder, "end"))
    return "done" if done else "stopped"


def free_folder(stem: str, parent: Path = Path("runs")) -> Path:
    """The first of runs/stem, runs/stem-2, runs/stem-3 ... that is not there yet."""
    number = 1
    while (folder := parent / (stem if number == 1 else f"{stem}-{number}")).exists():
        number += 1
    return folder


def told(folder: Path) -> dict[str, Any]:
    """Return what a list of runs says of one, JSON-able: net, task, data, state, goal and its best value so far."""
    run, log = read_dict(folder / "run.json"), records(folder)
    settings = run.get("settings") or {}
    start = next((one for one in log if one.get("kind") == "start"), {})
    metrics: dict[str, Any] = next((one["metrics"] for one in reversed(log) if one.get("kind") == "metrics"), {})
    goal, better = _goal(log)
    values = [one[goal] for one in log if one.get("kind") == "epoch" and _finite(one.get(goal))]
    judged = goal.removeprefix("val_")
    best = {"name": goal, "value": max(values) if better == "max" else min(values)} if values else None
    for split in ("test", "val"):
        if _finite(metrics.get(f"{split}_{judged}")):
            best = {"name": f"{split}_{judged}", "value": metrics[f"{split}_{judged}"]}
            break
    task = start.get("task") or (settings.get("task") or {}).get("name", "")
    return {
        "net": (settings.get("net") or {}).get("name", ""),
        "task": task,
        "sees": task != "play" and not read_dict(folder / "net.json").get("reader"),  # it answers about pictures
        "data": (run.get("data") or {}).get("name", ""),
        "started": run.get("started"),
        "state": state_of(folder),
        "goal": goal,
        "best": best,
        "epochs": next((one.get("epoch") for one in reversed(log) if one.get("kind") == "epoch"), 0),
        "report": (folder / "report.html").exists(),
    }


def whole(folder: Path) -> dict[str, Any]:
    """Return all that a run folder says, JSON-able: as `told`, with settings, notes, classes, hardware and records."""
    run, log = read_dict(folder / "run.json"), records(folder)
    data = run.get("data") or {}
    return {
        **told(folder),
        "settings": run.get("settings") or {},
        "notes": data.get("notes", []),
        "classes": data.get("classes", []),
        "counts": {split: data.get(split) for split in ("train", "val", "test")},
        "device": run.get("device"),
        "records": log,
    }


def _goal(log: list[dict[str, Any]]) -> tuple[str, str]:
    """The validation figure that is judged, and whether more ("max") or less of it is better."""
    for one in log:
        if one.get("kind") == "start" and isinstance(one.get("goal"), list) and len(one["goal"]) == 2:
            return one["goal"][0], one["goal"][1]
    return "val_loss", "min"  # an older run


def _finite(value: Any) -> bool:
    return isinstance(value, (int, float)) and math.isfinite(value)


def held(path: Path) -> bool:
    """Whether a living process holds the lock of a file."""
    try:
        file = os.open(path, os.O_RDONLY)
    except OSError:
        return False
    try:
        return not locked(file, shared=True)
    finally:
        os.close(file)
