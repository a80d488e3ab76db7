"""One label for each picture: cross-entropy over classes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from neocog.errors import DataError, UsageError
from neocog.tasks import label_report
from neocog.tasks.answer import Answer, Claim, which
from neocog.tasks.at_once import Arrays, FitsAtOnce
from neocog.tasks.last_layers import KINDS, Layers, label_layers
from neocog.tasks.measures import cross_entropy, evaluate_logits, fit_temperature, softmax, wilson
from neocog.tasks.task import Batch, Losses, Section, Seen, Source, Targets, Task, Warp, register

IGNORED = -100  # PyTorch's label for what has no loss
_UNBALANCED = 2.0  # the largest class over the smallest from which on classes are weighted
_KEPT = ("n", "accuracy", "accuracy_interval", "top5_accuracy", "macro_f1", "loss", "ece")


@dataclass(frozen=True, slots=True)
class Prediction(Answer):
    """A net's answer for one picture. `problem` is the reason if it could not be read; the rest is empty then.

    `probability` is calibrated on the validation pictures. `unknown` is true for a picture unlike the training data:
    its `strangeness`, a distance in feature space, is beyond what 95 % of the validation pictures have.
    """

    label: str = ""
    probability: float = 0.0
    top: tuple[tuple[str, float], ...] = ()
    unknown: bool = False
    strangeness: float = 0.0

    def row(self) -> dict[str, Any]:
        """An unknown picture has no label; its guesses are in ``label_1`` and so on."""
        guesses = {
            name: value
            for k, (label, p) in enumerate(self.top, 1)
            for name, value in ((f"label_{k}", label), (f"probability_{k}", p))
        }
        return {**self._said(), "unknown": self.unknown, "strangeness": self.strangeness, **guesses}

    def to_json(self) -> dict[str, Any]:
        return {
            **self._said(),
            "unknown": self.unknown,
            "strangeness": self.strangeness,
            "top": [{"label": name, "probability": p} for name, p in self.top],
        }

    def _said(self) -> dict[str, Any]:
        silent = self.unknown or self.problem is not None
        return {"label": None if silent else self.label, "probability": None if silent else self.probability}

    def text(self) -> str:
        first = "unknown" if self.unknown else f"{self.label} {self.probability:.1%}"
        others = ", ".join(f"{name} {p:.1%}" for name, p in self.top[0 if self.unknown else 1 :])
        return f"{first} ({others})" if others else first

    def tags(self) -> tuple[tuple[str, float], ...]:
        return () if self.unknown else self.top

    def judged(self, strangeness: float, threshold: float) -> Prediction:
        """The same, with the distance to the training data and what follows from it."""
        return replace(self, strangeness=strangeness, unknown=strangeness > threshold)


@register
class Label(FitsAtOnce, Task):
    """Cross-entropy over classes.

    Args:
        classes: names, in the order of the outputs.
        smoothing: label smoothing (Szegedy et al. 2015, section 7).
        weights: (K,), how much a picture of each class counts; None: all the same.
        sampling: (K,), how often a picture of each class is drawn; None: each once in an epoch.
        temperature: logits are divided by this before the softmax.
    """

    name = "label"
    about = "one class for each picture, text, sound or clip"
    inputs = ()
    needs = {"label": "category"}
    answer = Prediction
    kept = ("classes", "smoothing", "weights", "sampling", "temperature")
    mixes = True
    head_kinds = KINDS
    head_judge = "log loss"
    knows_strangers = True
    classifies = True

    def __init__(
        self,
        classes: Sequence[str],
        smoothing: float = 0.0,
        weights: Sequence[float] | None = None,
        sampling: Sequence[float] | None = None,
        temperature: float = 1.0,
        notes: Sequence[str] = (),
    ) -> None:
        super().__init__()
        self.classes, self.smoothing, self.temperature = tuple(classes), float(smoothing), float(temperature)
        if not 0 < self.temperature < math.inf:
            raise ValueError(f"the temperature is {temperature} instead of a number above 0")
        self.weights = None if weights is None else torch.tensor(list(weights), dtype=torch.float32)
        self.sampling = None if sampling is None else torch.tensor(list(sampling), dtype=torch.float32)
        self.notes = tuple(notes)

    @classmethod
    def check(cls, source: Source) -> None:
        if len(source.classes) < 2:
            raise DataError(
                f"{source.name} has one class, {source.classes[0]!r}; expected at least two, such as a folder for each"
            )

    @classmethod
    def plan(cls, source: Source, rows: np.ndarray, settings: Mapping[str, Any]) -> Label:
        how, smoothing = settings.get("balance", "auto"), float(settings.get("label_smoothing", 0.0))
        if how not in ("auto", "weights", "sampling", "none"):
            raise UsageError(f"unknown balance {how!r}; expected 'auto', 'weights', 'sampling' or 'none'")
        counts = np.bincount(source.labels[rows], minlength=len(source.classes))
        there = counts[counts > 0]
        uneven = len(there) > 1 and there.max() / there.min() >= _UNBALANCED
        if how == "sampling":
            drawn = balance(counts).tolist()
            return cls(source.classes, smoothing, sampling=drawn, notes=["rare classes are drawn more often"])
        if how == "weights" or (how == "auto" and uneven):
            note = (
                f"the classes are unbalanced ({there.max():,} pictures against {there.min():,}), so rare ones weigh "
                "more in the loss (--set balance=none turns this off, balance=sampling draws them more often)"
            )
            return cls(source.classes, smoothing, balance(counts).tolist(), notes=[note] if uneven else [])
        return cls(source.classes, smoothing)

    @classmethod
    def strata(cls, source: Source) -> np.ndarray:
        return source.labels

    @classmethod
    def support(cls, source: Source, rows: np.ndarray) -> tuple[np.ndarray, str]:
        return np.bincount(source.labels[rows], minlength=len(source.classes)), "class"

    def fit_head(self, x: np.ndarray, targets: Arrays, strengths: Sequence[float], kind: str = "") -> Layers:
        labels = targets["label"]
        counts = np.ones(len(labels)) if self.weights is None else self.weights.double().numpy()[labels]
        return label_layers(kind or "softmax", x, labels, len(self.classes), counts / counts.mean(), strengths)

    def learnable(self, targets: Arrays) -> bool:
        return len(np.unique(targets["label"])) > 1

    def head_loss(self, seen: Seen) -> float:
        """Less noisy than the accuracy; after temperature, because a strong pull makes logits small, not wrong."""
        return cross_entropy(seen["logits"], seen["labels"], fit_temperature(seen["logits"], seen["labels"]))

    def at_least(self, low: float, high: float, value: float, n: int) -> tuple[float, float]:
        """Never narrower than Wilson's interval, and within 0 and 1."""
        least, most = wilson(round(value * n), n)
        return max(0.0, min(low, least)), min(1.0, max(high, most))

    @property
    def outputs(self) -> int:
        return len(self.classes)

    @property
    def chance(self) -> int:
        return len(self.classes)

    def collate(self, values: dict[str, Any], warp: Warp | None, valid: Tensor) -> Targets:
        labels = values["label"]
        return {"label": labels.masked_fill(~valid | (labels < 0), IGNORED)}

    def order(self, columns: Mapping[str, Any], n: int, batch: int, g: torch.Generator) -> Tensor | None:
        if self.sampling is None:
            return None
        drawn = self.sampling[torch.from_numpy(columns["label"].codes.astype(np.int64))]
        return torch.multinomial(drawn, n, replacement=True, generator=g)

    def losses(self, outputs: Tensor, batch: Batch) -> Losses:
        y = batch.targets["label"]
        loss = self._one(outputs, y)
        if batch.mix is not None:
            share = batch.mix.share
            loss = share * loss + (1.0 - share) * self._one(outputs, y[batch.mix.partner])
        right = (outputs.detach().argmax(1) == y).sum()
        return Losses({"loss": loss.sum() / len(y)}, len(y), {"accuracy": right})

    def _one(self, outputs: Tensor, targets: Tensor) -> Tensor:
        weights = None if self.weights is None else self.weights.to(outputs.device)
        return F.cross_entropy(
            outputs, targets, weight=weights, label_smoothing=self.smoothing, ignore_index=IGNORED, reduction="none"
        )

    def observe(self, outputs: Tensor, batch: Batch) -> dict[str, Any]:
        return {"rows": batch.rows, "logits": outputs, "labels": batch.targets["label"]}

    def figures(self, seen: Seen) -> dict[str, Any]:
        full = self.full(seen)
        there = sum(row["support"] > 0 for row in full.get("per_class", ()))
        return {**{k: full[k] for k in _KEPT if k in full}, "classes": there}

    def full(self, seen: Seen, temperature: float | None = None) -> dict[str, Any]:
        """Every figure of `neocog.tasks.measures.evaluate_logits`."""
        if not len(seen.get("labels", ())) or not np.isfinite(seen["logits"]).all():
            return {"n": 0, "accuracy": float("nan"), "loss": float("nan")}
        temperature = self.temperature if temperature is None else temperature
        return evaluate_logits(seen["logits"], seen["labels"], self.classes, temperature)

    def error(self, figures: Mapping[str, Any]) -> float:
        n, share = figures["n"], figures["accuracy"]
        return share - wilson(round(share * n), n, z=1.0)[0] if n else 0.0

    def calibrate(self, seen: Seen) -> None:
        self.temperature = fit_temperature(seen["logits"], seen["labels"]) if len(seen.get("labels", ())) else 1.0

    def headline(self, figures: Mapping[str, Any]) -> str:
        low, high = figures["accuracy_interval"]
        line = (
            f"accuracy {100 * figures['accuracy']:.2f} % (95 % interval {100 * low:.1f} to {100 * high:.1f}, "
            f"n = {figures['n']:,}), macro-F1 {figures['macro_f1']:.4f}"
        )
        there, of = figures.get("classes", len(self.classes)), len(self.classes)
        return line if there >= of else f"{line} ({there} of {of} classes have pictures)"

    def shown(self, value: float) -> str:
        return f"{value:.2%}"

    def result(self, seen: Seen, figures: Mapping[str, Any]) -> tuple[str, dict[str, str]]:
        return label_report.result(self.full(seen))

    def sections(self, seen: Seen, figures: Mapping[str, Any]) -> list[Section]:
        return label_report.sections(seen, self.classes, self.full(seen, 1.0), self.full(seen))

    def answers(self, outputs: Tensor, batch: Batch, keys: Sequence[str], top: int = 5) -> list[Answer]:
        probabilities = softmax(outputs.cpu().numpy(), self.temperature)
        found: list[Answer] = []
        for key, p in zip(keys, probabilities, strict=True):
            best = np.argsort(-p, kind="stable")[:top]
            guesses = tuple((self.classes[k], float(p[k])) for k in best)
            found.append(Prediction(key, guesses[0][0], guesses[0][1], guesses))
        return found

    claims = "a class"

    def claim(self, outputs: Tensor, batch: Batch, what: str | None = None, other: Any = None) -> Claim:
        k = which(what, self.classes, "class", int(outputs[0].argmax()))
        return Claim(self.classes[k], lambda out: out[:, k])

    reading = "`output` are logits of the classes; `probabilities` is their softmax after division by the temperature."

    def readings(self, outputs: Tensor, size: tuple[int, int]) -> dict[str, Tensor]:
        return {"probabilities": (outputs / self.temperature).softmax(1)}


def balance(counts: np.ndarray, most: float = 20.0) -> Tensor:
    """Weights of classes from their numbers of training pictures (K,): as n / (K n_k), the mean over pictures is 1.

    A class without pictures gets 1; no class weighs more than `most` times the lightest.
    """
    counts = np.asarray(counts, dtype=np.float64)
    there = counts > 0
    weights = np.ones(len(counts))
    weights[there] = counts.sum() / (there.sum() * counts[there])
    weights = np.minimum(weights, most * weights[there].min())
    weights /= (weights * counts).sum() / counts.sum()
    return torch.tensor(weights, dtype=torch.float32)
