"""A last layer for features that stay as they are: fitted in seconds, its strength chosen, its figures estimated.

How it is fitted is the task's (`FitsAtOnce`), always linear in the features. They are brought to mean 0 and deviation 1
first, and the layer that comes out takes them as they were.

The objective is ``mean loss + strength / 2 * |W|^2``. `strength` is chosen by the task's loss on validation pictures or
by cross-validation. Where pictures are few, `cross_validate` repeats stratified k-fold cross-validation.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from neocog.data.columns import LabelSets
from neocog.data.source import Source
from neocog.errors import DataError, UsageError, closest
from neocog.tasks.at_once import Arrays, as_seen
from neocog.tasks.task import Seen

# from strong to weak: each fit starts from the one before
STRENGTHS = (10.0, 3.0, 1.0, 0.3, 0.1, 0.03, 0.01, 3e-3, 1e-3, 3e-4, 1e-4)
_PATIENCE = 3  # weaker strengths that are tried after the best one
FOLDS = 5
_WORK = (1e8, 1e9, 1e10)  # pictures x features x outputs up to which cross-validation is repeated 3, 2, 1 times


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


def check_kind(kind: str, task: Any) -> str:
    """The kind of head that a task has under this name. Raises: UsageError if there is none."""
    if not task.head_kinds or kind in task.head_kinds:
        return kind if task.head_kinds else task.name
    kinds = ", ".join(task.head_kinds)
    raise UsageError(f"unknown head {kind!r}{closest(kind, task.head_kinds)}; expected one of {kinds}")


def choose(
    features: np.ndarray,
    targets: Arrays,
    task: Any,
    *,
    kind: str = "",
    strength: float = 0.0,
    held_out: tuple[np.ndarray, Arrays] | None = None,
    folds: np.ndarray | None = None,
    judged: np.ndarray | None = None,
    parts: Sequence[slice] = (),
) -> Head:
    """Fit a head for a task that `FitsAtOnce`, on features (N, D) and its targets.

    Args:
        kind: one of the task's kinds of heads, if it has several.
        strength: 0 chooses: on `held_out` if given, else by cross-validation over `folds`.
        judged: bool (N,), rows on which a fold's head is judged (mirror images are only learned from); None: all.
        parts: columns of the features that are tried by themselves; the best is used, of equals the first.

    Raises:
        UsageError: no such kind. DataError: the task cannot be learned from these pictures.
    """
    kind = check_kind(kind or (task.head_kinds or ("",))[0], task)
    if not task.learnable(targets):
        raise DataError("a head needs training pictures of at least two classes")
    if parts:
        how: dict[str, Any] = {"kind": kind, "strength": strength, "folds": folds, "judged": judged}
        heads = [
            choose(
                features[:, some], targets, task, **how,
                held_out=None if held_out is None else (held_out[0][:, some], held_out[1]),
            )
            for some in parts
        ]  # fmt: skip
        lowest = [min((row["loss"] for row in head.tried), default=math.inf) for head in heads]
        k = lowest.index(min(lowest))
        weight = np.zeros((len(heads[k].weight), features.shape[1]), np.float32)
        weight[:, parts[k]] = heads[k].weight
        return replace(heads[k], weight=weight, part=k)
    if strength > 0:
        (fitted,) = _path(features, targets, task, kind, (strength,))
        return fitted
    tried: dict[float, list[float]] = {}
    if held_out is not None:
        chosen = f"{len(held_out[0]):,} validation pictures"
        for head, loss in _scored(features, targets, task, kind, held_out):
            tried[head.strength] = [loss]
    else:
        assert folds is not None
        used = int(folds.max()) + 1
        chosen = f"{used}-fold cross-validation"
        for fold in range(used):
            out = folds == fold
            asked = out if judged is None else out & judged
            inside, outside = part(targets, ~out), (features[asked], part(targets, asked))
            if task.learnable(inside):
                for head, loss in _scored(features[~out], inside, task, kind, outside):
                    if not math.isnan(loss):  # as without two pictures of any class
                        tried.setdefault(head.strength, []).append(loss)
    if not tried:
        (fitted,) = _path(features, targets, task, kind, (1.0,))
        return replace(fitted, chosen="too few to choose it by")
    most = max(map(len, tried.values()))
    losses = {s: float(np.mean(found)) for s, found in tried.items() if len(found) == most}
    best = min(losses, key=lambda s: (losses[s], -s))  # of equals the strongest
    (*_, fitted) = _path(features, targets, task, kind, [s for s in STRENGTHS if s >= best])
    rows = [{"strength": s, "loss": loss} for s, loss in losses.items()]
    return Head(kind, fitted.weight, fitted.bias, best, chosen, rows)


def part(targets: Arrays, rows: np.ndarray) -> Arrays:
    """The targets of some pictures."""
    return {name: value[rows] for name, value in targets.items()}


def _scored(
    features: np.ndarray, targets: Arrays, task: Any, kind: str, outside: tuple[np.ndarray, Arrays]
) -> Iterator[tuple[Head, float]]:
    """Heads of falling strength with their losses on other pictures, until three in turn were no better."""
    best, since = math.inf, 0
    for head in _path(features, targets, task, kind, STRENGTHS):
        loss = task.head_loss(as_seen(task, head.logits(outside[0]), outside[1]))
        yield head, loss
        best, since = (loss, 0) if loss < best else (best, since + 1)
        if since == _PATIENCE:
            return


def _path(features: np.ndarray, targets: Arrays, task: Any, kind: str, strengths: Sequence[float]) -> Iterator[Head]:
    """Heads for the strengths, one after another."""
    mean, spread = features.mean(0, dtype=np.float64), features.std(0, dtype=np.float64)
    # a feature that hardly ever differs would be blown up to the size of the others
    spread = np.maximum(spread, max(0.05 * float(np.mean(spread)), 1e-12))
    # float64 is as fast for few pictures, and ends at the same place on every machine
    x = ((features - mean) / spread).astype(np.float64 if features.size < 2e7 else np.float32)
    for strength, (w, b) in zip(strengths, task.fit_head(x, targets, strengths, kind), strict=True):
        weight = w / spread
        yield Head(kind, weight.astype(np.float32), (b - weight @ mean).astype(np.float32), strength)


# ---------------------------------------------------------------- few pictures


def strata_of(task: Any, source: Source, rows: np.ndarray) -> np.ndarray:
    """int64 (N,): which of some pictures are of one kind, and to be spread evenly over folds.

    Where a picture can have several labels, its kind is the rarest that it has.
    """
    strata = task.strata(source)
    if strata is None:
        return np.zeros(len(rows), np.int64)
    if isinstance(strata, LabelSets):
        counts = np.bincount(strata.values, minlength=1)
        strata = np.array([min(strata[int(i)], key=lambda k: (counts[k], k), default=-1) for i in rows], np.int64)
    else:
        strata = strata[rows]
    return np.unique(strata, return_inverse=True)[1].astype(np.int64)


def group_folds(groups: np.ndarray, folds: int, seed: int = 0) -> np.ndarray:
    """The fold of each picture, int64 (N,): groups whole, by chance; each fold has two groups or more where it can."""
    units, of_unit = np.unique(groups, return_inverse=True)
    folds = max(2, min(folds, len(units) // 2))
    return (np.random.default_rng(seed).permutation(len(units)) % folds)[of_unit]


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
    """The goal's figure by repeated k-fold cross-validation, its 95 % interval, and what each picture got unseen."""

    goal: str
    value: float
    interval: tuple[float, float]
    folds: int
    repeats: int
    seen: Seen  # of the first repeat
    n: int

    def figures(self) -> dict[str, Any]:
        """For the metrics of a run."""
        return {
            f"cv_{self.goal}": self.value,
            f"cv_{self.goal}_interval": list(self.interval),
            "cv_folds": self.folds,
            "cv_repeats": self.repeats,
            "cv_n": self.n,
        }


