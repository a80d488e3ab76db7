"""One training as one object: the user's wishes, the pictures, the plan, and everything made from them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from neocog import nets
from neocog.data import open_source
from neocog.data.batches import Feed, Known
from neocog.data.decode import inspect
from neocog.data.kinds import Column, Pictures
from neocog.data.pictures import Held, Streamed
from neocog.data.reader import PICTURE, Reader
from neocog.data.reader import load as load_reader
from neocog.data.ready import Read, Ready, Vectors
from neocog.data.source import Source, renamed
from neocog.errors import DataError, UsageError, closest
from neocog.fit.choices import fits_in_memory
from neocog.fit.device import Device
from neocog.fit.parallel import World
from neocog.fit.recipes import converted
from neocog.fit.run import Log
from neocog.fit.show import Show
from neocog.records import SPLITS, Preprocess, Problem, speak_of
from neocog.tasks import Task, find, guess
from neocog.tasks.task import fits, possible

if TYPE_CHECKING:
    from neocog.fit.guides import Guide
    from neocog.fit.heads import CrossValidated
    from neocog.fit.kept import Kept
    from neocog.fit.plan import Plan

_LOOK_AT = 256  # pictures whose headers are read to find the usual size


@dataclass(frozen=True)
class Wishes:
    """What a user may choose for a training; None leaves it open. The fields are the arguments of `training.train`."""

    task: str | None = None
    task_options: Mapping[str, Any] = field(default_factory=dict)
    net: str | None = None
    net_options: Mapping[str, Any] = field(default_factory=dict)
    input_options: Mapping[str, Any] = field(default_factory=dict)
    recipe: str | None = None
    fields: Mapping[str, Any] = field(default_factory=dict)
    epochs: float | None = None
    minutes: float | None = None
    seed: int = 0
    size: int | None = None
    start: Any = None
    regime: str | None = None
    layers: tuple[str, ...] = ()
    offline: bool = False
    teachers: tuple[Any, ...] = ()
    unlabelled: Any = None

    def read(self) -> Wishes:
        """With what is in a net file, where `net` names one; its classes and channels are those of the data instead."""
        if self.net is None:
            return self
        name, known = nets.in_file(self.net)
        size = self.size or known.pop("input_size", None)
        options = {k: v for k, v in known.items() if k not in ("classes", "in_channels", "input_size")}
        return replace(self, net=name, size=size, net_options={**options, **self.net_options})


@dataclass(eq=False)
class Data:
    """The pictures of a run: a source with a split code for each, and perhaps another source to test on.

    Attributes:
        task: what is asked of them, the class.
        known: bool (N,), pictures of which enough is known to learn from them.
        codes: int8 (N,), index into SPLITS, -1 = not used; declared at first, then as planned.
    """

    source: Source
    test: Source | None
    task: type[Task]
    spec: str | None = None
    test_spec: str | None = None
    columns: dict[str, str] | None = None
    notes: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.known, self.codes = self.task.known(self.source), self.source.splits

    @staticmethod
    def open(
        data: Any,
        test: Any,
        offline: bool,
        columns: dict[str, str] | None = None,
        task: str | None = None,
        options: Mapping[str, Any] = {},
    ) -> Data:
        """Open what the user named; `options` of the task. Raises: DataError if the task cannot be learned from it."""
        source = open_source(data, offline=offline, columns=columns)
        asked = find(task or guess(source))
        source = asked.completed(source, options)
        chosen = asked.suited(source)
        _check(source, chosen)
        chosen.check(source)
        other = None if test is None else open_source(test, offline=offline, columns=columns)
        if other is not None:
            other = chosen.completed(other, options, _names(source, chosen))
            _check(other, chosen)
            for role in chosen.needs:
                renamed(other.columns[role], source.columns[role])  # says which classes training lacks
        found = Data(source, other, chosen, spec_of(data), spec_of(test), columns)
        speak_of(source.kind)
        _ = found.usual  # so that pictures of which none can be read are refused before anything else is done
        return found

    @cached_property
    def usual(self) -> tuple[tuple[int, int], int]:
        """The usual height and width of the known pictures, and their channels. Raises: DataError: none can be read."""
        if self.source.kind != PICTURE:
            return (1, 1), 1
        return usual_size(self.source, np.flatnonzero(self.known))

    def fingerprint(self) -> str:
        both = self.source.fingerprint()
        return both if self.test is None else f"{both}+{self.test.fingerprint()}"

    def rows(self, split: str) -> np.ndarray:
        """Indices into the source."""
        return np.flatnonzero(self.codes == SPLITS.index(split))

    def testing(self) -> tuple[Source, np.ndarray]:
        """The source to test on, and indices into it."""
        if self.test is None:
            return self.source, self.rows("test")
        return self.test, np.flatnonzero(self.task.known(self.test))

    def columns_of(self, source: Source, rows: np.ndarray) -> dict[str, Column]:
        """What the task needs of some pictures, in the classes of the training."""
        return {role: renamed(source.columns[role], self.source.columns[role]).select(rows) for role in self.task.needs}


def _names(source: Source, task: type[Task]) -> tuple[str, ...]:
    """The names in the first column that the task needs."""
    return source.columns[next(iter(task.needs))].names if task.needs else ()


def usual_size(source: Source, rows: np.ndarray) -> tuple[tuple[int, int], int]:
    """The median height and width of some pictures, and the number of their channels (1 if all are grey)."""
    sides, grey = [], True
    for i in rows[np.linspace(0, len(rows) - 1, min(_LOOK_AT, len(rows))).astype(int)]:
        try:
            data = source.read(int(i))
            if isinstance(data, bytes):
                info = inspect(data)
                sides.append((info.height, info.width))
                grey &= info.mode in ("L", "1", "I;16", "I")
            else:
                sides.append((data.shape[0], data.shape[1]))
                grey &= data.ndim == 2
        except (DataError, OSError):
            continue
    if not sides:
        raise DataError(f"no picture of {source.name} can be read; 'neocog check' says why")
    # of the short sides and of the shapes, so that lying and standing pictures do not make a square of neither
    short = int(np.median([min(side) for side in sides]))
    ratio = float(np.median([height / width for height, width in sides]))
    return (round(short * max(1.0, ratio)), round(short * max(1.0, 1 / ratio))), 1 if grey else 3


def _check(source: Source, task: type[Task]) -> None:
    if task.inputs and source.kind not in task.inputs:
        raise DataError(
            f"{source.name} holds {source.kind}s, and the task {task.name} is for {' and '.join(task.inputs)}s; "
            f"--task can be {', '.join(possible(source)) or 'none'}"
        )
    if task.classifies:
        source.require_labels()
    if not fits(task, source):
        needed = ", ".join(f"{role} ({kind})" for role, kind in task.needs.items())
        there = ", ".join(f"{role} ({c.kind})" for role, c in source.columns.items() if c.known.any())
        advice = ""
        if task.classifies:
            advice = "; expected a folder for each class, or a table with a label column"
        elif there:
            advice = "; --task chooses another task"
        raise DataError(
            f"{source.name} has no {' and '.join(task.needs)} for the task {task.name!r}, which needs {needed}; "
            f"it has {there or 'only pictures'}{advice}"
        )


def spec_of(data: Any) -> str | None:
    """What run.json says of where the data are: a whole path, or a name; None for what is in memory."""
    if isinstance(data, Path):
        return str(data.resolve())
    if isinstance(data, str):
        return str(Path(data).resolve()) if Path(data).exists() else data
    return None


@dataclass
class Split:
    """The pictures of one split as the net sees them: `pictures` (one for each input), where from, what is known."""

    pictures: tuple[Held | Streamed | Ready, ...]
    source: Source
    rows: np.ndarray  # int64 (N,), indices into the source
    known: Known

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def shown(self) -> Held | Streamed:
        """The (first) pictures, where no features stand in their place."""
        first = self.pictures[0]
        assert not isinstance(first, Ready)
        return first

    @property
    def problems(self) -> list[Problem]:
        return [problem for one in self.pictures for problem in one.problems]

    def targets(self, rows: np.ndarray) -> dict[str, np.ndarray]:
        """What the task makes of the annotations of some pictures, all of which can be read."""
        which = torch.from_numpy(rows)
        made = self.known.collate(self.known.values(which), None, torch.ones(len(rows), dtype=torch.bool))
        return {name: value.numpy() for name, value in made.items()}


def open_split(
    columns: dict[str, Any],
    task: Task,
    source: Source,
    rows: np.ndarray,
    pre: Preprocess,
    device: Device,
    show: Show,
    what: str,
    reader: Reader | None = None,
    held: bool = True,
) -> Split:
    """As `split_of`, for samples outside a training. `reader`: of what is no picture. `held`: pictures may be."""
    known = Known(columns, task.collate, task.geometry)
    if reader is not None:
        with show.bar(f"reading {what}") as bar:
            read = Read(source, rows, reader, pre, lambda done, of: bar(done / of, f"{done:,} of {of:,}"))
        return Split((read,), source, rows[read.kept], known.select(read.kept) if len(read) < len(rows) else known)
    if task.on_features and (vectors := source.features(rows)) is not None:
        return Split((Vectors([vectors], pre, []),), source, rows, known)
    further = [column for column in columns.values() if isinstance(column, Pictures)]
    if further or not held or not fits_in_memory(len(rows), pre):
        others: list[Any] = [SimpleNamespace(key=column.key, read=column.__getitem__) for column in further]
        more = [Streamed(one, np.arange(len(rows)), pre) for one in others]
        return Split((Streamed(source, rows, pre), *more), source, rows, known)
    with show.bar(f"reading {what}") as bar:
        fixed = Held(source, rows, pre, device.torch, lambda done, of: bar(done / of, f"{done:,} of {of:,}"))
    known.keep = pre.input[0] * pre.input[1] * pre.channels  # as much again as the pictures, at most
    if len(fixed) < len(rows):
        known = known.select(fixed.kept)
    return Split((fixed,), source, rows[fixed.kept], known)


def reader_of(task: Task, values: Mapping[str, Any] | None) -> Reader | None:
    """What reads the inputs of a run: the task's own, else that of which net.json says `values`; None: pictures."""
    return task.own_reader() or (None if values is None else load_reader(values))


