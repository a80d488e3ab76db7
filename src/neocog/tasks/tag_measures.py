"""Losses, counts and figures of tags: truths are 1, 0 or nan, where nobody knows."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from neocog.tasks.logistic import logistic

MARGIN, FOCUS = 0.05, 4  # of the asymmetric loss


def asymmetric(z: Tensor, y: Tensor, weights: Tensor | float = 1.0) -> Tensor:
    """The asymmetric loss of logits and truths (B, K): ``-log p`` where y is 1, else ``-q^4 log(1 - q)``.

    q is p less a margin of 0.05, at least 0 (Ridnik et al. 2021, equations 4 to 7).
    """
    q = (torch.sigmoid(z) - MARGIN).clamp(min=0)
    return torch.where(y == 1, -weights * F.logsigmoid(z), -(q**FOCUS) * torch.log1p(-q))


def counts(column: Any, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of how many samples each class is true, and of how many it is known whether it is: both float64 (K,)."""
    k, sets = len(column.names), getattr(column, "sets", None)
    if sets is None:
        found = np.stack([row for i in rows if (row := column[int(i)]) is not None])
        return (found == 1).sum(0).astype(float), (~np.isnan(found)).sum(0).astype(float)
    rows = np.asarray(rows)[column.known[rows]]
    yes = np.bincount(sets.select(rows).values, minlength=k).astype(float)
    known = np.full(k, float(len(rows)))
    if column.unknown is not None:
        known -= np.bincount(column.unknown.select(rows).values, minlength=k)
    return yes, known


def per_tag_ap(scores: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Average precision of each column of scores (N, K), truths 1, 0 or nan; nan where no picture has the tag.

    The mean, over the pictures with the tag, of the precision at their score; equal scores count together.
    """
    made = np.full(y.shape[1], math.nan)
    for k in range(y.shape[1]):
        known = ~np.isnan(y[:, k])
        score, yes = scores[known, k], y[known, k] == 1
        if not yes.any():
            continue
        order = np.argsort(-score, kind="stable")
        ends = np.flatnonzero(np.append(np.diff(score[order]) != 0, True))
        hits = np.cumsum(yes[order])[ends]
        made[k] = float((np.diff(hits, prepend=0) * hits / (ends + 1)).sum() / yes.sum())
    return made


def f1_scores(said: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, float]:
    """F1 of each tag (K,), and over all pictures and tags together, for answers bool (N, K); 0 where nothing is."""
    hits = (said & (y == 1)).sum(0)
    total = (said & ~np.isnan(y)).sum(0) + (y == 1).sum(0)
    return 2 * hits / np.maximum(total, 1), float(2 * hits.sum() / max(total.sum(), 1))


def best_threshold(p: np.ndarray, yes: np.ndarray) -> float:
    """The probability from which on saying yes has the best F1, half way to the next lower one."""
    order = np.argsort(-p, kind="stable")
    ends = np.flatnonzero(np.append(np.diff(p[order]) != 0, True))
    f1 = 2 * np.cumsum(yes[order])[ends] / (ends + 1 + yes.sum())
    best = int(np.argmax(f1))
    low = p[order][ends[best + 1]] if best + 1 < len(ends) else 0.0
    return float((p[order][ends[best]] + low) / 2)


def platt(z: np.ndarray, yes: np.ndarray) -> tuple[float, float]:
    """Scale and shift of logits (N,) that make the truths most likely, softened as Platt (1999) does; scale > 0.

    A scale that is not positive would turn the order around: then nothing is changed.
    """
    ups, downs = int(yes.sum()), int((~yes).sum())
    wanted = np.where(yes, (ups + 1) / (ups + 2), 1 / (downs + 2))
    spread = float(z.std())
    if spread < 1e-9:
        return 1.0, 0.0
    start = np.zeros((1, 1)), np.array([math.log((ups + 1) / (downs + 1))])
    x, one = z.astype(np.float64)[:, None] / spread, np.ones((len(z), 1))
    scale, shift = logistic(x, wanted[:, None], 1, one, 1e-9, start=start, tolerance=1e-9)
    return (float(scale[0, 0] / spread), float(shift[0])) if scale[0, 0] > 0 else (1.0, 0.0)
