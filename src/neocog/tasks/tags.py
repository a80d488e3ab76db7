"""Several labels for each picture, or none: a yes or no for every tag; unknown tags are ignored.

Losses, each a sum over the known tags of a picture:

- bce: binary cross-entropy of a sigmoid.
- asymmetric: cross-entropy in which easy absences count little or nothing (Ridnik et al. 2021, equation 7, with the
  paper's exponents 0 and 4 and margin 0.05), for many tags of which each picture has few.
- squared: half the squared difference of a number for each tag to 1 or 0.

A net without an opinion says how frequent each tag is (`prior` is added to its outputs), so that the many absences of
rare tags do not flood the first steps (Lin et al. 2017, section 4.1).
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

from neocog.data.from_texts import with_tags
from neocog.errors import DataError, UsageError
from neocog.page import Html, paragraph, table
from neocog.records import counted, some_of
from neocog.tasks.answer import Answer, Claim, which
from neocog.tasks.at_once import Arrays, FitsAtOnce
from neocog.tasks.canvas import MISSED, PLAIN, RIGHT, WRONG, captioned
from neocog.tasks.last_layers import Layers, logistics, ridge
from neocog.tasks.tag_measures import asymmetric, best_threshold, counts, f1_scores, per_tag_ap, platt
from neocog.tasks.task import Batch, LabelSets, Losses, Section, Seen, Source, Targets, Task, Warp, register

LOSSES = ("bce", "asymmetric", "squared")
_MOST = 10.0  # a picture with a tag counts at most so much more than one without it
_FEW = 5  # validation pictures with (or without) a tag below which it has no threshold of its own
_LISTED = 200  # tags in the table of a report


@dataclass(frozen=True, slots=True)
class Tagged(Answer):
    """The tags of one picture.

    Attributes:
        found: tags and their calibrated probabilities, the most probable first, of those above their thresholds.
        top: the most probable tags, whether found or not.
        names: all tags that the net knows.
    """

    found: tuple[tuple[str, float], ...] = ()
    top: tuple[tuple[str, float], ...] = ()
    names: tuple[str, ...] = ()

    def row(self) -> dict[str, Any]:
        return {"tags": "; ".join(name for name, _ in self.found)}

    def to_json(self) -> dict[str, Any]:
        return {part: [{"tag": name, "probability": p} for name, p in getattr(self, part)] for part in ("found", "top")}

    def draw(self, picture: np.ndarray, truth: Any = None) -> np.ndarray:
        """The tags below the picture; with the truth, right ones are green, wrong ones red, missed ones orange."""
        known: dict[str, float] = {}
        if truth is not None:
            known = dict(zip(self.names, np.asarray(truth).tolist(), strict=True))
        colours = {1.0: RIGHT, 0.0: WRONG}
        words = [(f"{name} {p:.0%}", colours.get(known.get(name, -1.0), PLAIN)) for name, p in self.found]
        said = {name for name, _ in self.found}
        words += [(f"missed: {name}", MISSED) for name, there in known.items() if there == 1 and name not in said]
        return captioned(picture, words or [("no tag", PLAIN)])

    def tags(self) -> tuple[tuple[str, float], ...]:
        return self.found


@register
class Tags(FitsAtOnce, Task):
    """A yes or no for every tag.

    Args:
        classes: names of the tags, in the order of the outputs.
        loss: one of `LOSSES`.
        weights: (K,), how much more a picture that has a tag counts than one that has not; None: the same.
        prior: (K,), added to the outputs.
        scale, shift: logits are multiplied and shifted by these before the sigmoid (Platt 1999), after training.
        thresholds: (K,), probabilities from which on a picture has a tag; None: one half.
    """

    name = "tags"
    about = "several labels for each picture, text, sound or clip, or none"
    inputs = ()
    needs = {"tags": "categories"}
    goal = ("map", "max")
    figure = "mean average precision"
    mixes = True
    fits_mirrored = True
    answer = Tagged
    options = {"loss": "bce", "from_text": ""}
    choices = {"loss": LOSSES}
    kept = ("classes", "weights", "prior", "thresholds", "scale", "shift")

    def __init__(
        self,
        classes: Sequence[str],
        weights: Sequence[float] | None = None,
        prior: Sequence[float] | None = None,
        scale: float = 1.0,
        shift: float = 0.0,
        thresholds: Sequence[float] | None = None,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self.classes, self.loss, self.scale, self.shift = tuple(classes), self.how["loss"], float(scale), float(shift)
        self.weights = torch.ones(len(self.classes)) if weights is None else torch.tensor(list(weights))
        self.prior = torch.zeros(len(self.classes)) if prior is None else torch.tensor(list(prior))
        self.thresholds = np.full(len(self.classes), 0.5) if thresholds is None else np.array(thresholds, np.float64)

    @classmethod
    def completed(cls, source: Source, options: Mapping[str, Any], names: Sequence[str] = ()) -> Source:
        least = str(options.get("from_text", ""))
        return with_tags(source, least, names) if least else source

    @classmethod
    def plan(cls, source: Source, rows: np.ndarray, settings: Mapping[str, Any]) -> Tags:
        column: Any = source.columns["tags"]
        how = settings.get("balance", "auto")
        if how == "sampling":
            raise UsageError(
                "balance=sampling is for the task label: a picture has several tags; --set balance=weights lets rare "
                "tags count more"
            )
        yes, known = counts(column, rows)
        if not ((yes > 0) & (yes < known)).any():
            raise DataError(
                f"{source.name} has no tag that some training pictures have and others lack "
                f"({counted(len(column.names), 'tag')}, {counted(len(rows))}); the task tags needs at least one"
            )
        share = (yes + 0.5) / (known + 1)  # never 0 or 1
        loss, weights = settings.get("loss", "bce"), np.ones(len(yes))
        if loss == "squared" and how == "weights":
            raise UsageError(
                "balance=weights goes with the losses bce and asymmetric of the task tags, not with squared"
            )
        if how == "weights":  # which ranks pictures worse: asked for, not the default
            weights = np.clip((1 - share) / share, 1.0, _MOST)
        weighed = weights * share / (weights * share + 1 - share)  # what the weighted loss is least at
        prior = weighed if loss == "squared" else np.log(weighed / (1 - weighed))
        how = {name: settings.get(name, usual) for name, usual in cls.options.items()}
        made = cls(column.names, weights.round(4).tolist(), prior.round(4).tolist(), **how)
        if never := [name for name, n in zip(column.names, yes, strict=True) if n == 0]:
            made.notes += (f"no training picture has {counted(len(never), 'tag')}: {some_of(never, 5)}",)
        if (unknown := 1 - known.sum() / (len(rows) * len(known))) > 0:
            made.notes += (f"{unknown:.1%} of all pairs of picture and tag are unknown; they are ignored",)
        return made

    def to_json(self) -> dict[str, Any]:
        made = super().to_json()
        return made | {k: [round(v, 6) for v in made[k]] for k in ("weights", "prior", "thresholds")}

    @classmethod
    def strata(cls, source: Source) -> LabelSets | None:
        """All tags of each picture."""
        return getattr(source.columns["tags"], "sets", None)

    @property
    def outputs(self) -> int:
        return len(self.classes)

    @classmethod
    def support(cls, source: Source, rows: np.ndarray) -> tuple[np.ndarray, str]:
        return counts(source.columns["tags"], rows)[0], "tag"

    def fit_head(self, x: np.ndarray, targets: Arrays, strengths: Sequence[float], kind: str = "") -> Layers:
        """Logistic regression of each tag, with the weights of the loss; least squares where that is squared."""
        y, prior = targets["tags"].astype(np.float64), self.prior.double().numpy()
        each = np.where(y == 1, self.weights.double().numpy(), 1.0)
        squared = self.loss == "squared"
        made = ridge(x, y, np.ones(len(x)), strengths) if squared else logistics(x, y, y.shape[1], each, strengths)
        for weight, bias in made:
            yield weight, bias - prior

    # ---- a batch

    def collate(self, values: dict[str, Any], warp: Warp | None, valid: Tensor) -> Targets:
        made = torch.full((len(valid), len(self.classes)), math.nan)
        for b, row in enumerate(values["tags"]):
            if valid[b] and row is not None:
                made[b] = torch.from_numpy(row)
        return {"tags": made}

    def losses(self, outputs: Tensor, batch: Batch) -> Losses:
        y = batch.targets["tags"]
        total, known = self._summed(outputs, y)
        if batch.mix is not None:
            share, partner = batch.mix.share, batch.mix.partner
            other, more = self._summed(outputs, y[partner])
            total, known = share * total + (1 - share) * other, share * known + (1 - share) * more
        count = known / len(self.classes)  # a picture of which half of the tags are known is half a picture
        right = ((self._logits(outputs.detach()) > 0) == (y == 1))[~y.isnan()].sum() / len(self.classes)
        return Losses({"loss": total / count.clamp(min=1e-6)}, count, {"accuracy": right})

    def _summed(self, outputs: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """The loss summed over all that is known, and how much that is."""
        known = ~y.isnan()
        each = self._each(outputs, y.nan_to_num(0.0))
        return (each * known).sum(), known.sum()

    def _each(self, outputs: Tensor, y: Tensor) -> Tensor:
        """The loss of every picture and tag (B, K); `y` is 1 or 0."""
        z, weights = outputs + self.prior.to(outputs.device), self.weights.to(outputs.device)
        if self.loss == "bce":
            return F.binary_cross_entropy_with_logits(z, y, pos_weight=weights, reduction="none")
        if self.loss == "squared":
            return 0.5 * (z - y) ** 2
        return asymmetric(z, y, weights)

    def _logits(self, outputs: Any) -> Any:
        """Logits of the outputs, without what the weights of the loss add to them."""
        prior, weights = (v.to(outputs.device) for v in (self.prior, self.weights))
        z = outputs + prior
        # half of a squared loss is least at the probability; its logit there has a slope of 4
        return (4 * (z - 0.5) if self.loss == "squared" else z) - weights.log()

    def probabilities(self, outputs: np.ndarray) -> np.ndarray:
        """Calibrated probabilities (N, K) of outputs (N, K)."""
        z = self._logits(torch.from_numpy(np.asarray(outputs, np.float64)))
        return torch.sigmoid(self.scale * z + self.shift).numpy()

    # ---- figures

    def figures(self, seen: Seen) -> dict[str, Any]:
        if not len(seen.get("rows", ())):
            return {"n": 0, "map": math.nan, "loss": math.nan}
        y = seen["tags"]
        known, p = ~np.isnan(y), self.probabilities(seen["outputs"])
        yes = y == 1
        total, count = self._summed(torch.from_numpy(seen["outputs"]).double(), torch.from_numpy(y).double())
        precisions = per_tag_ap(p, y)
        f1, micro = f1_scores(p >= self.thresholds, y)
        there = yes.any(0)
        clipped = np.clip(p, 1e-7, 1 - 1e-7)
        likely = np.where(yes, np.log(clipped), np.log1p(-clipped))[known]
        return {
            "n": len(y),
            "map": float(precisions[there].mean()) if there.any() else math.nan,
            "macro_f1": float(f1[there].mean()) if there.any() else math.nan,
            "micro_f1": micro,
            "loss": float(total / count.clamp(min=1)) * len(self.classes),
            "log_loss": float(-likely.mean()) if known.any() else math.nan,
            "known": float(known.mean()),
            "tags": int(there.sum()),
            "per_tag": {name: float(v) for name, v in zip(self.classes, precisions, strict=True)},
        }

    def headline(self, figures: Mapping[str, Any]) -> str:
        line = (
            f"mean average precision {figures['map']:.4f}, macro-F1 {figures['macro_f1']:.4f}, micro-F1 "
            f"{figures['micro_f1']:.4f} (n = {figures['n']:,})"
        )
        there, of = figures["tags"], len(self.classes)
        return line if there == of else f"{line} ({there} of {of} tags have pictures)"

    def calibrate(self, seen: Seen) -> None:
        """Scale and shift of the logits, then the threshold of each tag at which its F1 is best on these pictures.

        A tag with fewer than five pictures that have it, or lack it, takes the threshold at which the F1 over all
        pictures and tags is best.
        """
        if not len(seen.get("rows", ())):
            return
        y = seen["tags"].ravel()
        known = ~np.isnan(y)
        if not 0 < (y[known] == 1).sum() < known.sum():
            return
        z = self._logits(torch.from_numpy(seen["outputs"].astype(np.float64))).numpy().ravel()
        self.scale, self.shift = platt(z[known], y[known] == 1)
        p = self.probabilities(seen["outputs"])
        shared = best_threshold(p.ravel()[known], y[known] == 1)
        for k in range(len(self.classes)):
            asked = ~np.isnan(seen["tags"][:, k])
            yes = seen["tags"][asked, k] == 1
            enough = min(yes.sum(), (~yes).sum()) >= _FEW
            self.thresholds[k] = round(best_threshold(p[asked, k], yes) if enough else shared, 6)

    # ---- the report

    def worst(self, seen: Seen) -> np.ndarray:
        """By the least probable truth: a tag that it has and was given little, or lacks and was given much."""
        y, p = seen["tags"], self.probabilities(seen["outputs"])
        truth = np.where(np.isnan(y), 1.0, np.where(y == 1, p, 1 - p))
        return seen["rows"][np.argsort(truth.min(1), kind="stable")]

    def caption(self, seen: Seen, row: int) -> str:
        at = int(np.flatnonzero(seen["rows"] == row)[0])
        y, found = seen["tags"][at], self.probabilities(seen["outputs"][at : at + 1])[0] >= self.thresholds
        right, wrong, missed = (int(v.sum()) for v in (found & (y == 1), found & (y == 0), ~found & (y == 1)))
        return f"{right} right, {wrong} wrong, {missed} missed"

    def sections(self, seen: Seen, figures: Mapping[str, Any]) -> list[Section]:
        y, p = seen["tags"], self.probabilities(seen["outputs"])
        said = p >= self.thresholds
        rows = []
        precisions = np.array([figures["per_tag"][name] for name in self.classes])
        order = np.argsort(precisions, kind="stable")  # nan, of tags without pictures, comes last
        for k in order[:_LISTED]:
            yes, no = y[:, k] == 1, y[:, k] == 0
            hits, n = (said[:, k] & yes).sum(), yes.sum()
            answered = hits + (said[:, k] & no).sum()
            rows.append(
                {
                    "tag": self.classes[k],
                    "pictures": f"{n:,}",
                    "of": f"{(yes | no).sum():,}",
                    "average precision": f"{precisions[k]:.3f}" if n else "-",
                    "precision": f"{hits / answered:.1%}" if answered else "-",
                    "recall": f"{hits / n:.1%}" if n else "-",
                    "threshold": f"{self.thresholds[k]:.3f}",
                }
            )
        line = "The tags with the lowest average precision first; precision and recall at each tag's threshold."
        if len(order) > _LISTED:
            line += f" The first {_LISTED} of {len(order):,}."
        if figures["known"] < 1:
            line += f" {1 - figures['known']:.1%} of all pairs of picture and tag are unknown; they are left out."
        body = paragraph(line) + table(rows, numeric=tuple(rows[0])[1:])
        return [Section("Tags", Html(body))]

    # ---- answers

    def answers(self, outputs: Tensor, batch: Batch, keys: Sequence[str], top: int = 5) -> list[Answer]:
        found: list[Answer] = []
        for key, row in zip(keys, self.probabilities(outputs.cpu().numpy()), strict=True):
            ranked = [(self.classes[k], float(row[k]), row[k] >= self.thresholds[k]) for k in np.argsort(-row)]
            said = tuple((name, p) for name, p, good in ranked if good)
            found.append(Tagged(key, said, tuple((name, p) for name, p, _ in ranked[:top]), self.classes))
        return found

    claims = "a tag"

    def claim(self, outputs: Tensor, batch: Batch, what: str | None = None, other: Any = None) -> Claim:
        chances = self.probabilities(outputs.detach().cpu().numpy())[0]
        k = which(what, self.classes, "tag", int((chances - self.thresholds).argmax()))
        return Claim(self.classes[k], lambda out: self._logits(out)[:, k])

    reading = "A tag is said where `probabilities` (one for each tag) reaches its threshold (`thresholds` of the task)."

    def readings(self, outputs: Tensor, size: tuple[int, int]) -> dict[str, Tensor]:
        return {"probabilities": torch.sigmoid(self.scale * self._logits(outputs) + self.shift)}