@dataclass
class Job:
    """A training under way; every function of a training takes this one thing.

    The first fields stand from the beginning; `inputs.prepare` makes the others.
    """

    plan: Plan
    data: Data
    task: Task
    device: Device
    world: World
    show: Show
    folder: Path
    begin: float  # time.monotonic() when the user called
    save_every: float = 60.0
    log: Log = None  # type: ignore[assignment]  # opened when the training begins
    reader: Reader | None = None  # of inputs that are not pictures
    net: nn.Module = field(default_factory=nn.Identity)
    feed: Feed | None = None
    splits: dict[str, Split] = field(default_factory=dict)
    guides: list[Guide] = field(default_factory=list)  # what is learned from beside labels
    trained: str = ""  # what is trained, where it starts from weights
    kept: Kept | None = None  # regime features: what the trunk makes of the pictures
    cross: CrossValidated | None = None  # regime features with few pictures

    @property
    def strangers(self) -> bool:
        """Whether inputs unlike the training's are told apart by features: pictures, of which alone it is measured."""
        return self.task.knows_strangers and self.reader is None

    @property
    def batches(self) -> Feed:
        """The training's feed."""
        assert self.feed is not None, "inputs.prepare comes first"
        return self.feed

    def beside(self) -> dict[str, torch.Tensor]:
        """What a checkpoint holds beside the weights: what guides and feed keep."""
        return {**{k: v for guide in self.guides for k, v in guide.tensors.items()}, **self.batches.state()}

    def go_on(self, kept: dict[str, torch.Tensor]) -> None:
        """Go on from what `beside` gave."""
        for guide in self.guides:
            guide.go_on(kept)
        self.batches.load(kept)


def task_options(task: type[Task], given: Mapping[str, Any]) -> dict[str, Any]:
    """The task's options with what the user gave, texts converted. Raises: UsageError: no such option."""
    return options_of(f"the task {task.name}", "--task-option", task.options, given)


def options_of(what: str, option: str, usual: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """The usual values with what the user gave after `option`, texts converted. Raises: UsageError: no such option."""
    values = dict(usual)
    for name, value in given.items():
        if name not in values:
            known = ", ".join(f"{k}={v}" for k, v in values.items()) or "none"
            raise UsageError(f"{what} has no option {name!r}{closest(name, values)}; it has {known}")
        kind = type(values[name])
        typed = values[name] is not None and not isinstance(value, kind)
        values[name] = converted(option, name, value, kind) if typed else value
    return values


def check_options(task: type[Task], given: Mapping[str, Any]) -> None:
    """Check options before the data are read. Raises: UsageError: neither the task nor a variant of it has them."""
    for name in task.variants:
        try:
            return check_options(find(name), given)
        except UsageError:
            continue
    task_options(task, given)
