"""Labels that are probably wrong: ``neocog check DATA --labels auto``, or ``--labels RUN``.

Confident learning (Northcutt, Jiang and Chuang 2021, "Confident learning: estimating uncertainty in dataset labels")
says how many: a class is believed of a picture when its probability is at least what that class gets, on average, on
the pictures that carry its label. So a class that is never sure needs less than one that always is. Which ones they are
is told by how much likelier another class is, each probability taken relative to what its class usually gets.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from neocog.data.check import fast_groups
from neocog.data.findings import Suspicion
from neocog.data.reader import PICTURE
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
    rows = np.arange(len(labels))
    own = probabilities[rows, labels]
    believed, usual = _believed(probabilities, labels)
    other = believed.argmax(axis=1)
    many = int(((other != labels) & (believed[rows, other] > own)).sum())
    relative = np.maximum(probabilities, 1e-9) / np.maximum(usual, 1e-9)
    likelier = relative.argmax(axis=1)
    margin = np.log(relative[rows, likelier] / relative[rows, labels])
    found = np.argsort(-margin, kind="stable")[: min(many, int((margin > 0).sum()))]
    return found, likelier[found]


def _believed(probabilities: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The probabilities (N, K) of classes that are believed, else -1; and from which on each is (K,)."""
    own = probabilities[np.arange(len(labels)), labels]
    count = np.bincount(labels, minlength=probabilities.shape[1])
    usual = np.bincount(labels, own, minlength=len(count)) / np.maximum(count, 1)
    usual[count == 0] = np.inf  # a class without pictures has nothing to compare with
    return np.where(probabilities >= usual, probabilities, -1.0), usual


def confident_joint(probabilities: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Shares of all pictures by true class and label: float (K, K), rows are classes, the sum is 1.

    Pictures are counted by their label and by the class that is believed of them; then each label gets as many as
    carry it (Northcutt et al. 2021, section 3.1). Arguments as for `doubted`.
    """
    believed, usual = _believed(probabilities, labels)
    sure = believed.max(axis=1) >= 0
    counts = np.zeros((len(usual), len(usual)))  # labels, classes
    np.add.at(counts, (labels[sure], believed[sure].argmax(axis=1)), 1.0)
    alone = counts.sum(axis=1) == 0  # nothing is believed of them but what they say
    counts[alone, alone] = 1.0
    carry = np.bincount(labels, minlength=len(usual)) / max(1, len(labels))
    return (counts / counts.sum(axis=1, keepdims=True) * carry[:, None]).T


def noise_matrix(joint: np.ndarray) -> np.ndarray:
    """How often pictures of class i carry label j, float (K, K): the rows of `confident_joint`, each summing to 1."""
    total = joint.sum(axis=1, keepdims=True)
    return np.where(total > 0, joint / np.where(total > 0, total, 1.0), np.eye(len(joint)))


@dataclass(frozen=True, eq=False)
class Judged:
    """What a judge says of pictures: `rows` (N,) of a source, their `labels` (N,), `probabilities` (N, K)."""

    classes: tuple[str, ...]
    rows: np.ndarray
    labels: np.ndarray
    probabilities: np.ndarray

    @property
    def joint(self) -> np.ndarray:
        return confident_joint(self.probabilities, self.labels)

    @property
    def noise(self) -> dict[str, dict[str, float]]:
        """How often pictures of each class carry each label: `noise_matrix` by names, without what never happens."""
        matrix = noise_matrix(self.joint)
        return {
            self.classes[k]: {self.classes[j]: round(float(matrix[k, j]), 4) for j in np.flatnonzero(matrix[k])}
            for k in np.unique(self.labels)
        }

    @property
    def suspicions(self) -> list[Suspicion]:
        which, likelier = doubted(self.probabilities, self.labels)
        return [
            (int(self.rows[i]), self.classes[self.labels[i]], self.classes[k], float(self.probabilities[i, k]))
            for i, k in zip(which, likelier, strict=True)
        ]


def suspicious_labels(judge: Run | str | Path, source: Source, *, device: str | None = None) -> list[Suspicion]:
    """Pictures of `source` whose label is probably wrong, the most doubtful first; see `judged`.

    Returns:
        (index into `source`, label, the class that is likelier, its probability). Look at them: what the judge
        often mistakes is not the label's fault.
    """
    return judged(judge, source, device=device).suspicions


def judged(
    judge: Run | str | Path, source: Source, *, device: str | None = None, among: np.ndarray | None = None
) -> Judged:
    """How likely each class is for the labelled pictures of `source`, by a judge who has not learned from their labels.

    Args:
        judge: ``"auto"``: every picture is judged by a last layer on the features of a pretrained net, fitted to the
            other four fifths of the pictures. Or a trained run: a net has seen its own training pictures with their
            labels and believes many wrong ones, so those that it was not trained on are judged best.
        among: int (M,), of these pictures; None: of all.

    Raises:
        RunError: the run cannot be used. UsageError: no pretrained net is at hand. DataError: no labelled picture of a
        class that the run knows, or too few for each class.
    """
    source.require_labels()
    asked = np.zeros(len(source), bool)
    asked[slice(None) if among is None else among] = True
    if str(judge) == AUTO:
        return Judged(source.classes, *_by_others(source, asked, device))
    run = judge if isinstance(judge, Run) else Run(judge)
    return Judged(run.classes, *_by_run(run, source, asked, device))


_Found = tuple[np.ndarray, np.ndarray, np.ndarray]  # rows, labels, probabilities


def _by_run(run: Run, source: Source, asked: np.ndarray, device: str | None) -> _Found:
    number = np.array([run.classes.index(c) if c in run.classes else -1 for c in source.classes] or [-1])
    labels = np.where(source.labels >= 0, number[source.labels], -1)
    rows = np.flatnonzero((labels >= 0) & asked)
    if not len(rows):
        raise DataError(
            f"{source.name} has no labelled picture of a class that {run.folder} knows: {', '.join(run.classes[:8])}"
        )
    found, logits = logits_of(run, source, rows, choose(device))
    return rows[found], labels[rows[found]], softmax(logits, run.temperature)


def _by_others(source: Source, asked: np.ndarray, device: str | None) -> _Found:
    """Out-of-sample probabilities of the pictures of classes that have enough."""
    if source.kind != PICTURE:
        raise UsageError(
            f"labels of {source.kind}s are judged by a trained run, not by auto; type its folder: "
            "check --labels RUN, train --set judge=RUN"
        )
    hand = at_hand()
    if hand is None:
        raise UsageError(
            "no pretrained net is at hand to judge labels by; type pip install "
            f"{PACKAGES[DEFAULT].distribution}, or give a trained run: --labels RUN"
        )
    asked = asked & (source.labels >= 0)
    counts = np.bincount(source.labels[asked], minlength=len(source.classes))
    rows = np.flatnonzero(asked & (counts[source.labels] >= _FEWEST))
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
