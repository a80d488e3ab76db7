"""Using trained nets: a run folder as an object, predictions, and the evaluation of one or several runs."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Sized
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any, TypedDict

import numpy as np
import torch
from torch import nn

from neocog.data import open_source
from neocog.data.batches import Batch, normalised
from neocog.data.decode import placed
from neocog.data.kinds import Category, Column
from neocog.data.pictures import gathered_pictures, workers
from neocog.data.reader import Reader
from neocog.data.source import Source, renamed
from neocog.data.warp import Warp
from neocog.errors import DataError, DecodeError, NeocogError, NetError, RunError, UsageError
from neocog.fit.device import Device, choose
from neocog.fit.evaluating import Telling, averaged, floated, observed
from neocog.fit.features import build
from neocog.fit.graphed import Graphed
from neocog.fit.job import open_split, reader_of
from neocog.fit.run import damaged, load_state, misfit, read_json, read_tensors
from neocog.fit.show import Show
from neocog.fit.texts import of_pairs, of_tables
from neocog.fit.words import Decided, decided
from neocog.records import SPLITS, Preprocess, counted, speak_of, worded
from neocog.tasks import Label, Task
from neocog.tasks.label import Prediction
from neocog.tasks.measures import evaluate_logits, softmax
from neocog.tasks.task import fits, load
from neocog.tasks.unknown import Unknown

_CLASSED = ("category", "categories", "boxes", "mask", "sequence")  # kinds of columns whose names are classes


class Spec(TypedDict):
    """With which ``neocog.nets.build`` makes a net; further keys are its options."""

    name: str
    classes: int
    in_channels: int
    input_size: int


class _Layers(TypedDict):
    layers: list[str]
    pool: str


class _Strangers(TypedDict, total=False):
    false_alarm: float
    auroc: dict[str, float] | float | None
    caught: dict[str, float]


class _Kept(TypedDict):
    epoch: float
    of: float
    why: str


class _Needed(TypedDict):
    net: Spec
    classes: list[str]
    preprocess: Preprocess
    tta: str
    mirror: bool
    metrics: dict[str, Any]
    temperature: float


class Card(_Needed, total=False):
    """What is in net.json."""

    task: dict[str, Any]
    reader: dict[str, Any]
    taps: _Layers | None
    unknown: _Strangers | None
    kept: _Kept


def read_card(folder: Path) -> dict[str, Any]:
    """Read net.json of a run folder. Raises: RunError if it is damaged, or names other classes than the net has."""
    path = folder / "net.json"
    card: dict[str, Any] = read_json(path, Card)
    if lacking := {"mean", "std", "channels"} - card["preprocess"].keys():
        raise damaged(path, f"preprocess has no key {min(lacking)!r}")
    pre, names, outputs = Preprocess.from_json(card["preprocess"]), len(card["classes"]), card["net"]["classes"]
    task = task_in(card, path)
    if task.classifies and not card.get("taps") and names != outputs:
        raise damaged(path, f"it names {counted(names, 'class')} for a net with {counted(outputs, 'output')}")
    if not (min(len(pre.mean), len(pre.std)) >= pre.channels > 0 and min(pre.size, pre.resize, *pre.std) > 0):
        raise damaged(path, f"invalid values: {pre}")
    if wrong := misfit_metrics(card["metrics"]) if task.classifies else "":
        raise damaged(path, wrong)
    if not (card["temperature"] > 0 and math.isfinite(card["temperature"])):
        raise damaged(path, f"the temperature is {card['temperature']} instead of a number above 0")
    return card


def task_in(card: Mapping[str, Any], path: Path) -> Task:
    """The task that net.json describes. Raises: RunError if it cannot be made."""
    if "task" not in card:  # of a version that knew one task only
        return Label(card["classes"], temperature=float(card["temperature"]))
    try:
        task = load(card["task"])
    except (KeyError, TypeError, ValueError, NeocogError) as error:
        raise damaged(path, f"its task cannot be built ({type(error).__name__}: {error})") from None
    if list(getattr(task, "classes", ())) != card["classes"]:
        raise damaged(path, "the classes of the task and of the net differ")
    return task


def misfit_metrics(metrics: Mapping[str, Any]) -> str:
    """What is wrong with the figures of the task label in net.json, "" if nothing: a split has all, or none."""
    common = {"accuracy": float, "accuracy_interval": tuple[float, float], "n": int}
    one, crossed = {"macro_f1": float}, {"repeats": int, "folds": int}
    for split, more in (("test", one), ("val", one), ("cv", crossed)):
        forms = {f"{split}_{name}": form for name, form in (common | more).items()}
        if f"{split}_classes" in metrics:  # not in the runs of older versions
            forms[f"{split}_classes"] = int
        if any(key.startswith(f"{split}_") for key in metrics):
            for key, form in forms.items():
                if wrong := misfit(metrics.get(key), form, f"metrics.{key}"):
                    return wrong
    return ""


__all__ = ["Prediction", "Run", "evaluate", "logits_of", "match_texts", "predict"]


class Run:
    """A finished training, read from its folder. Weights are loaded when they are first needed."""

    def __init__(self, folder: str | Path) -> None:
        """Raises: RunError if the folder holds no run."""
        self.folder = Path(folder)
        self.settings: dict[str, Any] = read_json(self.folder / "run.json")
        if not (self.folder / "net.json").exists():
            raise RunError(f"the training of {folder} is not finished; continue it with 'neocog resume {folder}'")
        self._card = read_card(self.folder)
        self._net: nn.Module | None = None
        self._unknown: Unknown | None = None

    def __repr__(self) -> str:
        return f"Run({str(self.folder)!r})"

    @cached_property
    def task(self) -> Task:
        """What the net answers, with what was chosen after training."""
        return task_in(self._card, self.folder / "net.json")

    @cached_property
    def reader(self) -> Reader | None:
        """What reads the inputs; None: they are pictures."""
        return reader_of(self.task, self._card.get("reader"))

    @property
    def reads_pairs(self) -> bool:
        """Whether it is asked of two texts, see `match_texts`."""
        return {"first", "second"} <= self.task.needs.keys()

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names, in the order of the net's outputs."""
        return tuple(self._card["classes"])

    @property
    def metrics(self) -> dict[str, Any]:
        """Figures of the test and the validation split."""
        return dict(self._card["metrics"])

    @property
    def report(self) -> Path:
        """The HTML report."""
        return self.folder / "report.html"

    @property
    def preprocess(self) -> Preprocess:
        """How pictures become the net's input. Raises: UsageError: it reads no pictures."""
        if self.reader is not None:
            raise UsageError(f"{self.folder} was trained on {self.reader.kind}s; this is for runs on pictures")
        return Preprocess.from_json(self._card["preprocess"])

    @property
    def views(self) -> dict[str, Any]:
        """The test-time views that the metrics and the temperature belong to."""
        return {"tta": self._card["tta"], "mirror": self._card["mirror"]}

    @property
    def spec(self) -> dict[str, Any]:
        """With which ``neocog.nets.build`` makes the net, or the trunk whose layers are read (see `taps`)."""
        return dict(self._card["net"])

    @property
    def taps(self) -> dict[str, Any] | None:
        """The layers by which the net names classes (see ``neocog.fit.features.Tapped``), None for a plain net."""
        return self._card.get("taps")

    @property
    def temperature(self) -> float:
        """Logits are divided by this before the softmax."""
        return float(self._card["temperature"])

    def net(self) -> nn.Module:
        """The trained net, in eval mode, on the CPU."""
        if self._net is None:
            card, path = self.folder / "net.json", self.folder / "weights.safetensors"
            tensors, _ = read_tensors(path)
            try:
                net = build(self.spec, self.taps, self.task)
            except (NetError, TypeError, ValueError) as error:
                raise damaged(card, f"the net that it describes cannot be built ({error})") from error
            head = tensors.get(f"{net.head}.weight")
            if head is not None and self.task.outputs not in (None, len(head)):
                raise damaged(
                    card,
                    f"it names {counted(self.task.outputs, 'class')} for a net with {counted(len(head), 'output')}",
                )
            load_state(net, tensors, str(path))
            self._net = net.eval()
        return self._net

    def detector(self) -> Unknown | None:
        """What recognises pictures unlike the training data; None if there were too few pictures to fit it."""
        path = self.folder / "unknown.safetensors"
        if self._unknown is None and path.exists():
            self._unknown = Unknown.load({k: v.numpy() for k, v in read_tensors(path)[0].items()})
        return self._unknown

    def predict(self, pictures: Any, *, top: int = 5) -> list[Any]:
        """What the net says of one picture or many: paths, encoded bytes or uint8 arrays; a folder means its pictures.

        Of a run on other inputs these, as its reader takes them: texts, tables and files of them, sounds, clips.
        Each answer is an `Answer` of the run's task, a `Prediction` of the task label.
        """
        if self.reader is not None:
            pictures = [pictures] if isinstance(pictures, (str, Path, bytes, np.ndarray)) else pictures
        elif isinstance(pictures, (str, Path)) and Path(pictures).is_dir():
            source = open_source(Path(pictures))
            pictures = [source.path(i) or source.read(i) for i in range(len(source))]
        elif isinstance(pictures, (str, Path, bytes)) or (isinstance(pictures, np.ndarray) and _single(pictures)):
            pictures = [pictures]
        return list(predict(self, pictures, top=top))

    def sample(self, n: int = 64, *, seed: int = 0) -> np.ndarray:
        """New pictures, uint8 (n, H, W, 1 or 3), of a run of the task vae or gan; the same seed gives the same ones.

        Raises: UsageError: a run of another task, or no picture is asked for.
        """
        if n < 1:
            raise UsageError(f"at least one picture has to be asked for, not {n}")
        return self.task.sample(self.net(), n, seed)

    def decided(self, text: Any, what: str | None = None) -> Decided:
        """Which words and windows of words decided that the net says `what` of a text; see ``fit.words.decided``."""
        return decided(self.task, self.net(), self.reader, text, what)

    def summary(self) -> list[str]:
        """The result in a few lines."""
        m, lines = self.metrics, []
        for split, name in (("test", "test"), ("val", "validation")):
            figures = {k.removeprefix(f"{split}_"): v for k, v in m.items() if k.startswith(f"{split}_")}
            if figures:
                speak_of(self.reader.kind if self.reader else "picture")
                lines.append(worded(f"{name} {self.task.headline(figures)}"))
        goal = f"cv_{self.task.goal[0]}"
        if goal in m:
            value, low, high = (self.task.shown(v) for v in (m[goal], *m[f"{goal}_interval"]))
            lines.append(
                f"cross-validated {self.task.figure} {value} (95 % interval {low} to {high}; {m['cv_repeats']} times "
                f"{m['cv_folds']}-fold, n = {m['cv_n']:,})"
            )
        return [*lines, f"report: {self.report}"]


