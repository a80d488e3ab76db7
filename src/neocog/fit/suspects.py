"""Labels that a trained net doubts: ``neocog check DATA --run RUN``.

Confident learning (Northcutt, Jiang and Chuang 2021, "Confident learning: estimating uncertainty in dataset labels"):
a class is believed of a picture when its probability is at least what that class gets, on average, on the pictures
that carry its label. So a class that the net is never sure of needs less than one that it is always sure of.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from neocog.data.source import Source
from neocog.errors import DataError
from neocog.fit.device import choose
from neocog.fit.predicting import Run, logits_of
from neocog.tasks.measures import softmax


def doubted(probabilities: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Pictures of which another class than their label is believed.

    Args:
        probabilities: float (N, K), calibrated.
        labels: int (N,), the labels that the pictures carry.

    Returns:
        Rows int64 (M,), the most doubtful first, and for each the class int64 (M,) that is believed instead.
    """
    classes = probabilities.shape[1]
    rows = np.arange(len(labels))
    own = probabilities[rows, labels]
    count = np.bincount(labels, minlength=classes)
    usual = np.bincount(labels, own, minlength=classes) / np.maximum(count, 1)
    usual[count == 0] = np.inf  # a class without pictures has nothing to compare with
    believed = np.where(probabilities >= usual, probabilities, -1.0)
    other = believed.argmax(axis=1)
    margin = believed[rows, other] - own
    found = np.flatnonzero((other != labels) & (margin > 0))
    found = found[np.argsort(-margin[found], kind="stable")]
    return found, other[found]


def suspicious_labels(
    run: Run | str | Path, source: Source, *, device: str | None = None
) -> list[tuple[int, str, str, float]]:
    """Pictures of `source` whose label a trained net doubts, the most doubtful first.

    A net has seen its own training pictures with their labels and believes many wrong ones, so the pictures that it
    was not trained on are judged best; and an error that it makes often is not the label's fault.

    Returns:
        (index into `source`, label, the class that is believed instead, its calibrated probability).

    Raises:
        RunError: the run cannot be used. DataError: no labelled picture of a class that the run knows.
    """
    run = run if isinstance(run, Run) else Run(run)
    source.require_labels()
    number = np.array([run.classes.index(c) if c in run.classes else -1 for c in source.classes] or [-1])
    labels = np.where(source.labels >= 0, number[source.labels], -1)
    rows = np.flatnonzero(labels >= 0)
    if not len(rows):
        raise DataError(
            f"{source.name} has no labelled picture of a class that {run.folder} knows: {', '.join(run.classes[:8])}"
        )
    where = choose(device)
    found, logits = logits_of(run, source, rows, where)
    probabilities = softmax(logits, run.temperature)
    rows = rows[found]
    which, believed = doubted(probabilities, labels[rows])
    return [
        (int(rows[i]), run.classes[labels[rows[i]]], run.classes[k], float(probabilities[i, k]))
        for i, k in zip(which, believed, strict=True)
    ]
