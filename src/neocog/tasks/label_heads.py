"""Last layers for one label, linear in the features.

Three kinds: ``softmax`` (logistic regression), ``linear`` (least squares to one-hot targets) and ``svm`` (one linear
support vector machine for each class against the others, squared hinge). Squared losses count half.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import numpy as np

from neocog.tasks.logistic import logistic
from neocog.tasks.ridge import Layers, ridge

KINDS = ("softmax", "linear", "svm")


def layers(
    kind: str, x: np.ndarray, labels: np.ndarray, classes: int, counts: np.ndarray, strengths: Sequence[float]
) -> Layers:
    """See `FitsAtOnce.fit_head`; `counts` (N,): how much each picture counts, with a mean of 1."""
    return {"softmax": _softmax, "linear": _linear, "svm": _svm}[kind](x, labels, classes, counts, strengths)


def _softmax(x: np.ndarray, labels: np.ndarray, classes: int, counts: np.ndarray, strengths: Sequence[float]) -> Layers:
    fitted = None
    for strength in strengths:
        fitted = logistic(x, labels, classes, counts, strength, start=fitted)
        yield fitted[0].astype(np.float64), fitted[1].astype(np.float64)


def _linear(x: np.ndarray, labels: np.ndarray, classes: int, counts: np.ndarray, strengths: Sequence[float]) -> Layers:
    return ridge(x, np.eye(classes)[labels], counts, strengths)


def _svm(x: np.ndarray, labels: np.ndarray, classes: int, counts: np.ndarray, strengths: Sequence[float]) -> Layers:
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.svm import LinearSVC

    there = np.unique(labels)
    for strength in strengths:
        # one class against the others is what LinearSVC does; two classes are one problem for it
        machine = LinearSVC(
            C=1 / (2 * len(x) * strength), tol=1e-3, max_iter=2000, random_state=0, intercept_scaling=3.0
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # near the end of the path; its score tells
            machine.fit(x, labels, sample_weight=counts)
        found, shift = np.atleast_2d(machine.coef_), np.atleast_1d(machine.intercept_)
        if len(there) == 2:
            found, shift = np.concatenate((-found, found)), np.concatenate((-shift, shift))
        w, b = np.zeros((classes, x.shape[1])), np.full(classes, -2.0)  # a class without pictures: never
        w[there], b[there] = found, shift
        yield w, b
