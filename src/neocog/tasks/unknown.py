"""Saying "unknown" for pictures unlike the training data, by distance in the net's feature space.

The distance is that from the L2-normalised feature to its k-th neighbour in a bank of training features (Sun et al.
2022, "Out-of-distribution detection with deep nearest neighbors"), which assumes nothing of the shape of a class.
bench/unknown.py compares it with three others.

Everything is numpy; features are float (N, D), the input of the net's last layer.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from scipy.special import stdtrit

from neocog.errors import UsageError
from neocog.tasks.measures import conformal

METHOD = "knn"  # by which what is saved says how it was made
BANK = 2000  # vectors: at D = 512 in float16 the bank is 2 MB, and a picture costs 1 M multiply-adds
# Sun et al. take the 50th of 50,000 CIFAR-10 vectors, which is the 2nd of 2,000. On digits (8 classes known, 2 not,
# five choices of the two) the 1st gave a mean AUROC of 0.98, the 5th 0.97, the 10th 0.96; `relative` 0.95, `cosine`
# 0.90.
NEIGHBOUR = 2
FALSE_ALARM = 0.05
FEWEST = 5  # held-out pictures, below which a threshold would be a guess
_PREFIX = "unknown."
STRANGE = {"drawn": "drawn shapes", "digits": "handwritten digits"}  # stand for what is not trained on
_CHUNK = 1024  # rows scored at a time, so that the (rows, bank) matrix stays below 10 MB


@dataclass(frozen=True)
class Unknown:
    """A fitted detector. A picture is unknown when its score is above `threshold` (infinite: never).

    `bank`: features of length 1, float16 (M, D); `k`: the distance to which neighbour in it is the score.
    `false_alarm` is the share of ordinary pictures that the threshold was set to call unknown.
    """

    bank: np.ndarray
    k: int
    threshold: float = math.inf
    false_alarm: float = FALSE_ALARM

    def score(self, features: np.ndarray) -> np.ndarray:
        """Return float32 (N,) for features (N, D): higher = stranger."""
        features = _matrix(features, self.bank.shape[1])
        bank = self.bank.astype(np.float32)  # once for all chunks: numpy multiplies float16 slowly
        made = np.zeros(len(features), np.float32)
        for start in range(0, len(features), _CHUNK):
            likeness = _unit(features[start : start + _CHUNK]) @ bank.T  # (n, M) cosines
            nearest = -np.partition(-likeness, self.k - 1, axis=1)[:, self.k - 1]
            made[start : start + _CHUNK] = np.sqrt(np.maximum(2 - 2 * nearest, 0))
        return made

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
        return {"method": METHOD, "threshold": threshold, "false_alarm": self.false_alarm}

    def save(self) -> dict[str, np.ndarray]:
        """Return arrays for a safetensors file; every name starts with ``unknown.``."""
        numbers = np.array([self.threshold, self.false_alarm], np.float64)
        own = {"method": np.frombuffer(METHOD.encode(), np.uint8).copy(), "numbers": numbers}
        own |= {"bank": self.bank, "k": np.array([self.k])}
        return {_PREFIX + name: np.ascontiguousarray(array) for name, array in own.items()}

    @classmethod
    def load(cls, arrays: Mapping[str, np.ndarray]) -> Unknown:
        """Return the detector that `save` wrote; names without the prefix are ignored."""
        own = {name.removeprefix(_PREFIX): array for name, array in arrays.items() if name.startswith(_PREFIX)}
        if not {"bank", "k", "numbers"} <= own.keys():
            raise UsageError(
                f"expected arrays {_PREFIX}bank, {_PREFIX}k and {_PREFIX}numbers, got {sorted(arrays)[:5]}"
            )
        return cls(own["bank"], int(own["k"][0]), *own["numbers"].tolist())


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
    false_alarm: float = FALSE_ALARM,
    bank: int = BANK,
    k: int = NEIGHBOUR,
    seed: int = 0,
) -> Unknown:
    """Fit a detector on training features (N, D) with labels int (N,); -1 (unlabelled) rows are left out.

    `held_out` (M, D), features of the validation split, sets the threshold; without it nothing is ever unknown. The
    bank takes at most `bank` of them, about the same number from every class, drawn with `seed`.
    """
    features, labels = _matrix(features), np.asarray(labels)
    if labels.shape != features.shape[:1]:
        raise UsageError(f"expected one label for each of {len(features)} features, got {labels.shape}")
    features, labels = features[labels >= 0], labels[labels >= 0]
    count = classes if isinstance(classes, int) else len(classes)
    if not len(labels) or labels.max() >= count:
        raise UsageError(f"expected labelled features of classes 0 to {count - 1}, got {np.unique(labels)[:10]}")
    chosen = _stratified(labels, bank, np.random.default_rng(seed))
    fitted = Unknown(_unit(features[chosen]).astype(np.float16), min(k, len(chosen)), math.inf, false_alarm)
    return fitted if held_out is None else fitted.with_threshold(held_out, false_alarm)


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