def _single(array: np.ndarray) -> bool:
    return array.ndim == 2 or (array.ndim == 3 and array.shape[2] in (1, 3))


def predict(
    run: Run | str | Path,
    inputs: Iterable[Any],
    *,
    top: int = 5,
    batch_size: int = 64,
    device: str | None = None,
    say: Callable[[str], object] = lambda text: None,
) -> Iterator[Any]:
    """Answers for pictures one batch at a time, in their order; one that cannot be read gets a `problem`.

    Args:
        inputs: paths, encoded bytes, or uint8 arrays (H, W) or (H, W, 3); of a run on other inputs what its reader
            takes (``reader.Reader.inputs``), and of one on pairs of texts tables of them.
        top: guesses for each picture, where a task has several.
        device: ``"cpu"``, ``"cuda"``, ``"mps"``; None takes a GPU if there is one.
        say: takes a line on the engine that computes, once it is chosen.

    Raises:
        RunError: the run cannot be used. UsageError: `top` below 1.
    """
    run = run if isinstance(run, Run) else Run(run)
    if top < 1:
        raise UsageError(f"--top needs at least 1, got {top}")
    if run.reads_pairs:
        yield from of_tables(run.task, run.net(), inputs)
        return
    if run.reader is not None:
        yield from _read(run, run.reader, inputs, top, batch_size, here(device))
        return
    pre, chosen, task = run.preprocess, here(device), run.task
    detector = run.detector() if task.knows_strangers else None
    ahead = len(inputs) if isinstance(inputs, Sized) else None
    net = _ready(run, chosen, ahead, say, features=detector is not None)
    batch_size = {"pad": min(batch_size, 8), "tile": 1}.get(pre.fit, batch_size)

    def read(one: tuple[int, Any]) -> tuple[str, Any, str | None]:
        number, item = one
        key = str(item) if isinstance(item, (str, Path)) else f"picture {number}"
        try:
            data = Path(item).read_bytes() if isinstance(item, (str, Path)) else item
            made, matrix, size = placed(data, pre)
            return key, (made.transpose(1, 2, 0), matrix, size), None
        except DecodeError as error:
            return key, None, str(error)
        except OSError as error:
            return key, None, error.strerror or str(error)

    @torch.inference_mode()
    def answer(some: list[tuple[str, Any, str | None]]) -> list[Any]:
        good = [(key, picture) for key, picture, problem in some if problem is None]
        found: Iterator[Any] = iter(())
        if good:
            batch = pictures_only([picture for _, picture in good], pre, chosen)
            with chosen.autocast():
                outputs, seen = averaged(
                    net, task, batch, run.views["tta"], run.views["mirror"], features=detector is not None
                )
            answers: list[Any] = task.answers(outputs, batch, [key for key, _ in good], top)
            if detector is not None and seen is not None:
                distances = detector.score(seen.cpu().numpy()).tolist()
                answers = [a.judged(d, detector.threshold) for a, d in zip(answers, distances, strict=True)]
            found = iter(answers)
        return [next(found) if problem is None else task.unread(key, problem) for key, _, problem in some]

    with ThreadPoolExecutor(workers()) as pool:
        waiting: list[Any] = []
        for one in enumerate(inputs):
            waiting.append(one)
            if len(waiting) == batch_size:
                yield from answer(list(pool.map(read, waiting)))
                waiting = []
        yield from answer(list(pool.map(read, waiting)))


