"""Figures of merit for classification, as pure functions on numpy arrays.

Throughout: `logits` is float (N, K), scores before softmax; `labels` is int (N,), index of the true class; N pictures,
K classes. Everything is computed in float64. Wrong shapes, labels outside 0..K-1 and logits that are not finite raise
`UsageError`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy.special import log_softmax

from neocog.errors import UsageError

# Beyond this many classes `evaluate_logits` leaves the matrix out: at 1,000 classes it would be megabytes of JSON.
CONFUSION_LIMIT = 100
TEMPERATURES = (0.01, 100.0)


def softmax(logits: np.ndarray, temperature: float = 1.0) -> np.ndarray:
    """Return probabilities (N, K) of ``logits / temperature``; each row sums to 1."""
    return np.exp(_log_softmax(logits, temperature))


def accuracy(logits: np.ndarray, labels: np.ndarray) -> float:
    """Return the share of pictures whose highest logit is the true class (of equal logits, the first counts)."""
    return top_k_accuracy(logits, labels, 1)


def top_k_accuracy(logits: np.ndarray, labels: np.ndarray, k: int = 5) -> float:
    """Return the share of pictures whose true class is among the `k` highest logits (ties: lower index first)."""
    if k < 1:
        raise UsageError(f"top-k accuracy: expected k >= 1, got {k}")
    logits, labels = _check(logits, labels)
    own = logits[np.arange(len(labels)), labels][:, None]
    earlier = np.arange(logits.shape[1])[None, :] < labels[:, None]
    rank = ((logits > own) | ((logits == own) & earlier)).sum(axis=1)
    return float((rank < k).mean())


def cross_entropy(logits: np.ndarray, labels: np.ndarray, temperature: float = 1.0) -> float:
    """Return the mean negative log likelihood of the true class, in nats."""
    logits, labels = _check(logits, labels)
    return float(-_log_softmax(logits, temperature)[np.arange(len(labels)), labels].mean())


def confusion(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Return counts int64 (K, K): row = true class, column = predicted class."""
    logits, labels = _check(logits, labels)
    classes = logits.shape[1]
    cells = labels * classes + logits.argmax(axis=1)
    return np.bincount(cells, minlength=classes * classes).reshape(classes, classes)


def per_class(matrix: np.ndarray) -> dict[str, np.ndarray]:
    """Return precision, recall, f1 (float64), support and predicted (int64), each (K,), of a confusion matrix (K, K).

    A ratio without cases (a class never predicted, or never present) is 0, as in scikit-learn with zero_division=0.
    """
    hits = np.diag(matrix).astype(np.float64)
    support, predicted = matrix.sum(axis=1), matrix.sum(axis=0)
    return {
        "precision": hits / np.maximum(predicted, 1),
        "recall": hits / np.maximum(support, 1),
        "f1": 2 * hits / np.maximum(support + predicted, 1),
        "support": support,
        "predicted": predicted,
    }


def macro_f1(matrix: np.ndarray) -> float:
    """Return the mean F1 over the classes that occur, in truth or prediction, in a confusion matrix (K, K)."""
    figures = per_class(matrix)
    occurs = (figures["support"] + figures["predicted"]) > 0
    return float(figures["f1"][occurs].mean()) if occurs.any() else 0.0


def expected_calibration_error(
    probabilities: np.ndarray, labels: np.ndarray, bins: int = 15
) -> tuple[float, list[dict[str, float]]]:
    """Return the calibration error and the bins that it is made of.

    Pictures are put into `bins` equal intervals (low, high] of their highest probability; the error is the mean over
    pictures of the difference between accuracy and confidence of their interval (Guo et al. 2017). Each bin is
    ``{"low", "high", "n", "confidence", "accuracy"}``; an empty one has confidence at its middle and accuracy 0.
    """
    probabilities, labels = _check(probabilities, labels)
    confidence = probabilities.max(axis=1)
    correct = probabilities.argmax(axis=1) == labels
    which = np.clip(np.ceil(confidence * bins).astype(np.int64) - 1, 0, bins - 1)
    table = []
    error = 0.0
    for number in range(bins):
        inside = which == number
        count = int(inside.sum())
        row = {"low": number / bins, "high": (number + 1) / bins, "n": count}
        row["confidence"] = float(confidence[inside].mean()) if count else (number + 0.5) / bins
        row["accuracy"] = float(correct[inside].mean()) if count else 0.0
        error += count / len(labels) * abs(row["accuracy"] - row["confidence"]) if count else 0.0
        table.append(row)
    return float(error), table


