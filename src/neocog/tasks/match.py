"""Are two pictures of the same thing? A net that brings the same near and the different far apart.

Twins: one net sees every picture, and answers with a vector of length 1; the cosine of two vectors says how alike they
are. It is learned from classes (people, products) and judged on pairs, of classes that were not in the training where
the splits say so; or from a table of pairs.

Losses, all over the batches of all processes together:

- softmax: every picture is asked which of the others is of its class (Khosla et al. 2020, supervised contrastive,
  equation 2; with a table of pairs it is the in-batch softmax in both directions).
- triplet: hardest positive and negative of each picture (Hermans et al. 2017, "batch hard"), hinge with a margin.
- contrastive: squared distance of the same, hinge of the different (Hadsell et al. 2006, equation 4).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from neocog.errors import DataError, UsageError
from neocog.page import paragraph
from neocog.tasks.measures import auroc
from neocog.tasks.task import Answer, Losses, Section, Seen, Targets, Task, register
from neocog.tasks.together import all_rows

if TYPE_CHECKING:
    from neocog.data.batches import Batch
    from neocog.data.source import Source
    from neocog.data.warp import Warp

LOSSES = ("softmax", "triplet", "contrastive")
_EACH = 4  # pictures of a class in a batch
_PAIRS = 200_000  # pairs that are looked at; more tell nothing more


@dataclass(frozen=True, slots=True)
class Vector(Answer):
    """Where a picture lies: `vector` float32 (D,), of length 1. The cosine of two says how alike they are.

    `same` is the cosine from which on two pictures are called the same (chosen on the validation pairs).
    """

    key: str
    vector: tuple[float, ...] = ()
    same: float = 0.0
    problem: str | None = None

    def alike(self, other: Vector) -> float:
        """The cosine, -1 to 1."""
        return float(np.dot(self.vector, other.vector))

    def row(self) -> dict[str, Any]:
        return {f"v{k}": round(v, 6) for k, v in enumerate(self.vector)}

    def text(self) -> str:
        first = " ".join(f"{v:.3f}" for v in self.vector[:4])
        return f"vector of {len(self.vector)} numbers ({first} ...)"

    def to_json(self) -> dict[str, Any]:
        return {"vector": [round(v, 6) for v in self.vector], "same_from": self.same}


@register
class Match(Task):
    """Vectors whose cosine says whether two pictures are of the same class.

    Args:
        dimensions: of the vectors.
        loss: one of `LOSSES`.
        margin: of triplet (in cosines) and contrastive (in distances).
        scale: on the cosines before the softmax.
        same: the cosine from which on two pictures are called the same.
    """

    name = "match"
    about = "whether two pictures show the same object or person"
    needs = {"label": "category"}
    goal = ("eer", "min")
    figure = "equal error rate"
    whole_batch = True
    views_back = True
    options = {"dimensions": 128, "loss": "softmax", "margin": 0.3, "scale": 16.0}

    def __init__(
        self, dimensions: int = 128, loss: str = "softmax", margin: float = 0.3, scale: float = 16.0, same: float = 0.5
    ) -> None:
        if loss not in LOSSES:
            raise UsageError(f"unknown loss {loss!r} of the task match; expected one of {', '.join(LOSSES)}")
        self.dimensions, self.loss, self.margin, self.scale = int(dimensions), loss, float(margin), float(scale)
        self.same = same

    @classmethod
    def plan(cls, source: Source, rows: np.ndarray, settings: Mapping[str, Any]) -> Match:
        counts = np.bincount(source.labels[rows])
        if (counts > 1).sum() < 2:
            raise DataError(
                f"{source.name} has {(counts > 1).sum()} classes with two pictures or more; twins need at least two "
                "classes, each with at least two pictures"
            )
        return cls(**{k: settings[k] for k in cls.options})

    def to_json(self) -> dict[str, Any]:
        return {**{k: getattr(self, k) for k in self.options}, "same": self.same}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Match:
        return cls(**values)

    @classmethod
    def groups(cls, source: Source) -> np.ndarray:
        return source.labels  # judged on classes that were not seen in training

    @property
    def outputs(self) -> int:
        return self.dimensions

    def collate(self, values: dict[str, Any], warp: Warp | None, valid: Tensor) -> Targets:
        return {"label": values["label"].masked_fill(~valid, -1)}

    def order(self, columns: Mapping[str, Any], n: int, batch: int, g: torch.Generator) -> Tensor:
        """An epoch of batches in which every class has `_EACH` pictures (or all that it has)."""
        codes = torch.from_numpy(columns["label"].codes.astype(np.int64))
        pools = [torch.nonzero(codes == c).flatten() for c in codes.unique() if c >= 0]
        pools = [pool for pool in pools if len(pool) > 1]
        rows: list[int] = []
        while len(rows) < n // batch * batch:
            for c in torch.randperm(len(pools), generator=g).tolist():
                pool = pools[c]
                rows += pool[torch.randperm(len(pool), generator=g)[:_EACH]].tolist()
        return torch.tensor(rows[: n // batch * batch])

    def run(self, net: nn.Module, batch: Batch) -> Tensor:
        return F.normalize(net(*batch.inputs).float(), dim=1)

    def losses(self, outputs: Tensor, batch: Batch) -> Losses:
        vectors, labels = all_rows(outputs), all_rows(batch.targets["label"])
        known = labels >= 0
        vectors, labels = vectors[known], labels[known]
        cosines = vectors @ vectors.T
        own = torch.eye(len(labels), dtype=torch.bool, device=labels.device)
        same = (labels[:, None] == labels[None]) & ~own
        other = labels[:, None] != labels[None]
        asked = same.any(1) & other.any(1)
        if not asked.any():
            return Losses({"loss": outputs.sum() * 0.0}, len(outputs))
        if self.loss == "softmax":
            logits = (self.scale * cosines).masked_fill(own, -math.inf)
            chance = logits - logits.logsumexp(1, keepdim=True)
            loss = -(chance.masked_fill(~same, 0.0).sum(1) / same.sum(1).clamp(min=1))[asked].mean()
        elif self.loss == "triplet":
            hardest = cosines.masked_fill(~same, 2.0).amin(1)
            nearest = cosines.masked_fill(~other, -2.0).amax(1)
            loss = F.softplus(self.scale * (nearest - hardest + self.margin))[asked].mean() / self.scale
        else:
            distance = (2.0 - 2.0 * cosines).clamp(min=1e-9).sqrt()
            pull = (distance**2)[same].mean()
            push = ((self.margin + 0.7 - distance).clamp(min=0) ** 2)[other].mean()
            loss = pull + push
        best = cosines.detach().masked_fill(own, -2.0).argmax(1)
        right = (labels[best] == labels)[asked].double().mean() * len(outputs)
        return Losses({"loss": loss}, len(outputs), {"recall_at_1": right})

    def observe(self, outputs: Tensor, batch: Batch) -> dict[str, Any]:
        return {"rows": batch.rows, "vectors": outputs, "labels": batch.targets["label"]}

    def figures(self, seen: Seen) -> dict[str, Any]:
        if not len(seen.get("labels", ())):
            return {"n": 0, "eer": float("nan"), "loss": float("nan")}
        vectors, labels = seen["vectors"].astype(np.float64), seen["labels"]
        vectors = vectors / np.linalg.norm(vectors, axis=1, keepdims=True).clip(1e-9)
        cosines = vectors @ vectors.T
        np.fill_diagonal(cosines, -np.inf)
        same = labels[:, None] == labels[None]
        np.fill_diagonal(same, False)
        asked = same.any(1)
        order = np.argsort(-cosines, axis=1, kind="stable")
        hit = np.take_along_axis(same, order, 1)
        recall = {f"recall_at_{k}": float(hit[asked, :k].any(1).mean()) if asked.any() else math.nan for k in (1, 5)}
        first, second = np.triu_indices(len(labels), 1)
        if len(first) > _PAIRS:
            some = np.random.default_rng(0).choice(len(first), _PAIRS, replace=False)
            first, second = first[some], second[some]
        scores, positive = cosines[first, second], same[first, second]
        logits = self.scale * np.where(np.isinf(cosines), -1e9, cosines)
        log_p = logits - np.logaddexp.reduce(logits, axis=1, keepdims=True)
        loss = -(np.where(same, log_p, 0).sum(1) / same.sum(1).clip(1))[asked].mean() if asked.any() else math.nan
        return {
            "n": len(labels),
            **verification(scores, positive),
            "auc": auroc(scores, positive),
            **recall,
            "pairs": len(scores),
            "loss": float(loss),
        }

    def calibrate(self, seen: Seen) -> None:
        figures = self.figures(seen)
        if figures["n"] and not math.isnan(figures["eer"]):
            self.same = figures["threshold"]

    def headline(self, figures: Mapping[str, Any]) -> str:
        return (
            f"equal error rate {figures['eer']:.2%}, recall@1 {figures['recall_at_1']:.2%}, AUC {figures['auc']:.4f} "
            f"(n = {figures['n']:,}, {figures['pairs']:,} pairs)"
        )

    def sections(self, seen: Seen, figures: Mapping[str, Any]) -> list[Section]:
        line = (
            f"At a cosine of {figures['threshold']:.3f} as many different pairs pass as same pairs are refused: "
            f"{figures['eer']:.2%}. If 1 % of different pairs may pass, {figures['verified_at_1']:.2%} of the same "
            f"pairs do; if 0.1 %, {figures['verified_at_01']:.2%}."
        )
        return [Section("Verification", paragraph(line))]

    def answers(self, outputs: Tensor, batch: Batch, keys: Sequence[str], top: int = 5) -> list[Answer]:
        rows = F.normalize(outputs, dim=1).cpu().tolist()
        return [Vector(key, tuple(row), self.same) for key, row in zip(keys, rows, strict=True)]

    def unread(self, key: str, problem: str) -> Answer:
        return Vector(key, problem=problem)

    reading = "`output` (B, D) is a vector of length 1; two pictures show the same from a cosine of `same` on."


def verification(scores: np.ndarray, positive: np.ndarray) -> dict[str, float]:
    """Figures of a yes-or-no question by a score (N,), `positive` bool (N,) where yes is right.

    ``eer``: the rate at which false acceptances equal false refusals, at the score ``threshold``; ``verified_at_1``
    and ``verified_at_01``: share of positives that pass where 1 % and 0.1 % of negatives may.
    """
    if positive.all() or not positive.any():
        return {"eer": math.nan, "threshold": math.nan, "verified_at_1": math.nan, "verified_at_01": math.nan}
    order = np.argsort(-scores, kind="stable")
    ends = np.flatnonzero(np.append(np.diff(scores[order]) != 0, True))  # equal scores pass together
    passed = np.cumsum(positive[order])[ends] / positive.sum()
    false = np.cumsum(~positive[order])[ends] / (~positive).sum()
    refused = 1.0 - passed
    k = int(np.argmin(np.abs(false - refused)))
    made = {"eer": float((false[k] + refused[k]) / 2), "threshold": float(scores[order][ends[k]])}
    for name, rate in (("verified_at_1", 0.01), ("verified_at_01", 0.001)):
        allowed = false <= rate
        made[name] = float(passed[allowed].max()) if allowed.any() else 0.0
    return made