def _read(run: Run, reader: Reader, inputs: Iterable[Any], top: int, batch_size: int, device: Device) -> Iterator[Any]:
    """As `predict`, of what a reader reads."""
    net, task = run.net().to(device.torch), run.task

    def read(one: tuple[str, Any]) -> tuple[str, Any]:
        try:
            return one[0], reader.encode(one[1])
        except DataError as error:
            return one[0], str(error)
        except OSError as error:
            return one[0], error.strerror or str(error)

    with ThreadPoolExecutor(workers()) as pool:
        given = iter(reader.inputs(inputs))
        while some := list(islice(given, batch_size)):
            found = list(pool.map(read, some))
            good = [(key, made) for key, made in found if not isinstance(made, str)]
            answers: Iterator[Any] = iter(())
            if good:
                with torch.inference_mode():
                    x = reader.finish(reader.collate([made for _, made in good]).to(device.torch))
                    batch = Batch((x,), {}, torch.arange(len(x)), torch.ones(len(x), dtype=torch.bool))
                    with device.autocast():
                        outputs = floated(task.run(net, batch))
                    answers = iter(task.answers(outputs, batch, [key for key, _ in good], top))
            for (key, raw), (_, made) in zip(some, found, strict=True):
                yield task.unread(key, made) if isinstance(made, str) else next(answers).beside(raw)