def brier(probabilities: np.ndarray, labels: np.ndarray) -> float:
    """Return the Brier score: mean over pictures of the squared distance to the true one-hot vector, 0 to 2."""
    probabilities, labels = _check(probabilities, labels)
    own = probabilities[np.arange(len(labels)), labels]
    return float(((probabilities**2).sum(axis=1) - 2 * own + 1).mean())


def fit_temperature(logits: np.ndarray, labels: np.ndarray) -> float:
    """Return the temperature that makes ``softmax(logits / temperature)`` most likely (Guo et al. 2017).

    The negative log likelihood is convex in 1 / temperature, so the root of its derivative is found by bisection. As in
    Platt (1999) the targets are softened by ``1 / (N + 2)``, spread over all classes: a set with every picture right
    then asks for a confidence near ``(N + 1) / (N + 2)`` instead of certainty, and ten pictures cannot ask for 99.9 %;
    at thousands of pictures it makes no visible difference. The result lies within `TEMPERATURES`. No picture, or
    logits that are equal within every row, give 1.
    """
    if len(labels) == 0:
        return 1.0
    logits, labels = _check(logits, labels)
    logits = logits - logits.mean(axis=1, keepdims=True)
    if np.abs(logits).max() < 1e-12:
        return 1.0
    soft = 1 / (len(labels) + 2)
    wanted = (1 - soft) * logits[np.arange(len(labels)), labels].mean()  # the uniform part has mean logit 0

    def slope(inverse: float) -> float:
        return float((np.exp(_log_softmax(logits, 1 / inverse)) * logits).sum(axis=1).mean()) - wanted

    low, high = 1 / TEMPERATURES[1], 1 / TEMPERATURES[0]
    if slope(low) >= 0:
        return 1 / low
    if slope(high) <= 0:
        return 1 / high
    while high / low > 1 + 1e-6:
        middle = math.sqrt(low * high)
        low, high = (low, middle) if slope(middle) > 0 else (middle, high)
    return 1 / math.sqrt(low * high)


