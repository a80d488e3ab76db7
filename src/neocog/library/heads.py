"""A concept learned from a few vectors: logistic regression, its calibration, and how common the concept is.

What is special here is that nearly all of a library is unlabelled. Its pictures stand in for negatives, though some
of them show the concept; so the most convincing of them are left out of training, and the share of the concept among
all pictures is estimated rather than taken from the counts of a training set that was put together by hand.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from neocog.library.calibration import Line, fit_line
from neocog.tasks.logistic import logistic as classes_apart

PENALTY = 0.1  # of the mean loss, on vectors of squared length D about the library's mean; 0.01 to 1 differ little
FOLDS = 5
_MOST = 2000  # pictures of the library that are learned from
SHARE_MOST = 0.9
USUAL_SHARE = 0.03  # of a library shows what a word names: the median of 100 caption nouns of Flickr8k is 0.02


@dataclass(frozen=True)
class Head:
    """A taught concept: ``probability = line(vectors @ weights + bias)``, for vectors of length 1.

    `share`: estimated share of the library that shows the concept. `quality`: share of pairs (example, other picture)
    that are ranked right when the example was not trained on (AUROC); nan for fewer than 3 examples.
    """

    weights: np.ndarray  # float32 (D,)
    bias: float
    line: Line
    share: float
    quality: float

    def __call__(self, vectors: np.ndarray) -> np.ndarray:
        """Return probabilities float32 (N,) for vectors (N, D) of length 1, of any precision."""
        return self.line(_scores(vectors, self.weights, self.bias))

    def card(self) -> dict[str, Any]:
        """What is kept, JSON-able; `from_card` is the way back."""
        return {
            "weights": [float(f"{w:.6g}") for w in self.weights],
            "bias": self.bias,
            "line": [self.line.slope, self.line.shift, self.line.n],
            "share": self.share,
            "quality": None if np.isnan(self.quality) else self.quality,
        }

    @staticmethod
    def from_card(card: dict[str, Any]) -> Head:
        """Return the head that `card` described."""
        quality = float("nan") if card["quality"] is None else card["quality"]
        weights = np.asarray(card["weights"], np.float32)
        return Head(weights, card["bias"], Line(*card["line"]), card["share"], quality)


def learn(examples: np.ndarray, negatives: np.ndarray, library: np.ndarray) -> Head:
    """Return a head for vectors of length 1: `examples` (P, D), sure `negatives` (Q, D), and the library (N, D).

    `library` are unlabelled pictures; `_MOST` of them are used for training. Either they or the sure
    negatives may be missing, not both.
    """
    some = library
    if len(library) > _MOST:
        some = library[np.sort(np.random.default_rng(0).choice(len(library), _MOST, replace=False))]
    examples, negatives, some = (np.asarray(a, np.float32) for a in (examples, negatives, some))
    everything = some if len(some) else np.concatenate([examples, negatives])
    centre = everything.mean(axis=0)
    spread = float(np.sqrt(((everything - centre) ** 2).sum(axis=1).mean())) or 1.0
    scale = float(np.sqrt(examples.shape[1])) / spread

    last: list[np.ndarray] = []  # the next fit differs little from the one before it, so it starts there

    def fit(yes: np.ndarray, no: np.ndarray, unknown: np.ndarray) -> tuple[np.ndarray, float]:
        x = (np.concatenate([yes, no, unknown]) - centre) * scale
        weights, bias = logistic(x, *_balance(len(yes), len(no), len(unknown)), start=last[0] if last else None)
        last[:] = [np.append(weights, bias)]
        return weights * scale, bias - float(centre @ weights) * scale

    weights, bias = fit(examples, negatives, some)
    suspects = np.zeros(len(some), bool)
    if len(some) and len(examples) > 2:
        held = _held_out(examples, negatives, some, fit)[: len(examples)]
        # what scores like the better half of the examples probably shows the concept: no negative to learn from
        suspects = some @ weights + bias > np.median(held)
        if not suspects.all():
            left = some[~suspects]
            if len(library) > _MOST:
                left = np.concatenate([left, _hard(library, weights, bias, float(np.median(held)), _MOST // 10)])
            weights, bias = fit(examples, negatives, left)
    line, share, quality = _calibrated(examples, negatives, some, fit, weights, bias)
    return Head(weights.astype(np.float32), float(bias), line, share, quality)


def logistic(
    x: np.ndarray, right: np.ndarray, weight: np.ndarray, penalty: float = PENALTY, start: np.ndarray | None = None
) -> tuple[np.ndarray, float]:
    """Return weights (D,) and bias of logistic regression: mean weighted loss + penalty / 2 |weights|^2.

    `start` (D + 1,): weights and bias to begin with; the end is the same.
    """
    # as two classes of opposite weights, each half as long: together a quarter of the square, twice
    half = None if start is None else np.stack((-start, start)) / 2
    w, b = classes_apart(
        np.asarray(x, np.float32),
        right.astype(np.int64),
        2,
        weight,
        2 * penalty,
        start=None if half is None else (half[:, :-1], half[:, -1]),
        tolerance=1e-4,
    )
    return (w[1] - w[0]).astype(np.float64), float(b[1] - b[0])


def share_of(good: np.ndarray, library: np.ndarray) -> float:
    """Return the share of a concept among all pictures, from held-out scores of examples (P,) and of pictures (N,).

    If a threshold is reached by a share r of what shows the concept and by a share a of all pictures, the concept's
    share is at most a / r; a low one of these bounds is taken (Blanchard, Lee and Scott 2010, "Semi-supervised novelty
    detection", take the lowest, which for few examples is low by chance). r is that of a normal distribution, and
    thresholds from one deviation below its middle up to it are asked.
    """
    count, spread = len(good), float(np.std(library))
    # of a few examples the deviation is hardly known: three more are imagined, as different as the library's pictures
    deviation = math.sqrt((count * float(np.var(good)) + 3 * spread**2) / (count + 3)) or 1.0
    steps = np.linspace(-1, 0, 25)
    reached = np.array([0.5 * math.erfc(step / math.sqrt(2)) for step in steps])
    thresholds = float(np.median(good)) + steps * deviation
    above = len(library) - np.searchsorted(np.sort(library), thresholds, side="left")
    bounds = (above + 0.5) / (len(library) + 1) / reached
    return float(np.clip(np.quantile(bounds, 0.3), 1 / (len(library) + 1), SHARE_MOST))


def _balance(yes: int, no: int, unknown: int) -> tuple[np.ndarray, np.ndarray]:
    """(right, weight): half the weight on examples; sure negatives have at least a third of the other half."""
    right = np.arange(yes + no + unknown) < yes
    sure = 0.0 if not no else 1.0 if not unknown else max(1 / 3, no / (no + unknown))
    parts = [(yes, 1.0), (no, sure), (unknown, 1.0 - sure)]
    return right, np.concatenate([np.full(n, share / max(n, 1)) for n, share in parts])


def _scores(vectors: np.ndarray, weights: np.ndarray, bias: float) -> np.ndarray:
    w = weights.astype(np.float32)
    parts = [vectors[start : start + 8192].astype(np.float32) @ w for start in range(0, len(vectors), 8192)]
    return (np.concatenate(parts) if parts else np.zeros(0)) + bias


def _hard(library: np.ndarray, weights: np.ndarray, bias: float, cut: float, most: int) -> np.ndarray:
    """The library's pictures that come nearest to the concept without reaching `cut`."""
    scores = _scores(library, weights, bias)
    below = np.flatnonzero(scores < cut)
    chosen = below[np.argsort(-scores[below], kind="stable")[:most]]
    return library[np.sort(chosen)].astype(np.float32)


def _held_out(examples: np.ndarray, negatives: np.ndarray, some: np.ndarray, fit: Any) -> np.ndarray:
    """Scores of examples, negatives and library, each from a fit that did not see it."""
    sizes = (len(examples), len(negatives), len(some))
    out = [np.zeros(n) for n in sizes]
    for k in range(min(FOLDS, len(examples))):
        held = [np.arange(n) % min(FOLDS, len(examples)) == k for n in sizes]
        if any(n and h.all() for n, h in zip(sizes, held, strict=True)):
            held = [h if not h.all() else np.zeros_like(h) for h in held]
        weights, bias = fit(*(a[~h] for a, h in zip((examples, negatives, some), held, strict=True)))
        for values, array, h in zip(out, (examples, negatives, some), held, strict=True):
            values[h] = array[h] @ weights + bias
    return np.concatenate(out)


def _calibrated(
    examples: np.ndarray, negatives: np.ndarray, some: np.ndarray, fit: Any, weights: np.ndarray, bias: float
) -> tuple[Line, float, float]:
    """(line from score to probability, share of the library, AUROC), from scores of pictures that were held out."""
    p, q = len(examples), len(negatives)
    if p < 3 or q + len(some) < 3:
        # too few to hold any out: expect an example that was not trained on to score half as high above the others
        seen = float((examples @ weights + bias).mean())
        others = np.concatenate([some, negatives]) @ weights + bias
        low = float(others.mean()) if len(others) else seen - 2
        slope = 6 / max(seen - low, 1e-3)
        line = Line(slope, -slope * (low + 0.5 * (seen - low)), p)
        return line, float(np.clip(line(others).mean(), 0, SHARE_MOST)) if len(others) else 0.5, float("nan")
    scores = _held_out(examples, negatives, some, fit)
    unlabelled = len(some) >= 20
    good, against = scores[:p], scores[p + q :] if unlabelled else scores[p:]
    both = np.concatenate([good, against])
    order = np.argsort(np.argsort(both, kind="stable"), kind="stable")[:p]
    quality = float((order.sum() - p * (p - 1) / 2) / (p * len(against)))
    right = np.arange(len(both)) < p
    if not unlabelled:
        return _rising(fit_line(both, right), good, against), p / len(both), quality
    # Against unlabelled pictures (Elkan and Noto 2008): examples weigh as much as the concept does in the library, so
    # the odds of "example" against "any picture" are themselves the probability of the concept.
    # The bound is loose where the concept is hard to tell, and uncertain where there are few examples; then it is
    # drawn towards a usual share.
    bound = share_of(good, against)
    most = min(bound, 0.3)
    apart = (quality - most / 2) / (1 - most)  # the AUROC against pictures without the concept alone
    sure = float(np.clip(2 * apart - 1, 0, 1))
    sure *= p / (p + 10 * (1 - sure))
    share = bound**sure * USUAL_SHARE ** (1 - sure)
    first = _rising(fit_line(both, right, np.where(right, share / p, 1 / len(against))), good, against)
    soft = np.minimum(np.exp(np.minimum(first.slope * against + first.shift, 0)), 0.98)
    twice = np.concatenate([against, against])
    line = fit_line(twice, np.arange(len(twice)) < len(against), np.concatenate([soft, 1 - soft]))
    return _rising(line, good, against), share, quality


def _rising(line: Line, good: np.ndarray, against: np.ndarray) -> Line:
    """The line, or one that hardly rises where it would fall: the order of pictures must stay that of the scores."""
    if line.slope > 0:
        return Line(line.slope, line.shift, len(good))
    spread = float(np.std(against)) or 1.0
    middle = float(line(against).mean())
    slope = 0.1 / spread
    return Line(slope, float(np.log(middle / (1 - middle))) - slope * float(against.mean()), len(good))
