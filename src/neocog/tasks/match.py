"""Are two pictures of the same thing? A net that brings the same near and the different far apart.

Twins: one net sees every picture, and answers with a vector of length 1; the cosine of two vectors says how alike they
are. It is learned from classes (people, products) and judged on pairs, of classes that were not in the training where
the splits say so; or from a table of pairs.

Losses, all over the batches of all processes together:

- softmax: every picture is asked which of the others is of its class (Khosla et al. 2020, supervised contrastive,
  equation 2; with a table of pairs it is the in-batch softmax in both directions).
- triplet: hardest positive and negative of each picture (Hermans et al. 2017, "batch hard"), hinge with a margin.
- contrastive: squared distance of the same, hinge of the different (Hadsell et al. 2006, equation 4).

On features that stay as they are (regime features) the last layer needs no steps: it divides by the deviations within
classes (Hatch, Kajarekar and Stolcke 2006, "Within-class covariance normalization for SVM-based speaker recognition"),
so that what changes from picture to picture of one person counts less than what tells people apart.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from neocog.charts import line_chart
from neocog.errors import DataError, UsageError
from neocog.page import Html, paragraph
from neocog.tasks.answer import Answer, Claim
from neocog.tasks.at_once import Arrays, FitsAtOnce
from neocog.tasks.logistic import few_threads
from neocog.tasks.measures import auroc
from neocog.tasks.task import Batch, Losses, Section, Seen, Source, Targets, Task, Warp, register
from neocog.tasks.together import all_rows

LOSSES = ("softmax", "triplet", "contrastive")
_EACH = 4  # pictures of a class in a batch
_PAIRS = 200_000  # pairs that are looked at; more tell nothing more
_ROWS = 1000  # pictures that are compared with all others at once


@dataclass(frozen=True, slots=True)
class Vector(Answer):
    """Where a picture lies: `vector` float32 (D,), of length 1. The cosine of two says how alike they are.

    `same` is the cosine from which on two pictures are called the same (chosen on the validation pairs).
    """

    vector: tuple[float, ...] = ()
    same: float = 0.0

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
class Match(FitsAtOnce, Task):
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
    fit = "pad"  # who someone is, or who signed, also stands at the edges
    whole_batch = True
    finer = True
    fits_mirrored = True
    head_judge = "equal error rate"
    views_back = True
    variants = ("match-captions", "match-pairs", "match-texts")
    answer = Vector
    choices = {"loss": LOSSES}
    kept = ("same",)
    options = {"dimensions": 256, "loss": "softmax", "margin": 0.3, "scale": 16.0}

    def __init__(self, same: float = 0.5, **options: Any) -> None:
        super().__init__(**options)
        self.dimensions, self.margin, self.scale = (self.how[name] for name in ("dimensions", "margin", "scale"))
        self.same = same

    @classmethod
    def plan(cls, source: Source, rows: np.ndarray, settings: Mapping[str, Any]) -> Match:
        counts = np.bincount(source.labels[rows])
        if (counts > 1).sum() < 2:
            raise DataError(
                f"{source.name} has {(counts > 1).sum()} classes with two pictures or more; twins need at least two "
                "classes, each with at least two pictures"
            )
        return cls(**cls.chosen(settings))

    @classmethod
    def groups(cls, source: Source) -> np.ndarray:
        return source.labels  # judged on classes that were not seen in training

    @classmethod
    def support(cls, source: Source, rows: np.ndarray) -> tuple[np.ndarray, str]:
        return np.bincount(source.labels[rows]), "class"

    @property
    def outputs(self) -> int:
        return self.dimensions

    def fit_head(
        self, x: np.ndarray, targets: Arrays, strengths: Sequence[float], kind: str = ""
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Layers after which the covariance within classes is the identity, whatever the loss.

        `strengths`: shares of the mean variance within classes that are added to each direction's own. Of more
        directions than `dimensions` those are kept in which the pictures then differ most.
        """
        wide = x.shape[1] > len(x)
        with few_threads(x.size * min(x.shape)):
            values, vectors = np.linalg.eigh(x @ x.T if wide else x.T @ x)
            there = values > 1e-6 * values[-1]
            basis = x.T @ vectors[:, there] / np.sqrt(values[there]) if wide else vectors[:, there]  # (D, R)
            z = x @ basis
            _, code, count = np.unique(targets["label"], return_inverse=True, return_counts=True)
            centre = np.zeros((len(count), z.shape[1]), z.dtype)
            np.add.at(centre, code, z)
            within = z - (centre / count[:, None])[code]
            spread, turn = np.linalg.eigh(within.T @ within)
            basis, z = basis @ turn, z @ turn
            spread = spread.clip(min=0)
            for strength in strengths:
                scale = 1 / np.sqrt(spread + max(strength * spread.mean(), 1e-9 * values[-1]))
                kept = np.diag(scale)
                if len(scale) > self.dimensions:
                    kept = kept @ np.linalg.eigh((z * scale).T @ (z * scale))[1][:, -self.dimensions :]
                weight = np.zeros((self.dimensions, x.shape[1]))
                weight[: kept.shape[1]] = (basis @ kept).T * math.sqrt(len(x))
                yield weight, np.zeros(self.dimensions)

    def learnable(self, targets: Arrays) -> bool:
        return bool((np.unique(targets["label"], return_counts=True)[1] > 1).any())

    def head_loss(self, seen: Seen) -> float:
        """The loss compares the pictures of a batch and depends on which they are; so the goal is the judge."""
        return float(self.figures(seen)["eer"])

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
        if self.how["loss"] == "softmax":
            logits = (self.scale * cosines).masked_fill(own, -math.inf)
            chance = logits - logits.logsumexp(1, keepdim=True)
            loss = -(chance.masked_fill(~same, 0.0).sum(1) / same.sum(1).clamp(min=1))[asked].mean()
        elif self.how["loss"] == "triplet":
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
        vectors, labels = _of_length_1(seen["vectors"]), seen["labels"]
        found: dict[str, list[Any]] = {"recall_at_1": [], "recall_at_5": [], "loss": []}
        for first in range(0, len(labels), _ROWS):
            rows = np.arange(first, min(first + _ROWS, len(labels)))
            cosines, same = vectors[rows] @ vectors.T, labels[rows, None] == labels[None]
            cosines[rows - first, rows], same[rows - first, rows] = -1e9, False
            asked = same.any(1)
            cosines, same = cosines[asked], same[asked]
            nearest = np.take_along_axis(same, np.argsort(-cosines, axis=1, kind="stable")[:, :5], 1)
            found["recall_at_1"].append(nearest[:, 0])
            found["recall_at_5"].append(nearest.any(1))
            log_p = self.scale * cosines
            log_p -= np.logaddexp.reduce(log_p, axis=1, keepdims=True)
            found["loss"].append(-np.where(same, log_p, 0).sum(1) / same.sum(1))
        each = {name: np.concatenate(parts) for name, parts in found.items()}
        scores, positive = _pairs(vectors, labels)
        return {
            "n": len(labels),
            **verification(scores, positive),
            "auc": auroc(scores, positive),
            "pairs": len(scores),
            **{name: float(values.mean()) if len(values) else math.nan for name, values in each.items()},
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
        scores, same = _pairs(_of_length_1(seen["vectors"]), seen["labels"])
        edges = np.linspace(float(scores.min(initial=-0.2)), 1.0, 41)
        middle = (edges[1:] + edges[:-1]) / 2
        shares = {
            f"{name} ({part.sum():,} pairs)": list(
                zip(middle.tolist(), (np.histogram(scores[part], edges)[0] / max(1, part.sum())).tolist(), strict=True)
            )
            for name, part in (("same class", same), ("different classes", ~same))
        }
        return [Section("Verification", Html(paragraph(line) + line_chart(shares, x="cosine", y="share of the pairs")))]

    def answers(self, outputs: Tensor, batch: Batch, keys: Sequence[str], top: int = 5) -> list[Answer]:
        rows = F.normalize(outputs, dim=1).cpu().tolist()
        return [Vector(key, tuple(row), self.same) for key, row in zip(keys, rows, strict=True)]

    claims = "nothing; it needs the picture to compare with"

    def claim(self, outputs: Tensor, batch: Batch, what: str | None = None, other: Any = None) -> Claim:
        if other is None:
            raise UsageError("the task match compares two pictures; give the other one, as in --with OTHER.jpg")
        towards = F.normalize(other[0].detach(), dim=0)
        return Claim("the same as the other picture", lambda out: F.normalize(out, dim=1) @ towards)

    reading = "`output` (B, D) is a vector of length 1; two pictures show the same from a cosine of `same` on."


def _of_length_1(vectors: np.ndarray) -> np.ndarray:
    """float64 (N, D)."""
    vectors = vectors.astype(np.float64)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True).clip(1e-9)


