"""What trained nets make of many samples: features by the names of layers, logits, and the figures of runs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from torch import nn

from neocog.data import open_source
from neocog.data.kinds import Category, Column
from neocog.data.pictures import Streamed
from neocog.data.source import Source, renamed
from neocog.errors import DataError, RunError, UsageError
from neocog.fit.depth import zoo_net
from neocog.fit.device import Device, choose
from neocog.fit.ensembles import added, greedy
from neocog.fit.evaluating import observed
from neocog.fit.features import Read, Taps, features_of, layer_names
from neocog.fit.graphed import Graphed
from neocog.fit.job import Split, open_split, spec_of
from neocog.fit.predicting import Run, ready
from neocog.fit.run import read_tensors
from neocog.fit.show import Show
from neocog.nets.taps import LAST
from neocog.records import SPLITS, Preprocess, Problem, counted, some_of, speak_of
from neocog.tasks import Task
from neocog.tasks.measures import evaluate_logits, softmax
from neocog.tasks.task import fits

_CLASSED = ("category", "categories", "boxes", "mask", "sequence")  # kinds of columns whose names are classes


class Extracted(NamedTuple):
    """Features of the pictures that could be read, with their labels; `problems` are the others."""

    rows: np.ndarray  # int64 (N,), of the source
    values: np.ndarray  # float32 (N, D) or (N, C, H, W)
    problems: list[Problem]
    labels: np.ndarray  # int64 (N,), index into `classes`; -1: none, or several
    classes: tuple[str, ...]
    label_sets: tuple[tuple[str, ...], ...] | None  # N, where a picture may have several labels


def extract(
    net: nn.Module | Any,
    pictures: Any,
    layers: str | Sequence[str] | None = None,
    *,
    pool: str = "mean",
    preprocess: Preprocess | None = None,
    device: str | None = None,
    progress: bool = False,
) -> Extracted:
    """Features of pictures by name of layer, and the labels of the pictures.

    Args:
        net: a run, or a module together with its `preprocess`.
        pictures: whatever ``open_source`` opens.
        layers: dotted names, joined by commas or as a list; None is what the last layer reads.
        pool: "mean" or "max" over the positions of a map, or "spatial".

    Raises:
        UsageError: no such layer or pooling, or no preprocessing.
    """
    if not isinstance(net, nn.Module):
        run = net if isinstance(net, Run) else Run(net)
        net, preprocess = run.net(), preprocess or run.preprocess
        net = zoo_net(net)
    if preprocess is None:
        raise UsageError(
            "features of a module need its preprocessing: extract(net, pictures, preprocess=Preprocess(...))"
        )
    source, chosen, show = open_source(pictures), choose(device), Show(progress)
    net = chosen.placed(net)
    shown = Streamed(source, np.arange(len(source)), preprocess)
    taps = Taps(net, layer_names(layers) or (LAST,), pool)
    with show.bar("features") as bar:
        rows, values = features_of(net, Graphed(Read(net, taps), chosen, len(source)), shown, chosen, show=bar)
    several = None
    if (sets := source.label_sets) is not None:
        several = tuple(tuple(source.classes[j] for j in sets[int(i)]) for i in rows)
    return Extracted(rows, values, shown.problems, source.labels[rows].astype(np.int64), tuple(source.classes), several)


def evaluate(
    runs: Sequence[Run | str | Path], data: Any, *, split: str | None = None, device: str | None = None
) -> dict[str, Any]:
    """Figures of one or several runs on labelled pictures, and of the mean of their probabilities.

    Args:
        split: ``"train"``, ``"val"`` or ``"test"``; None takes test if the data declare one, else everything.

    Returns:
        ``{"data", "split", "n", "notes", "runs": [figures with "run"], "ensemble": figures or None}``. Notes say which
        runs were trained on what they are asked about. The ensemble's figures
        have what each run adds, too: see `ensembles.added`. Runs are taken by their ``order``: greedily by the
        validation pictures that the data declare, if the split is another; else by their own validation accuracy.

    Raises:
        DataError: no labelled picture, or classes that the runs do not know. RunError: runs of different classes.
    """
    opened = [r if isinstance(r, Run) else Run(r) for r in runs]
    if not opened:
        raise UsageError("evaluate needs at least one run")
    classes, source = opened[0].classes, open_source(data)
    for other in opened:
        if other.kind != source.kind:
            raise UsageError(f"{other.folder} reads {other.kind}s, and {source.name} holds {source.kind}s")
        for asked, theirs, ours in (
            ("tasks", (other.task.name,), (opened[0].task.name,)),
            ("classes", sorted(other.classes), sorted(classes)),
        ):
            if theirs != ours:
                raise RunError(
                    f"runs can be judged together whose {asked} are the same: {other.folder} knows {some_of(theirs)}, "
                    f"and {opened[0].folder} {some_of(ours)}; give one of them"
                )
    where, labelled = choose(device), opened[0].task.classifies
    source = type(opened[0].task).completed(source, opened[0].task.how, classes)
    speak_of(source.kind)
    if labelled:
        source.require_labels()
        if unknown := [c for c in source.classes if c not in classes]:
            raise DataError(f"the runs do not know the class {unknown[0]!r}; they know {', '.join(classes[:8])}")
    figures, several, notes = [], [], list[str]()
    choosing = np.zeros(0, np.int64)  # pictures by which runs are put in order
    for run in opened:
        task, what = run.task, "label" if run.task.classifies else " and ".join(run.task.needs)
        task.thorough()
        if not fits(type(task), source):
            raise DataError(f"{source.name} has no {what}, by which the task {task.name} is judged")
        usable = task.known(source)
        if split is None:
            split = "test" if (usable & (source.splits == SPLITS.index("test"))).any() else "all"
        rows = np.flatnonzero(usable if split == "all" else usable & (source.splits == SPLITS.index(split)))
        if not len(rows):
            raise DataError(f"{source.name} has no picture with {what} in the split {split}")
        if labelled and len(opened) > 1 and split in ("train", "test"):
            choosing = np.flatnonzero(usable & (source.splits == SPLITS.index("val")))
        notes += _learned_from(run, source, data, rows)
        both = np.concatenate([rows, choosing])
        columns = {role: _as_trained(source.columns[role], task).select(both) for role in task.needs}
        shown, seen = _seen(run, source, both, columns, where)
        if labelled:  # all in the order of the first run's classes
            logits = seen["logits"][:, [run.classes.index(c) for c in classes]]
            labels = np.array([classes.index(c) for c in run.classes])[seen["labels"]]
            at = shown.rows[seen["rows"]]
            judged = np.isin(at, rows)
            found = evaluate_logits(logits[judged], labels[judged], classes, run.temperature)
            truth = np.full(len(source), -1)
            truth[at] = labels
            chances = np.full((len(source), len(classes)), np.nan)
            chances[at] = softmax(logits, run.temperature)
            several.append((truth, chances))
        else:
            found = task.figures(seen)
        figures.append({"run": str(run.folder), **found})
    ensemble, n = None, figures[-1]["n"]
    if len(several) > 1:
        truth = np.min([labels for labels, _ in several], axis=0)  # -1 where one of them could not read a picture
        rows, choosing = (some[truth[some] >= 0] for some in (rows, choosing))
        every = np.stack([chances[rows] for _, chances in several])
        ensemble = evaluate_logits(np.log(np.maximum(every.mean(0), 1e-30)), truth[rows], classes)
        n = ensemble["n"]
        if len(choosing):
            how = f"accuracy on {counted(len(choosing))} of the split val"
            order = greedy(np.stack([chances[choosing] for _, chances in several]), truth[choosing])
        else:
            how = "each run's own validation accuracy"
            order = sorted(range(len(opened)), key=lambda r: -opened[r].metrics.get("val_accuracy", 0))
        ensemble |= {"order": how, **added(every, truth[rows], [one["run"] for one in figures], order)}
    return {
        "data": source.name,
        "split": split,
        "n": n,
        "notes": [*dict.fromkeys(notes)],
        "runs": figures,
        "ensemble": ensemble,
    }


def _learned_from(run: Run, source: Source, data: Any, rows: np.ndarray) -> list[str]:
    """What is to be said if a run was trained on some of the rows that it is asked about; an export does not know."""
    before, split = run.settings.get("data", {}), run.folder / "split.safetensors"
    if not {"spec", "fingerprint"} <= before.keys() or not split.is_file():
        return []
    if before["fingerprint"].split("+")[0] == source.fingerprint():
        codes = read_tensors(split)[0]["codes"].numpy()
        learned = int((codes[rows] == SPLITS.index("train")).sum())
        how = f"was trained on {learned:,} of these {counted(len(rows))}" if learned else ""
    else:
        same = isinstance(data, (str, Path)) and spec_of(data) == before["spec"]
        how = f"was trained on what was in {data} then, which has changed since" if same else ""
    told = "so its figures are too good; those of its own test split are in"
    return [f"{run.folder} {how}, {told} {run.report}"] if how else []


def _seen(
    run: Run, source: Source, rows: np.ndarray, columns: dict[str, Any], where: Device
) -> tuple[Split, dict[str, Any]]:
    """Some pictures as a run sees them, and what its task keeps of its answers for those that can be read."""
    pre = Preprocess.from_json(run._card["preprocess"]) if run.reader else run.preprocess
    shown = open_split(columns, run.task, source, rows, pre, where, Show(False), "", run.reader, held=False)
    return shown, observed(ready(run, where, len(rows)), run.task, shown, where, **run.views)[0]


def logits_of(run: Run, source: Source, rows: np.ndarray, where: Device) -> tuple[np.ndarray, np.ndarray]:
    """Positions in `rows` int64 (N,) of the pictures that can be read, and a label run's logits (N, K) for them."""
    columns = {"label": Category(np.zeros(len(rows)), ("?",))}  # the labels do not matter here
    shown, seen = _seen(run, source, rows, columns, where)
    return np.searchsorted(rows, shown.rows)[seen["rows"]], seen["logits"]


def _as_trained(column: Column, task: Task) -> Column:
    """A column with its classes in the order of the task's. Raises: DataError: a class that the task does not know."""
    classes = tuple(getattr(task, "classes", ()))
    return renamed(column, classes) if classes and column.kind in _CLASSED else column
