"""Last layers, linear in the features, one for each of some strengths of the pull on the weights.

Least squares (Hoerl and Kennard 1970), logistic regression, and for one label also a linear support vector machine for
each class against the others (squared hinge). Squared losses count half.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence

import numpy as np

from neocog.tasks.logistic import few_threads, logistic

KINDS = ("softmax", "linear", "svm")  # for one label
Layers = Iterator[tuple[np.ndarray, np.ndarray]]  # weights (K, D) and biases (K,)


def label_layers(
    kind: str, x: np.ndarray, labels: np.ndarray, classes: int, counts: np.ndarray, strengths: Sequence[float]
) -> Layers:
    """See `FitsAtOnce.fit_head`; `counts` (N,): how much each picture counts, with a mean of 1."""
    if kind == "linear":
        return ridge(x, np.eye(classes)[labels], counts, strengths)
    return (logistics if kind == "softmax" else _svm)(x, labels, classes, counts, strengths)


def logistics(
    x: np.ndarray, labels: np.ndarray, classes: int, counts: np.ndarray, strengths: Sequence[float]
) -> Layers:
    """Logistic regression (see `logistic`); each strength begins where the one before it ended."""
    fitted = None
    for strength in strengths:
        fitted = logistic(x, labels, classes, counts, strength, start=fitted)
        yield fitted[0].astype(np.float64), fitted[1].astype(np.float64)


def ridge(x: np.ndarray, targets: np.ndarray, counts: np.ndarray, strengths: Sequence[float]) -> Layers:
    """Layers at the minimum of ``mean (half the squared error) + strength / 2 * |weights|^2``, one for each strength.

    Args:
        x: (N, D). targets: (N, K), nan = not known.
        counts: (N,), how much each row counts; their mean is 1.
    """
    known = ~np.isnan(targets)
    patterns, which = np.unique(known, axis=1, return_inverse=True)
    groups = [np.flatnonzero(which.ravel() == g) for g in range(patterns.shape[1])]  # columns with the same rows
    parts = [_solved(x[rows], targets[rows][:, own], counts[rows], strengths)
             for rows, own in zip(patterns.T, groups, strict=True)]  # fmt: skip
    for made in zip(*parts, strict=True):
        weights, biases = np.zeros((targets.shape[1], x.shape[1])), np.zeros(targets.shape[1])
        for own, (w, b) in zip(groups, made, strict=True):
            weights[own], biases[own] = w, b
        yield weights, biases


def _solved(x: np.ndarray, y: np.ndarray, counts: np.ndarray, strengths: Sequence[float]) -> Layers:
    """All strengths from one singular value decomposition."""
    n = len(x)
    if not n:
        yield from ((np.zeros((y.shape[1], x.shape[1])), np.zeros(y.shape[1])) for _ in strengths)
        return
    counts = counts / counts.mean()
    root = np.sqrt(counts)[:, None]
    centre, share = (counts[:, None] * x).sum(0) / n, (counts[:, None] * y).sum(0) / n
    a, y = (x - centre) * root, (y - share) * root
    with few_threads(a.size * min(a.shape)):
        u, s, vt = np.linalg.svd(a, full_matrices=False) if min(a.shape) < 3000 else _thin_svd(a)
    projected = u.T @ y  # (R, K)
    for strength in strengths:
        w = (vt.T @ ((s / (s**2 + n * strength))[:, None] * projected)).T
        yield w, share - w @ centre


def _thin_svd(a: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The same from the (D, D) product, which for many pictures is ten times as fast and exact enough here."""
    values, vectors = np.linalg.eigh(a.T @ a)
    s = np.sqrt(np.maximum(values, 0))
    keep = s > 1e-6 * s.max()
    return a @ vectors[:, keep] / s[keep], s[keep], vectors[:, keep].T


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
