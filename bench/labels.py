"""How many wrong labels are found, and how many of those named are wrong: `neocog check --labels auto`, and cleanlab.

NEOCOG_DATA=... python bench/labels.py [N] [OUT]     # N test pictures of CIFAR-10; cleanlab is used if it is installed

Noise: "symmetric p": with probability p a label becomes one of the nine others. "asymmetric p": with probability p,
truck becomes automobile, bird airplane, deer horse, and cat and dog each other (Patrini et al. 2017, section 5).
Both judge by the same out-of-sample probabilities, so what is compared is the choice of the labels alone.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from neocog.data import open_source
from neocog.fit import suspects
from neocog.fit.device import hardware

NOISE = {
    "none": (None, 0.0),
    "symmetric 0.05": (None, 0.05),
    "symmetric 0.2": (None, 0.2),
    "symmetric 0.5": (None, 0.5),
    "asymmetric 0.2": ({9: 1, 2: 0, 4: 7, 3: 5, 5: 3}, 0.2),
    "asymmetric 0.4": ({9: 1, 2: 0, 4: 7, 3: 5, 5: 3}, 0.4),
}


def main() -> None:
    """Measure and print, one row for each noise."""
    n = int(sys.argv[1]) if len(sys.argv) > 1 else 3000
    whole = open_source("cifar10")
    random = np.random.default_rng(1)
    source = whole.select(np.sort(random.choice(np.flatnonzero(whole.splits == 2), n, replace=False)))
    true, rows = source.labels.copy(), []
    x = None
    compute = suspects.extract

    def once(*args: Any, **options: Any) -> Any:
        nonlocal x
        if x is None:
            x = compute(*args, **options)
        return x

    suspects.extract = once  # type: ignore[assignment]
    for name, (turned, p) in NOISE.items():
        source.labels[:] = noisy(true, turned, p, np.random.default_rng(2))
        begin = time.perf_counter()
        found = suspects.judged(suspects.AUTO, source)
        labels, probabilities = found.labels, found.probabilities
        seconds = time.perf_counter() - begin
        wrong = labels != true[found.rows]
        row = {"noise": name, "wrong": int(wrong.sum()), "seconds": round(seconds, 1)}
        row["neocog"] = score(suspects.doubted(probabilities, labels)[0], wrong)
        for way in ("prune_by_noise_rate", "confident_learning", "low_self_confidence"):
            if (named := cleanlab(labels, probabilities, way)) is not None:
                row[f"cleanlab {way}"] = score(named, wrong)
        rows.append(row)
        print(json.dumps(row), flush=True)
    result = {
        "n": n,
        "rows": rows,
        "hardware": hardware(),
        "torch": torch.__version__,
        "date": time.strftime("%Y-%m-%d"),
    }
    if len(sys.argv) > 2:
        Path(sys.argv[2]).write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


def noisy(true: np.ndarray, turned: dict[int, int] | None, p: float, random: np.random.Generator) -> np.ndarray:
    """Labels, some of them wrong."""
    labels, hit = true.copy(), random.random(len(true)) < p
    if turned is None:
        labels[hit] = (true[hit] + random.integers(1, 10, int(hit.sum()))) % 10
    else:
        for a, b in turned.items():
            labels[hit & (true == a)] = b
    return labels


def score(found: np.ndarray, wrong: np.ndarray) -> dict[str, float]:
    """Precision and recall of the rows that were named."""
    right = int(wrong[found].sum())
    return {
        "named": len(found),
        "precision": round(right / max(1, len(found)), 3),
        "recall": round(right / max(1, int(wrong.sum())), 3),
    }


def cleanlab(labels: np.ndarray, probabilities: np.ndarray, way: str) -> np.ndarray | None:
    """Rows that cleanlab names; None where it is not installed."""
    try:
        from cleanlab.filter import find_label_issues
    except ImportError:
        return None
    how: dict[str, Any] = {"filter_by": way, "return_indices_ranked_by": "self_confidence", "n_jobs": 1}
    return np.asarray(find_label_issues(labels, probabilities, **how))


if __name__ == "__main__":
    main()