def match_texts(run: Run | str | Path, pairs: Sequence[tuple[str, str]]) -> list[Any]:
    """Whether the texts of each pair belong together: cosine, the probability that they say the same, and the words.

    Args:
        run: of the task match, trained on a table of pairs of texts.

    Returns:
        A ``tasks.match_texts.Pair`` for each pair.

    Raises:
        UsageError: the run was trained on pictures.
    """
    run = run if isinstance(run, Run) else Run(run)
    if not run.reads_pairs:
        raise UsageError(f"{run.folder} was trained for the task {run.task.name} not on pairs of texts")
    return of_pairs(run.task, run.net(), pairs)


def pictures_only(pictures: list[Any], pre: Preprocess, device: Device) -> Batch:
    """A batch of prepared pictures (see ``data.batches.Placed``) without annotations."""
    part = gathered_pictures(pictures, pre)
    x = normalised(part.pixels.to(device.torch).permute(0, 3, 1, 2).float() / 255.0, pre)
    x, size = (
        x.contiguous(memory_format=device.layout if x.ndim == 4 else torch.contiguous_format),
        (x.shape[2], x.shape[3]),
    )
    return Batch((x,), {}, torch.arange(len(x)), part.valid.to(device.torch), Warp(part.places, part.sizes, size))


def _ready(
    run: Run,
    device: Device,
    ahead: int | None,
    say: Callable[[str], object] = lambda text: None,
    *,
    features: bool = False,
) -> nn.Module:
    """A run's net on a device, computed by the fastest engine where its task asks it for nothing but its answers."""
    net = device.placed(run.net())
    if (
        run.reader is not None
        or getattr(run.task.run, "__func__", None) is not Task.run
        or run.preprocess.fit in ("pad", "tile")
    ):
        return net
    return Graphed(Telling(net) if features else net, device, ahead, say)


def here(device: str | None) -> Device:
    """A GPU if there is one; on the CPU float32, so that a picture gets the same answer alone and among others."""
    if device == "cpu" or (device is None and not torch.cuda.is_available() and not torch.backends.mps.is_available()):
        return Device("cpu", channels_last=True)
    return choose(device)


