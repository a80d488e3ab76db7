"""Which distance tells strangers? AUROC of every method on a CIFAR-10 run, against drawn pictures and digits.

NEOCOG_DATA=... python bench/unknown.py RUN     # a run trained on cifar10
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from neocog.data import open_source
from neocog.data.batches import Known
from neocog.data.pictures import Streamed
from neocog.data.source import Source
from neocog.fit import Run
from neocog.fit.device import choose, hardware
from neocog.fit.evaluating import observed
from neocog.fit.job import Split
from neocog.fit.run import read_tensors
from neocog.tasks.measures import auroc
from neocog.tasks.unknown import fit_unknown, limit

METHODS = ("knn", "mahalanobis", "relative", "cosine")


def scores(method: str, features: np.ndarray, labels: np.ndarray, classes: int) -> Callable[[np.ndarray], np.ndarray]:
    """How strange features (N, D) are, higher = stranger.

    ``knn``: see neocog.tasks.unknown. ``mahalanobis``: distance to the nearest class mean under one covariance shared
    by all classes (Lee et al. 2018); ``relative``: less the distance to the mean of everything (Ren et al. 2021).
    ``cosine``: angle to the nearest class mean, the floor that the others have to beat.
    """
    if method == "knn":
        return fit_unknown(features, labels, classes).score
    means = np.stack([features[labels == label].mean(0) for label in np.unique(labels)])
    if method == "cosine":
        unit = lambda v: v / np.maximum(np.linalg.norm(v, axis=1, keepdims=True), 1e-12)  # noqa: E731
        return lambda x: 1 - (unit(x) @ unit(means).T).max(1)
    within = whitening(features - means[np.searchsorted(np.unique(labels), labels)])
    if method == "mahalanobis":
        return lambda x: nearest(x, means, within)
    centre = features.mean(0, keepdims=True)
    whole = whitening(features - centre)
    return lambda x: nearest(x, means, within) - nearest(x, centre, whole)


def compare(
    features: np.ndarray, labels: np.ndarray, classes: int, held_out: np.ndarray, unlike: dict[str, np.ndarray],
    known: np.ndarray,
) -> list[dict[str, Any]]:  # fmt: skip
    """For each method how well it tells `known` pictures from those of each entry of `unlike`, best mean AUROC first.

    `held_out` sets the threshold. Rows: method, auroc and caught (share called unknown) of each, false_alarm,
    mean_auroc.
    """
    rows = []
    for method in METHODS:
        score = scores(method, features, labels, classes)
        threshold, ordinary = limit(score(held_out)), score(known)
        row: dict[str, Any] = {"method": method, "auroc": {}, "caught": {}}
        for name, strange in unlike.items():
            both = np.concatenate([ordinary, found := score(strange)])
            row["auroc"][name] = auroc(both, np.arange(len(both)) >= len(ordinary))
            row["caught"][name] = float((found > threshold).mean())
        row["false_alarm"] = float((ordinary > threshold).mean())
        row["mean_auroc"] = float(np.mean(list(row["auroc"].values())))
        rows.append(row)
    return sorted(rows, key=lambda row: -row["mean_auroc"])


def nearest(features: np.ndarray, means: np.ndarray, whiten: np.ndarray) -> np.ndarray:
    """Return the squared distance (n,) to the nearest of `means` (K, D) after whitening, per dimension."""
    centre = means.mean(axis=0)  # keeps the numbers small: |a - b|^2 by expansion loses digits far from the origin
    a, b = (features - centre) @ whiten, (means - centre) @ whiten
    squared = (a * a).sum(axis=1)[:, None] - 2 * a @ b.T + (b * b).sum(axis=1)[None, :]
    return np.maximum(squared, 0).min(axis=1) / features.shape[1]


def whitening(residuals: np.ndarray) -> np.ndarray:
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


def main() -> None:
    """Measure and print, one row a method."""
    run = Run(sys.argv[1])
    device = choose()
    net = run.net().to(device.torch).to(memory_format=device.layout)  # type: ignore[call-overload]
    codes = read_tensors(run.folder / "split.safetensors")[0]["codes"].numpy()
    source = open_source("cifar10")

    def features(source: Source, rows: np.ndarray) -> np.ndarray:
        known = Known({"label": source.columns["label"].select(rows)}, run.task.collate)
        split = Split((Streamed(source, rows, run.preprocess),), source, rows, known)
        return observed(net, run.task, split, device, features=True)[1]

    def of(split: int, most: int) -> tuple[np.ndarray, np.ndarray]:
        rows = np.flatnonzero(codes == split)
        rows = rows[np.linspace(0, len(rows) - 1, min(most, len(rows))).astype(int)]
        return features(source, rows), source.labels[rows]

    known, labels = of(0, 5000)
    held_out, test = of(1, 1000)[0], of(2, 5000)[0]
    strangers = {}
    for name, spec in (("drawn", "drawn:n=1000,size=64,seed=1"), ("digits", "digits")):
        other = open_source(spec)
        strangers[name] = features(other, np.arange(min(1000, len(other))))
    rows = compare(known, labels, len(run.classes), held_out, strangers, test)
    for row in rows:
        print(json.dumps(row))
    result = {
        "n": {"bank": 2000, "test": len(test), **{k: len(v) for k, v in strangers.items()}},
        "rows": rows,
        "hardware": hardware(),
        "torch": torch.__version__,
        "date": time.strftime("%Y-%m-%d"),
    }
    Path("bench/results").mkdir(parents=True, exist_ok=True)
    Path("bench/results/unknown.json").write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