def _pairs(vectors: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Cosines of pairs of vectors of length 1, and which are of one class.

    All pairs, or `_PAIRS` by chance, half of them of one class: among many classes hardly any other would be.
    """
    n, g = len(labels), np.random.default_rng(0)
    if n * (n - 1) // 2 <= _PAIRS:
        first, second = np.triu_indices(n, 1)
    else:
        first, step = g.integers(n, size=(2, _PAIRS))
        second = (first + 1 + step % (n - 1)) % n
        order = np.argsort(labels, kind="stable")
        _, begin, count = np.unique(labels[order], return_index=True, return_counts=True)
        code = np.searchsorted(labels[order][begin], labels)
        rank = np.empty(n, np.int64)
        rank[order] = np.arange(n) - np.repeat(begin, count)
        begin, count = begin[code[first]], count[code[first]]
        other = order[begin + (rank[first] + 1 + step % (count - 1).clip(1)) % count]
        wanted = (np.arange(_PAIRS) < _PAIRS // 2) & (count > 1)
        second = np.where(wanted, other, second)
    cosines = [(vectors[a] * vectors[b]).sum(1) for a, b in zip(_parts(first), _parts(second), strict=True)]
    return np.concatenate([np.zeros(0), *cosines]), labels[first] == labels[second]


def _parts(rows: np.ndarray) -> list[np.ndarray]:
    return np.array_split(rows, 1 + len(rows) // 10_000)


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
