"""What each of several runs adds to the mean of their probabilities."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from neocog.charts import line_chart
from neocog.page import Html, page, paragraph, table


def greedy(chances: np.ndarray, truth: np.ndarray) -> list[int]:
    """The order in which runs are best taken: first the best, then each time the one that the mean gains most from.

    Args:
        chances: probabilities (R, N, K) of R runs. truth: int (N,), the true classes.

    The mean is judged by its accuracy, of equal ones by its loss (Caruana et al. 2004, "Ensemble selection from
    libraries of models", without repetition).
    """
    order: list[int] = []
    total = np.zeros(chances.shape[1:])
    while len(order) < len(chances):
        left = [r for r in range(len(chances)) if r not in order]
        made = [(total + chances[r]) / (len(order) + 1) for r in left]
        own = [mean[np.arange(len(truth)), truth] for mean in made]
        scores = [
            ((mean.argmax(1) == truth).mean(), np.log(np.maximum(p, 1e-30)).mean())
            for mean, p in zip(made, own, strict=True)
        ]
        order.append(left[max(range(len(left)), key=scores.__getitem__)])
        total += chances[order[-1]]
    return order


def added(chances: np.ndarray, truth: np.ndarray, runs: Sequence[str], order: Sequence[int]) -> dict[str, Any]:
    """What each run adds, on pictures by which neither the runs nor their order were chosen.

    Args:
        chances: probabilities (R, N, K). truth: int (N,). runs: R names. order: of the runs, indices.

    Returns:
        ``one_by_one``: for the first, the first two, ... runs their accuracy, and what the last of them ``adds``;
        ``without``: for each run the accuracy of all others, and what the run ``adds`` to it. ``error`` is the
        standard error of that difference: both accuracies are of the same pictures, so it is that of a mean of
        differences.
    """

    def right(which: Sequence[int]) -> np.ndarray:
        return (chances[list(which)].mean(0).argmax(1) == truth).astype(np.float64)

    def row(run: int, shown: np.ndarray, fewer: np.ndarray | None, more: np.ndarray) -> dict[str, Any]:
        found: dict[str, Any] = {"run": runs[run], "accuracy": float(shown.mean())}
        if fewer is None:
            return {**found, "adds": None, "error": None}
        gain = more - fewer
        return {**found, "adds": float(gain.mean()), "error": float(gain.std() / np.sqrt(max(len(gain) - 1, 1)))}

    steps = [right(order[: i + 1]) for i in range(len(order))]
    every = steps[-1]
    others = [right([r for r in order if r != run]) for run in order]
    return {
        "one_by_one": [row(run, steps[i], steps[i - 1] if i else None, steps[i]) for i, run in enumerate(order)],
        "without": [row(run, rest, rest, every) for run, rest in zip(order, others, strict=True)],
    }


def tables(ensemble: Mapping[str, Any]) -> list[list[dict[str, Any]]]:
    """The two tables of `added` as people read them, in points of accuracy."""
    return [
        [
            {
                head: row["run"],
                "accuracy": row["accuracy"],
                "adds": "" if row["adds"] is None else f"{100 * row['adds']:+.2f} ± {100 * row['error']:.2f} points",
            }
            for row in ensemble[key]
        ]
        for key, head in (("one_by_one", "one after the other"), ("without", "all without"))
    ]


def ensemble_page(result: Mapping[str, Any]) -> str:
    """What `evaluate` says of several runs, as a page."""
    ensemble, n = result["ensemble"], result["n"]
    points = [(float(i), row["accuracy"]) for i, row in enumerate(ensemble["one_by_one"], 1)]
    one_by_one, without = (Html(table(rows, numeric=("accuracy", "adds"))) for rows in tables(ensemble))
    chart = line_chart({"accuracy of the mean": points}, x="runs", y="accuracy")
    told = (
        f"n = {n:,}. The order is by {ensemble['order']}. ± is the standard error of the difference: less than two "
        "of them may be chance."
    )
    return page(
        f"{len(points)} runs on {result['data']}, split {result['split']}",
        [("One after the other", Html(paragraph(told) + chart + one_by_one)), ("All but one", without)],
    )