def auroc(scores: np.ndarray, positive: np.ndarray) -> float:
    """Return the area under the ROC curve: the chance that a positive scores above a negative, ties counting half.

    `scores` (N,), `positive` bool (N,). NaN when there is no positive or no negative.
    """
    scores, positive = np.asarray(scores, np.float64), np.asarray(positive, bool)
    if scores.ndim != 1 or scores.shape != positive.shape:
        raise UsageError(f"auroc: expected two vectors of one length, got {scores.shape} and {positive.shape}")
    above, below = int(positive.sum()), int((~positive).sum())
    if not above or not below:
        return math.nan
    _, inverse, counts = np.unique(scores, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[inverse]  # mean rank of equal scores
    return float((ranks[positive].sum() - above * (above + 1) / 2) / (above * below))


def conformal(scores: np.ndarray, held: float) -> float | None:
    """Return the score of rank ``ceil((n + 1) held)`` of n: a new one is at most that with probability `held` or more.

    None where that rank is beyond n, with fewer than ``held / (1 - held)`` scores.
    """
    rank = math.ceil((len(scores) + 1) * held - 1e-9)  # (19 + 1) * 0.95 must count as 19, not as 19.000000000000004
    return float(np.sort(scores)[rank - 1]) if rank <= len(scores) else None


def wilson(correct: int, n: int, z: float = 1.959963984540054) -> tuple[float, float]:
    """Return the Wilson score interval of ``correct / n``; the default `z` is 95 %. (0, 1) when n is 0.

    Unlike the normal approximation it stays inside 0..1 and is honest at 0 and 100 %.
    """
    if not 0 <= correct <= n:
        raise UsageError(f"wilson: expected 0 <= correct <= n, got correct {correct} of {n}")
    if n == 0:
        return 0.0, 1.0
    share = correct / n
    centre = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    # At the ends the exact bound is 0 or 1; rounding must not leave the share outside its own interval.
    low = 0.0 if correct == 0 else max(0.0, centre - half)
    return low, 1.0 if correct == n else min(1.0, centre + half)


def confused_pairs(matrix: np.ndarray, classes: Sequence[str], limit: int = 10) -> list[dict[str, Any]]:
    """Return the largest off-diagonal cells of a confusion matrix (K, K), largest first.

    Each is ``{"true", "predicted", "count", "share"}``; share is of the pictures of the true class.
    """
    wrong = matrix.copy()
    np.fill_diagonal(wrong, 0)
    order = np.argsort(-wrong, axis=None, kind="stable")[:limit]
    support = matrix.sum(axis=1)
    return [
        {
            "true": classes[row],
            "predicted": classes[column],
            "count": int(wrong[row, column]),
            "share": float(wrong[row, column] / support[row]),
        }
        for row, column in zip(*np.unravel_index(order, wrong.shape), strict=True)
        if wrong[row, column]
    ]


def evaluate_logits(
    logits: np.ndarray, labels: np.ndarray, classes: Sequence[str], temperature: float = 1.0
) -> dict[str, Any]:
    """Return every figure of this file as one JSON-able dict; pictures with label -1 (unlabelled) are left out.

    Keys: n, unlabelled, accuracy, accuracy_interval (95 % Wilson), top5_accuracy (only for K > 5), macro_f1, loss,
    brier, ece, bins (loss to bins: at `temperature`), temperature, per_class (a list of dicts), confused (the worst
    pairs), confusion (K lists of K counts; None for K > `CONFUSION_LIMIT`).
    """
    logits, labels = np.asarray(logits), np.asarray(labels)
    if logits.ndim != 2 or logits.shape[1] != len(classes):
        raise UsageError(f"expected logits (N, {len(classes)}) for {len(classes)} classes, got {logits.shape}")
    known = labels != -1
    unlabelled = int((~known).sum())
    logits, labels = _check(logits[known], labels[known])
    matrix = confusion(logits, labels)
    probabilities = softmax(logits, temperature)
    ece, bins = expected_calibration_error(probabilities, labels)
    figures = per_class(matrix)
    result: dict[str, Any] = {
        "n": len(labels),
        "unlabelled": unlabelled,
        "accuracy": accuracy(logits, labels),
        "accuracy_interval": list(wilson(int(np.trace(matrix)), len(labels))),
    }
    if len(classes) > 5:
        result["top5_accuracy"] = top_k_accuracy(logits, labels, 5)
    result |= {
        "macro_f1": macro_f1(matrix),
        "loss": cross_entropy(logits, labels, temperature),
        "brier": brier(probabilities, labels),
        "ece": ece,
        "bins": bins,
        "temperature": float(temperature),
        "per_class": [
            {"class": name} | {key: values[number].item() for key, values in figures.items()}
            for number, name in enumerate(classes)
        ],
        "confused": confused_pairs(matrix, classes),
        "confusion": matrix.tolist() if len(classes) <= CONFUSION_LIMIT else None,
    }
    return result


def _log_softmax(logits: np.ndarray, temperature: float) -> np.ndarray:
    if not temperature > 0:
        raise UsageError(f"expected a temperature above 0, got {temperature}")
    return np.asarray(log_softmax(np.asarray(logits, np.float64) / temperature, axis=-1))


def _check(logits: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return logits as float64 (N, K) and labels as int64 (N,), or raise UsageError."""
    logits, labels = np.asarray(logits, np.float64), np.asarray(labels)
    if logits.ndim != 2 or labels.shape != logits.shape[:1]:
        raise UsageError(f"expected logits (N, K) and labels (N,), got {logits.shape} and {labels.shape}")
    if len(labels) == 0:
        raise UsageError("expected at least one labelled picture, got none")
    if labels.dtype.kind not in "iu":
        raise UsageError(f"expected integer labels, got {labels.dtype}")
    if labels.min() < 0 or labels.max() >= logits.shape[1]:
        raise UsageError(f"expected labels 0 to {logits.shape[1] - 1}, got {labels.min()} to {labels.max()}")
    if not np.isfinite(logits).all():
        raise UsageError("expected finite logits, got NaN or infinity; the net has probably diverged")
    return logits, labels.astype(np.int64)


_SIGNS = {
    **{name: name.upper() for name in "ap ap11 ap50 ap75 auc ece eer f mae nme oks pck r2 rmse voc".split()},
    "cider": "CIDEr", "f1": "F1", "iou": "IoU", "map": "mAP", "miou": "mIoU",
}  # fmt: skip


def words(figure: str) -> str:
    """The name of a figure as people write it: "mean accuracy", "mIoU", "VOC AP"."""
    return " ".join(_SIGNS.get(word, word) for word in figure.split("_"))
