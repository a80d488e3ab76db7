"""How well one side of pairs finds the other: recall, median rank, reciprocal rank, and the losses that are learned.

Ranks begin at 1. A query's rank is that of its best answer (for a picture: the closest of its sentences; each sentence
is a query of its own), and a wrong answer that is as near as the right one stands before it. Pictures and sentences of
Flickr8k are judged so by M. Hodosh, P. Young and J. Hockenmaier, "Framing image description as a ranking task", 2013.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

TOP = (1, 5, 10)  # of recall
CUTS = (1, 3, 10)  # of NDCG
LOSSES = ("softmax", "hinge", "hardest")
_ROWS = 1000  # queries that are compared with everything at once


@dataclass(frozen=True)
class Graded:
    """Of many queries: the rank of the best right answer (N,), NDCG by cut, and the loss, ``-log P``."""

    ranks: np.ndarray
    ndcg: dict[int, float]
    loss: float


def graded(
    first: np.ndarray,
    second: np.ndarray,
    asked: np.ndarray,
    right: np.ndarray,
    gamma: float | None = 1.0,
    cuts: Sequence[int] = CUTS,
) -> Graded:
    """Rank what may belong to several: pairs ``asked[k], right[k]``, indices into `first` (N, D) and `second` (M, D).

    Vectors have length 1. A query without a right answer has rank 0, and no part in the means.
    NDCG counts what is right as 1 and all else as 0 (K. Jarvelin, J. Kekalainen, "Cumulated gain-based evaluation of IR
    techniques", 2002): ``sum 1 / log2(1 + rank)`` over what is right up to the cut, of the most that there could be.
    The loss is the mean of ``-log P`` of the right answers of a query, P the softmax of `gamma` times the cosines; of
    several right ones none is held against another. nan without `gamma`.
    """
    found = np.zeros(len(first), np.int64)
    gains: dict[int, list[np.ndarray]] = {k: [] for k in cuts}
    losses = [np.zeros(0)]
    order = np.argsort(asked, kind="stable")
    asked, right = asked[order], right[order]
    for begin in range(0, len(first), _ROWS):
        cosines = first[begin : begin + _ROWS] @ second.T
        mine = np.zeros(cosines.shape, bool)
        some = slice(*np.searchsorted(asked, (begin, begin + len(cosines))))
        mine[asked[some] - begin, right[some]] = True
        best = np.where(mine, cosines, -np.inf).max(1, keepdims=True, initial=-np.inf)
        count = mine.sum(1)
        found[begin : begin + _ROWS] = np.where(count > 0, 1 + ((cosines >= best) & ~mine).sum(1), 0)
        if cuts:
            top = np.take_along_axis(mine, np.lexsort((mine, -cosines), axis=1)[:, : max(cuts)], 1)  # wrong ones first
            worth = 1 / np.log2(np.arange(2, top.shape[1] + 2))
        for k in cuts:
            most = np.concatenate([[0.0], np.cumsum(worth[:k])])[np.minimum(count, min(k, len(worth)))]
            gains[k].append(((top[:, :k] * worth[:k]).sum(1) / most.clip(1e-9))[count > 0])
        if gamma is not None:
            logits = gamma * (cosines - cosines.max(1, keepdims=True))
            likely = np.exp(logits)
            each = np.log((likely * ~mine).sum(1, keepdims=True) + likely) - logits
            losses.append((each * mine).sum(1)[count > 0] / count[count > 0])
    means = {k: float(np.concatenate(parts).mean()) for k, parts in gains.items()}
    loss = np.concatenate(losses)
    return Graded(found, means, float(loss.mean()) if len(loss) else math.nan)


def both_ways(
    first: np.ndarray,
    second: np.ndarray,
    pairs: tuple[np.ndarray, np.ndarray],
    gamma: float | None = 1.0,
    cuts: Sequence[int] = CUTS,
) -> tuple[Graded, Graded]:
    """`graded` from the first to the second, and back; `pairs`: indices into the first, and into the second."""
    a, b = pairs
    return graded(first, second, a, b, gamma, cuts), graded(second, first, b, a, gamma, cuts)


def ranks(first: np.ndarray, second: np.ndarray, owner: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Ranks of both directions, int64 (N,) and (M,); `owner` (M,): to which of the first each of the second belongs."""
    one, other = both_ways(first, second, (owner, np.arange(len(second))), None, ())
    return one.ranks, other.ranks


def figures_of(found: np.ndarray, name: str) -> dict[str, float]:
    """Recall at 1, 5 and 10, median rank and mean reciprocal rank, from the ranks of some queries."""
    found = found[found > 0]
    made = {f"{name}_recall_at_{k}": float((found <= k).mean()) if len(found) else math.nan for k in TOP}
    made[f"{name}_median_rank"] = float(np.median(found)) if len(found) else math.nan
    made[f"{name}_mrr"] = float((1 / found).mean()) if len(found) else math.nan
    return made


def figures_of_both(both: tuple[Graded, Graded], sides: Sequence[str]) -> dict[str, float]:
    """The figures of both directions, their loss, and the mean of the six recalls at 1, 5 and 10."""
    made: dict[str, float] = {}
    for name, one in zip(sides, both, strict=True):
        made |= figures_of(one.ranks, name) | {f"{name}_ndcg_at_{k}": v for k, v in one.ndcg.items()}
    made["mean_recall"] = float(np.mean([made[f"{name}_recall_at_{k}"] for name in sides for k in TOP]))
    return {**made, "loss": float(np.mean([one.loss for one in both]))}


def matching_loss(
    cosines: Tensor,
    positive: Tensor,
    gamma: Tensor,
    *,
    loss: str = "softmax",
    margin: float = 0.2,
    negatives: int = 0,
    hard: bool = False,
) -> Tensor:
    """The loss of queries (Q,) among documents (D,), the mean over the queries that have a right one.

    Args:
        cosines: (Q, D).
        positive: bool (Q, D); another right document is never held against one.
        gamma: factor on the cosines, for the softmax.
        loss: "softmax" (Huang et al. 2013: ``-log P(D+|Q)``), "hinge" (the sum over the wrong ones of what they come
            nearer than `margin`; Kiros et al. 2014) or "hardest" (only the worst of them; Faghri et al. 2018, VSE++).
        negatives: wrong documents that are used for each query: so many by chance, or if `hard` the nearest; 0: all.
    """
    wrong = ~positive
    if negatives and negatives < cosines.shape[1]:
        score = cosines.detach() if hard else torch.rand_like(cosines)
        chosen = score.masked_fill(positive, -math.inf).topk(negatives, 1).indices
        wrong = wrong & torch.zeros_like(wrong).scatter(1, chosen, True)
    asked = positive.any(1)
    if not asked.any():
        return cosines.sum() * 0.0
    if loss == "softmax":
        logits = gamma * cosines
        against = logits.masked_fill(~wrong, -1e4).logsumexp(1, keepdim=True)
        each = F.softplus(against - logits)
    else:
        worst = cosines.masked_fill(~wrong, -2.0)
        if loss == "hardest":
            each = (margin + worst.amax(1, keepdim=True) - cosines).clamp(min=0)
        else:
            return _sum_of_hinges(cosines, positive, worst, margin, asked)
    return ((each * positive).sum(1) / positive.sum(1).clamp(min=1))[asked].mean()


def _sum_of_hinges(cosines: Tensor, positive: Tensor, wrong: Tensor, margin: float, asked: Tensor) -> Tensor:
    """The sum over the wrong documents, for the mean cosine of the right ones."""
    right = (cosines * positive).sum(1, keepdim=True) / positive.sum(1, keepdim=True).clamp(min=1)
    return (margin + wrong - right).clamp(min=0).sum(1)[asked].mean()


def told(figures: Mapping[str, Any], sides: Sequence[str]) -> str:
    """The recalls of both directions in one line, percent."""
    each = (
        f"{side.replace('_', ' ')} " + " / ".join(f"{100 * figures[f'{side}_recall_at_{k}']:.1f}" for k in TOP)
        for side in sides
    )
    return f"recall@1/5/10 {', '.join(each)} %"


def rows_of(figures: Mapping[str, Any], sides: Sequence[str]) -> list[dict[str, object]]:
    """A row of a report's table for each direction; NDCG where it is among the figures."""
    return [
        {
            "": side.replace("_", " "),
            **{f"recall@{k}": f"{100 * figures[f'{side}_recall_at_{k}']:.1f} %" for k in TOP},
            **{f"NDCG@{k}": f"{v:.3f}" for k in CUTS if (v := figures.get(f"{side}_ndcg_at_{k}")) is not None},
            "median rank": f"{figures[f'{side}_median_rank']:g}",
            "mean reciprocal rank": f"{figures[f'{side}_mrr']:.3f}",
        }
        for side in sides
    ]
