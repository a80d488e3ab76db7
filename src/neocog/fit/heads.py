"""A last layer for features that stay as they are: fitted in seconds, its strength chosen, its accuracy estimated.

Three kinds, all linear in the features: ``softmax`` (logistic regression), ``linear`` (least squares to
one-hot targets) and ``svm`` (one linear support vector machine for each class against the others, squared hinge).
Features are brought to mean 0 and deviation 1 first, and the layer that comes out takes them as they were.

The objective is ``mean loss + strength / 2 * |W|^2``, where squared losses count half. `strength` is chosen by the log
loss (after temperature scaling) on validation pictures or by cross-validation. Where pictures are few,
`cross_validate` repeats stratified k-fold cross-validation.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from neocog.errors import DataError, UsageError, closest
from neocog.tasks.logistic import logistic
from neocog.tasks.measures import accuracy, cross_entropy, fit_temperature, wilson
from neocog.tasks.ridge import Layers as _Layers
from neocog.tasks.ridge import ridge

KINDS = ("softmax", "linear", "svm")
# from strong to weak: each fit starts from the one before
STRENGTHS = (10.0, 3.0, 1.0, 0.3, 0.1, 0.03, 0.01, 3e-3, 1e-3, 3e-4, 1e-4)
_PATIENCE = 3  # weaker strengths that are tried after the best one
FOLDS = 5
_WORK = (1e8, 1e9, 1e10)  # pictures x features x classes up to which cross-validation is repeated 3, 2, 1 times


@dataclass(frozen=True)
class Head:
    """A fitted layer: logits (N, K) are ``features @ weight.T + bias``; `tried` holds the loss of each strength."""

    kind: str
    weight: np.ndarray  # float32 (K, D)
    bias: np.ndarray  # float32 (K,)
    strength: float
    chosen: str = ""  # on what
    tried: list[dict[str, float]] = field(default_factory=list)
    part: int = 0  # which of the features' parts it reads, where there are several

    def logits(self, features: np.ndarray) -> np.ndarray:
        """float32 (N, K)."""
        return (features @ self.weight.T + self.bias).astype(np.float32)


def check_kind(kind: str) -> str:
    """Return `kind`. Raises: UsageError if there is no such head."""
    if kind not in KINDS:
        raise UsageError(f"unknown head {kind!r}{closest(kind, KINDS)}; expected one of {', '.join(KINDS)}")
    return kind


def fit_head(
    features: np.ndarray,
    labels: np.ndarray,
    classes: int,
    *,
    kind: str = "softmax",
    strength: float = 0.0,
    weights: np.ndarray | None = None,
    held_out: tuple[np.ndarray, np.ndarray] | None = None,
    groups: np.ndarray | None = None,
    seed: int = 0,
) -> Head:
    """Fit a head on features (N, D) and labels (N,).

    Args:
        strength: 0 chooses: on `held_out` (features, labels) if given, else by 5-fold cross-validation.
        weights: float (classes,), how much a picture of each class counts.
        groups: pictures with the same number stay in one fold.

    Raises:
        UsageError: no such kind. DataError: fewer than two classes have pictures.
    """
    check_kind(kind)
    if len(np.unique(labels)) < 2:
        raise DataError("a head needs training pictures of at least two classes")
    layers, score = _label(classes, kind, weights)
    folds = None if held_out or strength > 0 else stratified_folds(labels, FOLDS, groups, seed)
    usable = lambda part: len(np.unique(part)) > 1  # noqa: E731
    return choose(
        features, labels, layers, score, kind=kind, strength=strength, held_out=held_out, folds=folds, usable=usable
    )


def choose(
    features: np.ndarray,
    targets: Any,
    layers: Callable[[np.ndarray, Any, Sequence[float]], _Layers],
    score: Callable[[np.ndarray, Any], float],
    *,
    kind: str,
    strength: float = 0.0,
    held_out: tuple[np.ndarray, Any] | None = None,
    folds: np.ndarray | None = None,
    judged: np.ndarray | None = None,
    usable: Callable[[Any], bool] = lambda part: True,
    parts: Sequence[slice] = (),
) -> Head:
    """Fit a head for any targets: an array of a row for each picture, or a dict of such.

    Args:
        layers: gives weights and biases for features of mean 0 and deviation 1, targets and falling strengths.
        score: of outputs (N, K) and targets, more is better.
        strength: 0 chooses: on `held_out` if given, else by cross-validation over `folds`.
        judged: bool (N,), rows on which a fold's head is judged (mirror images are only learned from); None: all.
        usable: whether a part of the targets can be fitted.
        parts: columns of the features that are tried by themselves; the best is used, of equals the first.
    """
    if parts:
        how: dict[str, Any] = {"kind": kind, "strength": strength, "folds": folds, "judged": judged, "usable": usable}
        heads = [
            choose(
                features[:, part], targets, layers, score, **how,
                held_out=None if held_out is None else (held_out[0][:, part], held_out[1]),
            )
            for part in parts
        ]  # fmt: skip
        lowest = [min((row["loss"] for row in head.tried), default=math.inf) for head in heads]
        k = lowest.index(min(lowest))
        weight = np.zeros((len(heads[k].weight), features.shape[1]), np.float32)
        weight[:, parts[k]] = heads[k].weight
        return replace(heads[k], weight=weight, part=k)
    if strength > 0:
        (fitted,) = _path(features, targets, layers, kind, (strength,))
        return fitted
    tried: dict[float, list[float]] = {}
    if held_out is not None:
        chosen = f"{len(held_out[0]):,} validation pictures"
        for head, found in _scored(features, targets, layers, score, kind, held_out):
            tried[head.strength] = [found]
    else:
        assert folds is not None
        used = int(folds.max()) + 1
        chosen = f"{used}-fold cross-validation"
        for fold in range(used):
            out = folds == fold
            asked = out if judged is None else out & judged
            inside, outside = _part(targets, ~out), (features[asked], _part(targets, asked))
            if usable(inside):
                for head, found in _scored(features[~out], inside, layers, score, kind, outside):
                    if not math.isnan(found):  # as without two pictures of any class
                        tried.setdefault(head.strength, []).append(found)
    if not tried:
        (fitted,) = _path(features, targets, layers, kind, (1.0,))
        return replace(fitted, chosen="too few to choose it by")
    most = max(map(len, tried.values()))
    scores = {s: float(np.mean(found)) for s, found in tried.items() if len(found) == most}
    best = max(scores, key=lambda s: (scores[s], s))  # of equals the strongest
    (*_, fitted) = _path(features, targets, layers, kind, [s for s in STRENGTHS if s >= best])
    rows = [{"strength": s, "loss": -found} for s, found in scores.items()]
    return Head(kind, fitted.weight, fitted.bias, best, chosen, rows)


def _part(targets: Any, rows: np.ndarray) -> Any:
    return {name: value[rows] for name, value in targets.items()} if isinstance(targets, dict) else targets[rows]


def _label(classes: int, kind: str, weights: np.ndarray | None) -> tuple[Any, Any]:
    """How a head for one label is fitted, and judged."""
    fit = {"softmax": _softmax, "linear": _linear, "svm": _svm}[kind]

    def layers(x: np.ndarray, labels: np.ndarray, strengths: Sequence[float]) -> _Layers:
        counts = np.ones(len(labels)) if weights is None else np.asarray(weights, np.float64)[labels]
        return fit(x, labels, classes, counts / counts.mean(), strengths)

    def score(logits: np.ndarray, labels: np.ndarray) -> float:
        # less noisy than the accuracy; after temperature scaling, because a strong pull makes logits small, not wrong
        return -cross_entropy(logits, labels, fit_temperature(logits, labels))

    return layers, score


def _scored(
    features: np.ndarray, targets: Any, layers: Any, score: Any, kind: str, outside: tuple[np.ndarray, Any]
) -> Iterator[tuple[Head, float]]:
    """Heads of falling strength with their scores on other pictures, until three in turn were no better."""
    best, since = -math.inf, 0
    for head in _path(features, targets, layers, kind, STRENGTHS):
        found = score(head.logits(outside[0]), outside[1])
        yield head, found
        best, since = (found, 0) if found > best else (best, since + 1)
        if since == _PATIENCE:
            return


# ---------------------------------------------------------------- fitting


def _path(features: np.ndarray, targets: Any, layers: Any, kind: str, strengths: Sequence[float]) -> Iterator[Head]:
    """Heads for the strengths, one after another."""
    mean, spread = features.mean(0, dtype=np.float64), features.std(0, dtype=np.float64)
    # a feature that hardly ever differs would be blown up to the size of the others
    spread = np.maximum(spread, max(0.05 * float(np.mean(spread)), 1e-12))
    # float64 is as fast for few pictures, and ends at the same place on every machine
    x = ((features - mean) / spread).astype(np.float64 if features.size < 2e7 else np.float32)
    for strength, (w, b) in zip(strengths, layers(x, targets, strengths), strict=True):
        weight = w / spread
        yield Head(kind, weight.astype(np.float32), (b - weight @ mean).astype(np.float32), strength)


def _softmax(x: np.ndarray, labels: np.ndarray, classes: int, counts: np.ndarray, strengths: Any) -> _Layers:
    fitted = None
    for strength in strengths:
        fitted = logistic(x, labels, classes, counts, strength, start=fitted)
        yield fitted[0].astype(np.float64), fitted[1].astype(np.float64)


def _linear(x: np.ndarray, labels: np.ndarray, classes: int, counts: np.ndarray, strengths: Any) -> _Layers:
    return ridge(x, np.eye(classes)[labels], counts, strengths)


def _svm(x: np.ndarray, labels: np.ndarray, classes: int, counts: np.ndarray, strengths: Any) -> _Layers:
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


# ---------------------------------------------------------------- few pictures


def stratified_folds(labels: np.ndarray, folds: int, groups: np.ndarray | None = None, seed: int = 0) -> np.ndarray:
    """Return the fold of each picture, int64 (N,): every class spread evenly, groups whole, others by chance.

    There are no more folds than the median class has pictures, and at least 2.
    """
    labels = np.asarray(labels)
    counts = np.bincount(labels)
    folds = max(2, min(folds, int(np.median(counts[counts > 0]))))
    groups = np.full(len(labels), -1) if groups is None else np.asarray(groups)
    units = np.where(groups < 0, groups.max(initial=-1) + 1 + np.arange(len(labels)), groups)
    _, unit, sizes = np.unique(units, return_inverse=True, return_counts=True)
    random = np.random.default_rng(seed)
    table = np.zeros((len(counts), folds), np.int64)  # pictures of each class in each fold
    fold_of = np.zeros(len(sizes), np.int64)
    first = np.zeros(len(sizes), np.int64)
    first[unit[::-1]] = np.arange(len(labels))[::-1]  # a picture of each unit
    shuffled = random.permutation(len(sizes))
    order = shuffled[np.lexsort((-sizes[shuffled], labels[first[shuffled]]))]  # class by class, large groups first
    for one in order:
        label = labels[first[one]]
        # the fold with the fewest of the class, of these with the fewest of all
        fold = min(range(folds), key=lambda f: (table[label, f], table[:, f].sum()))
        fold_of[one] = fold
        table[label, fold] += sizes[one]
    return fold_of[unit]


@dataclass(frozen=True)
class CrossValidated:
    """Accuracy by repeated k-fold cross-validation, its 95 % interval, and the logits that each picture got unseen."""

    accuracy: float
    interval: tuple[float, float]
    folds: int
    repeats: int
    logits: np.ndarray  # float32 (N, K), of the first repeat
    labels: np.ndarray  # int64 (N,)

    def figures(self) -> dict[str, Any]:
        """For the metrics of a run."""
        return {
            "cv_accuracy": self.accuracy,
            "cv_accuracy_interval": list(self.interval),
            "cv_folds": self.folds,
            "cv_repeats": self.repeats,
            "cv_n": len(self.logits),
        }


def cross_validate(
    features: np.ndarray,
    labels: np.ndarray,
    classes: int,
    *,
    kind: str = "softmax",
    strength: float = 0.0,
    weights: np.ndarray | None = None,
    groups: np.ndarray | None = None,
    seed: int = 0,
    folds: int = FOLDS,
    costly: bool = False,
) -> CrossValidated | None:
    """Repeat stratified k-fold cross-validation, the strength chosen anew in each fold on a fifth of its pictures.

    Folds of one data set are not independent: the interval is that of Nadeau and Bengio (2003, "Inference for the
    generalization error"), with variance ``s^2 (1 / (k r) + 1 / (k - 1))`` and k r - 1 degrees of freedom,
    and it is never narrower than Wilson's interval for as many pictures, even where all folds happen to agree.
    Returns None if this would take minutes (see `_WORK`) and is not wanted even if `costly`, or if the pictures for a
    fold's head would be of one class.
    """
    from scipy.stats import t as student  # type: ignore[import-untyped]

    work = float(features.size) * classes
    if work > _WORK[2] and not costly:
        return None
    repeats = 3 if work <= _WORK[0] else 2 if work <= _WORK[1] else 1
    shares: list[float] = []
    first: np.ndarray | None = None
    used, label = folds, _label(classes, kind, weights)
    for repeat in range(repeats):
        fold_of = stratified_folds(labels, folds, groups, seed + repeat)
        used = int(fold_of.max()) + 1
        logits = np.zeros((len(labels), classes), np.float32)
        for fold in range(used):
            out = fold_of == fold
            x, y = features[~out], labels[~out]
            if not out.any() or len(np.unique(y)) < 2:
                return None
            chosen = strength
            if not strength:
                inner = stratified_folds(y, FOLDS, None if groups is None else groups[~out], seed + repeat) == 0
                if len(np.unique(y[~inner])) < 2:
                    return None
                pair = (x[inner], y[inner])
                scores = [(s, h.strength) for h, s in _scored(x[~inner], y[~inner], *label, kind, pair)]
                chosen = max(scores)[1]
            head = fit_head(x, y, classes, kind=kind, strength=chosen, weights=weights)
            logits[out] = head.logits(features[out])
            shares.append(accuracy(logits[out], labels[out]))
        first = logits if first is None else first
    assert first is not None
    mean, runs = float(np.mean(shares)), len(shares)
    error = math.sqrt(float(np.var(shares, ddof=1)) * (1 / runs + 1 / (used - 1)))
    half = float(student.ppf(0.975, runs - 1)) * error
    low, high = wilson(round(mean * len(labels)), len(labels))
    interval = max(0.0, min(mean - half, low)), min(1.0, max(mean + half, high))
    return CrossValidated(mean, interval, used, repeats, first, labels)
