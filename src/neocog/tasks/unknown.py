"""Saying "unknown" for pictures unlike the training data, by distance in the net's feature space.

Four methods behind one interface, chosen between with `compare`:

* ``knn``: distance from the L2-normalised feature to its k-th neighbour in a bank of training features (Sun et al.
  2022, "Out-of-distribution detection with deep nearest neighbors"). Assumes nothing of the shape of a class.
* ``mahalanobis``: distance to the nearest class mean under one covariance shared by all classes (Lee et al. 2018).
* ``relative``: the same, less the distance to the mean of everything (Ren et al. 2021), which takes out the directions
  in which all pictures differ.
* ``cosine``: angle to the nearest class mean. Costs K vectors; the floor that the others have to beat.

Everything is numpy; features are float (N, D), the input of the net's last layer.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from scipy.special import stdtrit

from neocog.errors import UsageError, closest
from neocog.tasks.measures import auroc, conformal

METHODS = ("knn", "mahalanobis", "relative", "cosine")
BANK = 2000  # vectors: at D = 512 in float16 the bank is 2 MB, and a picture costs 1 M multiply-adds
# Sun et al. take the 50th of 50,000 CIFAR-10 vectors, which is the 2nd of 2,000. On digits (8 classes known, 2 not,
# five choices of the two) the 1st gave a mean AUROC of 0.98, the 5th 0.97, the 10th 0.96; `relative` 0.95, `cosine`
# 0.90.
NEIGHBOUR = 2
FALSE_ALARM = 0.05
FEWEST = 5  # held-out pictures, below which a threshold would be a guess
_PREFIX = "unknown."
_CHUNK = 1024  # rows scored at a time, so that the (rows, bank) matrix stays below 10 MB


@dataclass(frozen=True)
class Unknown:
    """A fitted detector. A picture is unknown when its score is above `threshold` (infinite: never).

    `arrays` holds what the method needs: ``bank`` (M, D) float16 and ``k`` (1,), or ``means`` (K, D) and ``whiten``
    (D, D). `false_alarm` is the share of ordinary pictures that the threshold was set to call unknown.
    """

    method: str
    arrays: Mapping[str, np.ndarray]
    threshold: float = math.inf
    false_alarm: float = FALSE_ALARM

    def score(self, features: np.ndarray) -> np.ndarray:
        """Return float32 (N,) for features (N, D): higher = stranger."""
        features = _matrix(features, self.arrays["bank" if self.method == "knn" else "means"].shape[1])
        score = _SCORES[self.method]
        # Promoted once for all chunks: the bank is stored in float16, which numpy multiplies slowly.
        ready = {
            name: array.astype(np.float32) if array.dtype == np.float16 else array
            for name, array in self.arrays.items()
        }
        chunks = [score(features[start : start + _CHUNK], ready) for start in range(0, len(features), _CHUNK)]
        return np.concatenate(chunks).astype(np.float32) if chunks else np.zeros(0, np.float32)

    def with_threshold(self, held_out: np.ndarray, false_alarm: float = FALSE_ALARM) -> Unknown:
        """Return a copy whose threshold calls a share of at most `false_alarm` of pictures like `held_out` unknown.

        `held_out` is features (N, D) of ordinary pictures that were not trained on (the validation split); see
        `limit`.
        """
        if not 0 < false_alarm < 1:
            raise UsageError(f"false_alarm: expected a share between 0 and 1, got {false_alarm}")
        if not len(held_out):
            raise UsageError("unknown threshold: expected at least one held-out picture, got none")
        threshold = limit(self.score(held_out), false_alarm)
        return replace(self, threshold=threshold, false_alarm=float(false_alarm))

    def facts(self) -> dict[str, Any]:
        """Return the JSON-able description that goes into net.json; threshold None = never says unknown."""
        threshold = self.threshold if math.isfinite(self.threshold) else None
        return {"method": self.method, "threshold": threshold, "false_alarm": self.false_alarm}

    def save(self) -> dict[str, np.ndarray]:
        """Return arrays for a safetensors file; every name starts with ``unknown.``."""
        numbers = np.array([self.threshold, self.false_alarm], np.float64)
        own = {"method": np.frombuffer(self.method.encode(), np.uint8).copy(), "numbers": numbers}
        return {_PREFIX + name: np.ascontiguousarray(array) for name, array in (own | dict(self.arrays)).items()}

    @classmethod
    def load(cls, arrays: Mapping[str, np.ndarray]) -> Unknown:
        """Return the detector that `save` wrote; names without the prefix are ignored."""
        own = {name.removeprefix(_PREFIX): array for name, array in arrays.items() if name.startswith(_PREFIX)}
        if "method" not in own or "numbers" not in own:
            raise UsageError(f"expected arrays {_PREFIX}method and {_PREFIX}numbers, got {sorted(arrays)[:5]}")
        method = own.pop("method").tobytes().decode()
        threshold, false_alarm = own.pop("numbers").tolist()
        return cls(_known(method), own, threshold, false_alarm)


def limit(scores: np.ndarray, false_alarm: float = FALSE_ALARM) -> float:
    """Return the threshold that a share of at most `false_alarm` of things like those with `scores` (N,) are above.

    It is their conformal quantile, the ``ceil((N + 1)(1 - false_alarm))``-th smallest score, so the bound holds on
    average for new ones too. Fewer than ``1 / false_alarm - 1`` have no such score: then it is the upper prediction
    limit for one more, as if scores were normal (Student's t); a single one has none (infinite).
    """
    found, n = conformal(scores, 1 - false_alarm), len(scores)
    if found is not None:
        return found
    if n < 2:
        return math.inf
    apart = scores.std(ddof=1) * math.sqrt(1 + 1 / n)
    return float(scores.mean() + stdtrit(n - 1, 1 - false_alarm) * apart)


def fit_unknown(
    features: np.ndarray,
    labels: np.ndarray,
    classes: Sequence[str] | int,
    *,
    held_out: np.ndarray | None = None,
    method: str = "knn",
    false_alarm: float = FALSE_ALARM,
    bank: int = BANK,
    k: int = NEIGHBOUR,
    seed: int = 0,
) -> Unknown:
    """Fit a detector on training features (N, D) with labels int (N,); -1 (unlabelled) rows are left out.

    `held_out` (M, D), features of the validation split, sets the threshold; without it nothing is ever unknown. `bank`
    and `k` belong to ``knn``: the bank takes about the same number from every class, drawn with `seed`.
    """
    _known(method)
    features, labels = _matrix(features), np.asarray(labels)
    if labels.shape != features.shape[:1]:
        raise UsageError(f"expected one label for each of {len(features)} features, got {labels.shape}")
    features, labels = features[labels >= 0], labels[labels >= 0]
    count = classes if isinstance(classes, int) else len(classes)
    if not len(labels) or labels.max() >= count:
        raise UsageError(f"expected labelled features of classes 0 to {count - 1}, got {np.unique(labels)[:10]}")
    if method == "knn":
        chosen = _stratified(labels, bank, np.random.default_rng(seed))
        arrays = {"bank": _unit(features[chosen]).astype(np.float16), "k": np.array([min(k, len(chosen))])}
    else:
        present = np.unique(labels)
        means = np.stack([features[labels == label].mean(axis=0) for label in present])
        if method == "cosine":
            arrays = {"means": _unit(means)}
        else:
            arrays = {"means": means, "whiten": _whitening(features - means[np.searchsorted(present, labels)])}
            if method == "relative":
                centre = features.mean(axis=0, keepdims=True)
                arrays |= {"centre": centre, "whiten_all": _whitening(features - centre)}
        arrays = {name: array.astype(np.float32) for name, array in arrays.items()}
    fitted = Unknown(method, arrays, math.inf, false_alarm)
    return fitted if held_out is None else fitted.with_threshold(held_out, false_alarm)


def compare(
    features: np.ndarray,
    labels: np.ndarray,
    classes: Sequence[str] | int,
    held_out: np.ndarray,
    unlike: Mapping[str, np.ndarray],
    *,
    known: np.ndarray | None = None,
    methods: Sequence[str] = METHODS,
    false_alarm: float = FALSE_ALARM,
    **options: Any,
) -> list[dict[str, Any]]:
    """Fit every method and return how well each tells `known` pictures from those of each entry of `unlike`.

    `known` (features of the test split) are the ordinary pictures that AUROC is counted on; by default `held_out`,
    which also sets the threshold. Each row is ``{"method", "auroc": {name: area}, "caught": {name: share called
    unknown}, "false_alarm": share of known called unknown, "mean_auroc"}``, best mean first.
    """
    rows = []
    for method in methods:
        fitted = fit_unknown(
            features, labels, classes, held_out=held_out, method=method, false_alarm=false_alarm, **options
        )
        ordinary = fitted.score(held_out if known is None else known)
        row: dict[str, Any] = {"method": method, "auroc": {}, "caught": {}}
        for name, strange in unlike.items():
            scores = fitted.score(strange)
            both = np.concatenate([ordinary, scores])
            row["auroc"][name] = auroc(both, np.arange(len(both)) >= len(ordinary))
            row["caught"][name] = float((scores > fitted.threshold).mean())
        row["false_alarm"] = float((ordinary > fitted.threshold).mean())
        row["mean_auroc"] = float(np.mean(list(row["auroc"].values()))) if unlike else math.nan
        rows.append(row)
    return sorted(rows, key=lambda row: -row["mean_auroc"])


def _knn_score(features: np.ndarray, arrays: Mapping[str, np.ndarray]) -> np.ndarray:
    likeness = _unit(features) @ arrays["bank"].T  # (n, M) cosines
    k = int(arrays["k"][0])
    nearest = -np.partition(-likeness, k - 1, axis=1)[:, k - 1]
    return np.sqrt(np.maximum(2 - 2 * nearest, 0))


def _mahalanobis_score(features: np.ndarray, arrays: Mapping[str, np.ndarray]) -> np.ndarray:
    return _nearest(features, arrays["means"], arrays["whiten"])


def _relative_score(features: np.ndarray, arrays: Mapping[str, np.ndarray]) -> np.ndarray:
    return _mahalanobis_score(features, arrays) - _nearest(features, arrays["centre"], arrays["whiten_all"])


def _cosine_score(features: np.ndarray, arrays: Mapping[str, np.ndarray]) -> np.ndarray:
    return 1 - (_unit(features) @ arrays["means"].T).max(axis=1)


_SCORES = {
    "knn": _knn_score,
    "mahalanobis": _mahalanobis_score,
    "relative": _relative_score,
    "cosine": _cosine_score,
}


def _nearest(features: np.ndarray, means: np.ndarray, whiten: np.ndarray) -> np.ndarray:
    """Return the squared distance (n,) to the nearest of `means` (K, D) after whitening, per dimension."""
    centre = means.mean(axis=0)  # keeps the numbers small: |a - b|^2 by expansion loses digits far from the origin
    a, b = (features - centre) @ whiten, (means - centre) @ whiten
    squared = (a * a).sum(axis=1)[:, None] - 2 * a @ b.T + (b * b).sum(axis=1)[None, :]
    return np.maximum(squared, 0).min(axis=1) / features.shape[1]


def _whitening(residuals: np.ndarray) -> np.ndarray:
    """Return W (D, D) with ``cov(residuals @ W) = 1``; the covariance is shrunk to a multiple of the identity.

    The amount of shrinkage is that of OAS (Chen et al. 2010), so that fewer pictures than dimensions are no problem.
    """
    residuals = residuals.astype(np.float64)
    n, size = residuals.shape
    covariance = residuals.T @ residuals / n
    trace, square = np.trace(covariance), (covariance**2).sum()
    scale = trace / size
    spread = (n + 1) * (square - trace**2 / size)
    amount = 1.0 if spread <= 0 else min(1.0, (square + trace**2) / spread)
    # 1e-6: dead features have no variance; without a floor a rounding error there would count as infinitely strange.
    floor = max(scale * 1e-6, 1e-12)
    covariance = (1 - amount) * covariance + (amount * scale + floor) * np.eye(size)
    values, vectors = np.linalg.eigh(covariance)
    return vectors / np.sqrt(np.maximum(values, floor))


def _stratified(labels: np.ndarray, limit: int, random: np.random.Generator) -> np.ndarray:
    """Return at most `limit` row numbers, round robin over the classes, so that a rare class is in the bank."""
    order = random.permutation(len(labels))
    by_class = order[np.argsort(labels[order], kind="stable")]
    counts = np.unique(labels, return_counts=True)[1]
    place = np.concatenate([np.arange(count) for count in counts])  # number within its class
    return np.sort(by_class[np.argsort(place, kind="stable")[:limit]])


def _unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)


def _matrix(features: np.ndarray, size: int | None = None) -> np.ndarray:
    features = np.asarray(features, np.float32)
    if features.ndim != 2 or (size is not None and features.shape[1] != size):
        raise UsageError(f"expected features (N, {'D' if size is None else size}), got {features.shape}")
    if not np.isfinite(features).all():
        raise UsageError("expected finite features, got NaN or infinity; the net has probably diverged")
    return features


def _known(method: str) -> str:
    if method not in METHODS:
        raise UsageError(f"unknown method {method!r}{closest(method, METHODS)}; choose one of {', '.join(METHODS)}")
    return method