def cross_validate(
    features: np.ndarray,
    targets: Arrays,
    task: Any,
    strata: np.ndarray,
    *,
    kind: str = "",
    strength: float = 0.0,
    groups: np.ndarray | None = None,
    seed: int = 0,
    folds: int = FOLDS,
    costly: bool = False,
    most: int = 3,
) -> CrossValidated | None:
    """Repeat stratified k-fold cross-validation, the strength chosen anew in each fold on a fifth of its pictures.

    Folds of one data set are not independent: the interval is that of Nadeau and Bengio (2003, "Inference for the
    generalization error"), with variance ``s^2 (1 / (k r) + 1 / (k - 1))`` and k r - 1 degrees of freedom,
    and the task widens it to what so many pictures can tell, even where all folds happen to agree.
    Returns None if this would take minutes (see `_WORK`) and is not wanted even if `costly`, or if the pictures for a
    fold's head cannot be learned from. It is repeated `most` times at most.
    """
    from scipy.stats import t as student  # type: ignore[import-untyped]

    n, goal = len(features), task.goal[0]
    work = float(features.size) * task.outputs
    if work > _WORK[2] and not costly:
        return None
    repeats = min(most, 3 if work <= _WORK[0] else 2 if work <= _WORK[1] else 1)
    values: list[float] = []
    first: Seen | None = None
    used = folds
    for repeat in range(repeats):
        fold_of = stratified_folds(strata, folds, groups, seed + repeat)
        used = int(fold_of.max()) + 1
        outputs = np.zeros((n, task.outputs), np.float32)
        for fold in range(used):
            out = fold_of == fold
            x, y = features[~out], part(targets, ~out)
            if not out.any() or not task.learnable(y):
                return None
            chosen = strength
            if not strength:
                inner = stratified_folds(strata[~out], FOLDS, None if groups is None else groups[~out], seed + repeat)
                held = inner == 0
                if not task.learnable(part(y, ~held)):
                    return None
                tried = _scored(x[~held], part(y, ~held), task, kind, (x[held], part(y, held)))
                chosen = min((loss, -h.strength) for h, loss in tried)[1] * -1
            outputs[out] = choose(x, y, task, kind=kind, strength=chosen).logits(features[out])
            value = float(task.figures(as_seen(task, outputs[out], part(targets, out)))[goal])
            if math.isfinite(value):
                values.append(value)
        first = as_seen(task, outputs, targets) if first is None else first
    if first is None or len(values) < 2:
        return None
    mean, runs = float(np.mean(values)), len(values)
    error = math.sqrt(float(np.var(values, ddof=1)) * (1 / runs + 1 / (used - 1)))
    half = float(student.ppf(0.975, runs - 1)) * error
    return CrossValidated(goal, mean, task.at_least(mean - half, mean + half, mean, n), used, repeats, first, n)