def evaluate(
    runs: Sequence[Run | str | Path], data: Any, *, split: str | None = None, device: str | None = None
) -> dict[str, Any]:
    """Figures of one or several runs on labelled pictures, and of the mean of their probabilities.

    Args:
        split: ``"train"``, ``"val"`` or ``"test"``; None takes test if the data declare one, else everything.

    Returns:
        ``{"data", "split", "n", "runs": [figures with "run"], "ensemble": figures or None}``.

    Raises:
        DataError: no labelled picture, or classes that the runs do not know. RunError: runs of different classes.
    """
    opened = [r if isinstance(r, Run) else Run(r) for r in runs]
    if not opened:
        raise UsageError("evaluate needs at least one run")
    classes = opened[0].classes
    for other in opened[1:]:
        if set(other.classes) != set(classes):
            raise RunError(
                f"{other.folder} and {opened[0].folder} were trained on different classes, so their probabilities "
                "cannot be averaged"
            )
    if not opened[0].task.classifies:
        return _evaluate_one(opened, data, split, device)
    source = open_source(data)
    speak_of(source.kind)
    source.require_labels()
    unknown = [c for c in source.classes if c not in classes]
    if unknown:
        raise DataError(f"the runs do not know the class {unknown[0]!r}; they know {', '.join(classes[:8])}")
    chosen = source.labels >= 0
    if split is None:
        split = "test" if (source.splits == SPLITS.index("test")).any() else None
    if split is not None:
        chosen &= source.splits == SPLITS.index(split)
    rows = np.flatnonzero(chosen)
    if not len(rows):
        raise DataError(f"{source.name} has no labelled picture in the split {split or 'all'}")
    number = np.array([classes.index(c) for c in source.classes])
    labels = number[source.labels[rows]].astype(np.int64)
    where = choose(device)
    figures, probabilities, common = [], [], np.ones(len(rows), dtype=bool)
    for run in opened:
        found, logits = logits_of(run, source, rows, where)
        order = np.array([run.classes.index(c) for c in classes])
        logits = logits[:, order]
        result = evaluate_logits(logits, labels[found], classes, run.temperature)
        figures.append({"run": str(run.folder), **result})
        whole = np.full((len(rows), len(classes)), np.nan, dtype=np.float64)
        whole[found] = softmax(logits, run.temperature)
        common &= ~np.isnan(whole[:, 0])
        probabilities.append(whole)
    ensemble = None
    if len(opened) > 1:
        mean = np.mean([p[common] for p in probabilities], axis=0)
        ensemble = evaluate_logits(np.log(np.maximum(mean, 1e-30)), labels[common], classes)
    return {
        "data": source.name,
        "split": split or "all",
        "n": int(common.sum()),
        "runs": figures,
        "ensemble": ensemble,
    }


def logits_of(run: Run, source: Source, rows: np.ndarray, where: Device) -> tuple[np.ndarray, np.ndarray]:
    """Positions in `rows` int64 (N,) of the pictures that can be read, and a label run's logits (N, K) for them."""
    columns = {"label": Category(np.zeros(len(rows)), ("?",))}  # the labels do not matter here
    shown = open_split(columns, run.task, source, rows, _pre(run), where, Show(False), "", run.reader, held=False)
    seen, _ = observed(_ready(run, where, len(rows)), run.task, shown, where, **run.views)
    return np.searchsorted(rows, shown.rows)[seen["rows"]], seen["logits"]


def _pre(run: Run) -> Preprocess:
    return Preprocess.from_json(run._card["preprocess"]) if run.reader else run.preprocess


def _evaluate_one(runs: Sequence[Run], data: Any, split: str | None, device: str | None) -> dict[str, Any]:
    """Figures of runs of one task, each by itself."""
    figures, where, name, n = [], choose(device), split, 0
    for run in runs:
        task, source = run.task, open_source(data)
        speak_of(source.kind)
        task.thorough()
        if not fits(type(task), source):
            raise DataError(f"{source.name} has no {' and '.join(task.needs)}, by which the task {task.name} is judged")
        usable = task.known(source)
        if name is None:
            name = "test" if (usable & (source.splits == SPLITS.index("test"))).any() else "all"
        rows = np.flatnonzero(usable if name == "all" else usable & (source.splits == SPLITS.index(name)))
        if not len(rows):
            raise DataError(f"{source.name} has no picture with {' and '.join(task.needs)} in the split {name}")
        columns = {role: _as_trained(source.columns[role], task).select(rows) for role in task.needs}
        shown = open_split(columns, task, source, rows, _pre(run), where, Show(False), "", run.reader)
        seen, _ = observed(_ready(run, where, len(rows)), task, shown, where, **run.views)
        figures.append({"run": str(run.folder), **task.figures(seen)})
        n = figures[-1]["n"]
    return {"data": open_source(data).name, "split": name, "n": n, "runs": figures, "ensemble": None}


def _as_trained(column: Column, task: Task) -> Column:
    """A column with its classes in the order of the task's. Raises: DataError: a class that the task does not know."""
    classes = tuple(getattr(task, "classes", ()))
    return renamed(column, classes) if classes and column.kind in _CLASSED else column
