"""Tasks are found like nets: by their files, by name, and by what a source has columns for."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from neocog.errors import DataError, UsageError, closest

if TYPE_CHECKING:
    from neocog.data.source import Source
    from neocog.tasks.task import Task

_tasks: dict[str, type[Task]] = {}
_found = False
_joining: list[Callable[[str], type[Task]]] = []  # what makes a task of a name such as label+pose


def register(task: type[Task]) -> type[Task]:
    """Add a task under its name; a class decorator. Raises: UsageError if the name is taken."""
    if task.name in _tasks:
        raise UsageError(f"a task named {task.name!r} is already registered; give the new one another name")
    _tasks[task.name] = task
    return task


def joins(make: Callable[[str], type[Task]]) -> Callable[[str], type[Task]]:
    """Names with a plus are made by this function; a decorator."""
    _joining.append(make)
    return make


def names() -> tuple[str, ...]:
    """All tasks, in the order in which they are tried on data (see `guess`)."""
    _find()
    return tuple(sorted(_tasks, key=lambda name: (_PREFERENCE.index(name) if name in _PREFERENCE else 99, name)))


# the first whose needs a source meets is taken
_PREFERENCE = (
    "label", "detect", "segment", "pose", "tags", "locate", "number", "match", "match-captions", "match-pairs",
    "match-texts", "tag-words", "play",
)  # fmt: skip


def find(name: str) -> type[Task]:
    """The task of that name; ``label+pose`` is several on one trunk. Raises: UsageError if there is none."""
    _find()
    if "+" in name:
        return _joining[0](name)
    if name not in _tasks:
        raise UsageError(
            f"unknown task {name!r}{closest(name, _tasks)}; expected one of {', '.join(names())}, or several on one "
            "trunk as in label+pose"
        )
    return _tasks[name]


def load(values: Mapping[str, Any]) -> Task:
    """The task that ``saved`` described."""
    return find(values["name"]).from_json({k: v for k, v in values.items() if k != "name"})


def saved(task: Task) -> dict[str, Any]:
    """What a run folder keeps of a task."""
    return {"name": task.name, **task.to_json()}


def guess(source: Source) -> str:
    """The task that a source is made for: the first that it allows. Raises: DataError if there is none.

    Points come before boxes where every picture with a box has them: then the boxes are those of the points. Tags come
    before one label where more than a fiftieth of the pictures would be left out for having several, or a tenth where
    the table does not give them at once but names pictures again, which may be mistakes.
    """
    able = [name for name in possible(source) if find(name).needs]
    sets = source.label_sets if able[:1] == ["label"] and "tags" in able else None
    if sets is not None and source.several * (50 if sets.meant else 10) > source.columns["tags"].known.sum():
        return "tags"
    if "label" not in able and {"pose", "detect"} <= set(able):
        boxes: Any = source.columns["boxes"]
        if not hasattr(boxes, "ends"):
            return "tags"  # drawn pictures, which have no label where tags are asked for
        boxed = np.diff(boxes.ends) > 0
        if boxed.any() and source.columns["points"].known[boxed].all():
            return "pose"
    if able:
        return able[0]
    if source.unfit or fits(find("label"), source):
        return "label"  # which says what is wrong with it
    known = [f"{role} ({column.kind})" for role, column in source.columns.items() if column.known.any()]
    there = ", ".join(known) or (f"{source.kind}s alone" if len(source) else f"no {source.kind} in it")
    raise DataError(
        f"{source.name} has nothing to learn: {there}. Expected a folder for each class, a table with a "
        "label column, or annotations (COCO, Pascal VOC, YOLO, masks)"
        + ("; --task reconstruct, vae or gan learns from pictures alone" if source.kind == "picture" else "")
    )


def possible(source: Source) -> list[str]:
    """The tasks that can learn from a source, the likeliest first; those of labels where there are two classes."""
    several = not source.unfit and len(np.unique(source.labels[source.labels >= 0])) > 1
    return [name for name in names() if fits(find(name), source) and (several or "label" not in find(name).needs)]


def fits(task: type[Task], source: Source) -> bool:
    """Whether a source's inputs are such as a task is asked of, and it knows something of all that the task needs."""
    if task.inputs and source.kind not in task.inputs:
        return False
    for role, kind in task.needs.items():
        column = source.columns.get(role)
        if column is None or column.kind != kind or not column.known.any():
            return False
    return True


def _find() -> None:
    """Import every file of this folder once, so that each registers its task."""
    global _found
    if _found:
        return
    _found = True
    package = importlib.import_module("neocog.tasks")
    for module in pkgutil.iter_modules(package.__path__):
        if not module.name.startswith("_"):
            importlib.import_module(f"neocog.tasks.{module.name}")
