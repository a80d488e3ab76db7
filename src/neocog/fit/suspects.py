"""Labels that are probably wrong: ``neocog check DATA --labels auto``, or ``--labels RUN``.

Confident learning (Northcutt, Jiang and Chuang 2021, "Confident learning: estimating uncertainty in dataset labels")
says how many: a class is believed of a picture when its probability is at least what that class gets, on average, on
the pictures that carry its label. So a class that is never sure needs less than one that always is. Which ones they are
is told by how much likelier another class is, each probability taken relative to what its class usually gets.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from neocog.data.check import fast_groups
from neocog.data.source import Source
from neocog.errors import DataError, UsageError
from neocog.fit.device import choose
from neocog.fit.extract import extract, logits_of
from neocog.fit.heads import FOLDS, part, stratified_folds
from neocog.fit.heads import choose as choose_head
from neocog.fit.job import usual_size
from neocog.fit.predicting import Run
from neocog.fit.start import open_start
from neocog.nets.packages import DEFAULT, PACKAGES
from neocog.nets.weight_files import at_hand
from neocog.tasks import Task, find
from neocog.tasks.measures import softmax

AUTO = "auto"
_FEWEST = 2 * FOLDS  # pictures of a class, below which nothing can be said of its labels
_COPIES_UP_TO = 20_000  # pictures among which copies are looked for, so that no copy tells its own label


def doubted(probabilities: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Pictures whose label is probably wrong.

    There are as many as have another class than their label believed of them (see above); they are those for which
    another class is likeliest against their label, each relative to what it usually gets.

    Args:
        probabilities: float (N, K), calibrated, by a net that has not learned from these labels.
        labels: int (N,), the labels that the pictures carry.

    Returns:
        Rows int64 (M,), the most doubtful first, and for each the class int64 (M,) that is likelier.
    """
    classes = probabilities.shape[1]
    rows = np.arange(len(labels))
    own = probabilities[rows, labels]
    count = np.bincount(labels, minlength=classes)
    usual = np.bincount(labels, own, minlength=classes) / np.maximum(count, 1)
    usual[count == 0] = np.inf  # a class without pictures has nothing to compare with
    believed = np.where(probabilities >= usual, probabilities, -1.0)
    other = believed.argmax(axis=1)
    many = int(((other != labels) & (believed[rows, other] > own)).sum())
    relative = np.maximum(probabilities, 1e-9) / np.maximum(usual, 1e-9)
    likelier = relative.argmax(axis=1)
    margin = np.log(relative[rows, likelier] / relative[rows, labels])
    found = np.argsort(-margin, kind="stable")[: min(many, int((margin > 0).sum()))]
    return found, likelier[found]


def suspicious_labels(
    judge: Run | str | Path, source: Source, *, device: str | None = None
) -> list[tuple[int, str, str, float]]:
    """Pictures of `source` whose label is probably wrong, the most doubtful first.

    Args:
        judge: ``"auto"``: every picture is judged by a last layer on the features of a pretrained net, fitted to the
            other four fifths of the pictures. Or a trained run: a net has seen its own training pictures with their
            labels and believes many wrong ones, so those that it was not trained on are judged best.

    Returns:
        (index into `source`, label, the class that is likelier, its probability). Look at them: what the judge
        often mistakes is not the label's fault.

    Raises:
        RunError: the run cannot be used. UsageError: no pretrained net is at hand. DataError: no labelled picture of a
        class that the run knows, or too few for each class.
    """
    source.require_labels()
    if str(judge) == AUTO:
        classes: tuple[str, ...] = source.classes
        rows, labels, probabilities = _by_others(source, device)
    else:
        run = judge if isinstance(judge, Run) else Run(judge)
        classes = run.classes
        rows, labels, probabilities = _by_run(run, source, device)
    which, likelier = doubted(probabilities, labels)
    return [
        (int(rows[i]), classes[labels[i]], classes[k], float(probabilities[i, k]))
        for i, k in zip(which, likelier, strict=True)
    ]


def _by_run(run: Run, source: Source, device: str | None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    number = np.array([run.classes.index(c) if c in run.classes else -1 for c in source.classes] or [-1])
    labels = np.where(source.labels >= 0, number[source.labels], -1)
    rows = np.flatnonzero(labels >= 0)
    if not len(rows):
        raise DataError(
            f"{source.name} has no labelled picture of a class that {run.folder} knows: {', '.join(run.classes[:8])}"
        )
    found, logits = logits_of(run, source, rows, choose(device))
    return rows[found], labels[rows[found]], softmax(logits, run.temperature)


def _by_others(source: Source, device: str | None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rows, labels and out-of-sample probabilities of the pictures of classes that have enough."""
    hand = at_hand()
    if hand is None:
        raise UsageError(
            "no pretrained net is at hand to judge labels by; type pip install "
            f"{PACKAGES[DEFAULT].distribution}, or give a trained run: --labels RUN"
        )
    counts = np.bincount(source.labels[source.labels >= 0], minlength=len(source.classes))
    rows = np.flatnonzero((source.labels >= 0) & (counts[source.labels] >= _FEWEST))
    if len(np.unique(source.labels[rows])) < 2:
        raise DataError(
            f"labels can be judged from {_FEWEST} pictures of each of two classes on; {source.name} has less"
        )
    start = open_start(hand[0], say=lambda text: None)
    size, _ = usual_size(source, rows)
    found = extract(start.net, source.select(rows), preprocess=start.sized(None, min(size)), device=device)
    rows, x = rows[found.rows], found.values
    labels = source.labels[rows].astype(np.int64)
    label = find("label")
    task = label.plan(source, rows, {"label_smoothing": 0.0, "balance": "none", **label.options})
    assert task.chance is not None
    copies = fast_groups(source, rows) if len(rows) <= _COPIES_UP_TO else None
    return rows, labels, out_of_fold(x, labels, task, copies)


def out_of_fold(x: np.ndarray, labels: np.ndarray, task: Task, copies: np.ndarray | None = None) -> np.ndarray:
    """Probabilities (N, K), each by a last layer on features `x` (N, D) that was fitted to other pictures' labels.

    `copies`: near-duplicates share a number and are left out together.
    """
    folds = stratified_folds(labels, FOLDS, copies)
    # the strength is one number for all folds, and so tells a fold next to nothing of its own labels
    first, y = folds == 0, {"label": labels}
    strength = choose_head(x[~first], part(y, ~first), task, held_out=(x[first], part(y, first))).strength
    probabilities = np.zeros((len(x), task.outputs or 0))
    for fold in range(int(folds.max()) + 1):
        out = folds == fold
        head = choose_head(x[~out], part(y, ~out), task, strength=strength)
        probabilities[out] = softmax(head.logits(x[out]), 1.0)
    return probabilities
