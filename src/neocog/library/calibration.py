"""From raw scores to probabilities, so that a search can find nothing.

Each kind of evidence has its own straight line on the scale of log-odds (Platt 1999, "Probabilistic outputs for
support vector machines"): p = 1 / (1 + exp(-(slope x + shift))), where x is

* ``word``: the log-odds of the probability that one of a word's concepts is shown (their sum; they exclude each other);
* ``example``: the cosine to the example, less the mean cosine of random pairs of the library, over its deviation, so
  that one line serves nets whose vectors are spread differently (of runs on recordings the cosine itself, see
  `View.scale`); ``output``: the same for the net's probabilities;
* ``text``: the BM25 score, in 0..1.

A straight line keeps the order of pictures, and two numbers can be learned from few pictures; `calibrate` learns
them from a library whose pictures have labels, and `DEFAULTS` serve the others.

The classes of a run of your own are another matter: they are few, and exclude each other only among pictures like those
that the run was trained on, while a library has others, which the net must call something. So it is counted how many
pictures of a class the library has, by those that are at least as surely of it as the median of the run's own unseen
pictures of that class: they are half (the method "T50" of Forman 2008, "Quantifying counts and costs via
classification"). The log-odds of the class are then lowered until as many are expected, see `shown_in`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from neocog.library.store import Store
from neocog.library.view import OUTPUT, View, view_of
from neocog.tasks.logistic import logistic

KINDS = ("word", "example", "output", "text")

# A hit is shown from this probability on (for several parts: from their weighted geometric mean). Measured by
# bench/calibration.py (bench/results/calibration-*.json) with mobilenet_v1_075, on pictures that were not learned from:
# word: of the names that none of 100 ImageNet samples shows, 98.6 % find nothing; of the pictures that show another,
#   97 % are found, and 98 % of what is found is right. On 1,000 Flickr8k pictures, whose captions name not all that is
#   to be seen: 62 % and 87 %.
# example: of 820 Flickr8k pictures with a like (two shared caption nouns), 85 % find something besides themselves; of
#   39 pictures of animals that are not among them, 92 % find nothing. output: 90 % and 90 %.
THRESHOLDS = {"word": 0.4, "example": 0.12, "output": 0.14}
OWN_WORD = 0.5  # of the classes of a run
RUN_ON_SOUNDS = "run on recordings"  # where the constants of all such runs stand
# Of models for which another one is better. efficientnet_lite0 (500 Flickr8k dev pictures, 402 with a like, and 100
# samples): word, at 0.4: 98 % find nothing, 96 % are found, 97 % are right; on Flickr8k 65 % and 88 %. example: 92 %
# find something, 95 % of the 39 find nothing; output: 90 % and 97 %. Of recordings (bench/sounds.py search, people and
# kinds of noises that were not learned from): statistics of MFCCs, 98 of 100 find something, 98 % of the first ten hits
# are right, none of 240 noises finds anything; a run, 98 of 100, 97 %, and 9 of 240 do.
_OWN_THRESHOLDS = {
    "efficientnet_lite0": {"example": 0.1, "output": 0.1},
    "mfcc_statistics": {"example": 0.35},
    RUN_ON_SOUNDS: {"example": 0.86, "output": 0.81},
}
# A text that has the word is what was asked for, however little it is a sign of: always a hit, and left out by -word.
# So text is worth this much, and the rest of the way to 1 as its line says.
LEAST_TEXT = 0.55
# The probability of a word that was not understood, given that the rest of the query holds. Measured by
# bench/calibration.py: of the pictures whose captions have a word that the net knows, 0.15 have another word, which it
# does not know, of a caption that has both (Flickr8k, 41,624 pairs of the 6,000 training pictures; 0.15 on the 1,000 of
# the dev split).
UNKNOWN = 0.15
_FEWEST = 20  # pictures on each side from which a calibration is learned
_STEADY = 10  # pictures of a library that say as much of it as what is known of the run
_EDGE = 1e-6  # probabilities closer to 0 or 1 say nothing more; half precision ends there as well


@dataclass(frozen=True, slots=True)
class Line:
    """One calibration; `n` pictures (or pairs) it was learned from."""

    slope: float
    shift: float
    n: int = 0

    def __call__(self, x: np.ndarray) -> np.ndarray:
        """Return probabilities float32 for raw scores."""
        return sigmoid(self.slope * np.asarray(x, np.float32) + self.shift)


# Learned by bench/calibration.py with mobilenet_v1_075 on 1,500 of Flickr8k's training pictures and 100 ImageNet
# samples; they serve nets that were not measured, too. word: right if two captions have a word that is the query or
# lies under it (or the sample's class does). example, output: pairs of the Flickr8k pictures, right if they share two
# caption nouns. text: a word of a picture's first caption, right if another caption has it. n: (word, picture) or
# (picture, picture) pairs.
DEFAULTS = {
    "word": Line(0.587, -0.0527, 378_166),
    "example": Line(0.863, -4.06, 1_124_250),
    "output": Line(0.592, -3.93, 1_124_250),
    "text": Line(5.21, -2.6, 12_893),
}
# Those of models that were measured, by name; efficientnet_lite0 on 600 of the training pictures and 100 samples. Text
# has nothing to do with the net.
MEASURED = {
    "mobilenet_v1_075": DEFAULTS,
    "efficientnet_lite0": {
        "word": Line(0.766, 0.298, 122_852),
        "example": Line(0.92, -4.18, 179_700),
        "output": Line(0.756, -4.03, 179_700),
    },
}
# Those of models that read recordings, learned by bench/sounds.py from pairs of spoken digits; any run's are those of a
# net that was trained on two people, learned from two others.
HEARD = {
    "mfcc_statistics": {"example": Line(1.57, -3.01, 499_500)},
    RUN_ON_SOUNDS: {"example": Line(15.3, -12.6, 124_750), "output": Line(8.18, -6.63, 124_750)},
}


def sigmoid(x: np.ndarray) -> np.ndarray:
    """Return 1 / (1 + exp(-x)), float32, without overflow."""
    return (0.5 * (1 + np.tanh(0.5 * np.asarray(x, np.float32)))).astype(np.float32)


def log_odds(p: np.ndarray) -> np.ndarray:
    """Return log(p / (1 - p)), float32, with p kept away from 0 and 1."""
    p = np.clip(np.asarray(p, np.float32), _EDGE, 1 - _EDGE)
    return np.log(p / (1 - p))


def fit_line(x: np.ndarray, right: np.ndarray, weight: np.ndarray | None = None) -> Line:
    """Return the line that makes `right`, bool (N,), most likely, with Platt's softened targets.

    The targets (n + 1) / (n + 2) and 1 / (n + 2) instead of 1 and 0 keep the line finite where the scores separate
    right from wrong without error (Lin, Lin and Weng 2007, "A note on Platt's probabilistic outputs").
    """
    x, right = np.asarray(x, np.float64), np.asarray(right, bool)
    w = np.ones(len(x)) if weight is None else np.asarray(weight, np.float64) * len(x) / np.sum(weight)
    yes, no = w[right].sum(), w[~right].sum()
    target = np.where(right, (yes + 1) / (yes + 2), 1 / (no + 2))
    centre, spread = float(x.mean()), float(x.std())
    if spread < 1e-6 * max(1.0, abs(centre)):  # all scores are the same: nothing but a shift can be learned
        spread = 1.0
    start = np.zeros((1, 1)), np.array([np.log((yes + 1) / (no + 1))])
    columns = ((x - centre) / spread)[:, None]
    small = 2e-6 / len(x)
    turn, shift = logistic(columns, target[:, None], 1, w[:, None], small, start=start, tolerance=1e-9, pull=small)
    slope = float(turn[0, 0]) / spread
    return Line(slope, float(shift[0]) - slope * centre, len(x))


def lines_from(
    saved: Mapping[str, Any] | None, model: str, *, counted: bool = False, heard: bool = False
) -> dict[str, Line]:
    """Return the lines for a model: those that a library keeps (see `lines_to`), else the measured ones.

    Args:
        counted: its classes are a run's own (see `counts`), so there is no measured line for words.
        heard: it reads recordings.
    """
    own = (saved or {}).get(model, {})
    measured = {**DEFAULTS, **(HEARD.get(model, HEARD[RUN_ON_SOUNDS]) if heard else MEASURED.get(model, {}))}
    found = {kind: Line(**own[kind]) if kind in own else measured[kind] for kind in KINDS}
    return {kind: line for kind, line in found.items() if kind in own or kind != "word" or not counted}


def threshold_of(kind: str, model: str, *, counted: bool = False, heard: bool = False) -> float:
    """Return the probability from which on a hit is shown, for one of the kinds of `THRESHOLDS`."""
    if counted and kind == "word":
        return OWN_WORD
    usual = _OWN_THRESHOLDS[RUN_ON_SOUNDS] if heard else THRESHOLDS
    return _OWN_THRESHOLDS.get(model, usual).get(kind, THRESHOLDS[kind])


def counts(card: Mapping[str, Any]) -> bool:
    """Whether the classes of a library's model are those of a run, not ImageNet's."""
    return isinstance(card.get("concepts"), list)


def hears(card: Mapping[str, Any]) -> bool:
    """Whether a library's model reads recordings."""
    return card.get("kind") == "sound"


def shown_in(view: View, model: str, concepts: Sequence[int], line: Line | None) -> np.ndarray:
    """Return float32 (N,): how probable it is that the pictures of a view show one of some concepts; 0 if unknown.

    `line`: that of words; None for a run's own classes, each of which is then counted.
    """
    if line is not None:
        raw = view.probabilities(model, concepts)
        return np.where(raw > 0, line(log_odds(raw)), np.float32(0))
    rows, values = view.vectors(model, OUTPUT)
    found = np.zeros(len(view), np.float32)
    for k in concepts:
        found[rows] += sigmoid(log_odds(values[:, k]) + shift_of(view, model, k))
    return np.minimum(found, 1)


def shift_of(view: View, model: str, k: int) -> float:
    """Return by how much the log-odds of a run's class are lowered in this library, a number up to 0; see above."""
    if (model, k) not in view.shifts:
        view.shifts[model, k] = _shift(view.store.models()[model].get("sure"), view.vectors(model, OUTPUT)[1], k)
    return view.shifts[model, k]


def _shift(sure: Sequence[Sequence[float]] | None, values: np.ndarray, k: int) -> float:
    if not sure or not len(values):
        return 0.0
    least, share, usual = sure[k]  # see unseen.surest
    x, count = log_odds(values[:, k]), len(values)
    # one picture of the run's stands beside those of the library
    expected = ((values[:, k] >= least).sum() / share + usual) * count / (count + 1)
    many, edges = np.histogram(x, 1024)
    low, high = -30.0, 0.0
    for _ in range(40):
        middle = (low + high) / 2
        enough = many @ sigmoid((edges[1:] + edges[:-1]) / 2 + middle) < expected
        low, high = (middle, high) if enough else (low, middle)
    return high * count / (count + _STEADY)


def lines_to(saved: Mapping[str, Any] | None, model: str, lines: Mapping[str, Line]) -> dict[str, Any]:
    """Return what a library keeps, with the lines of a model put in."""
    whole = dict(saved or {})
    whole[model] = {**whole.get(model, {}), **{kind: asdict(line) for kind, line in lines.items()}}
    return whole


def calibrate(store: Store, model: str | None = None, *, labels: dict[str, str] | None = None) -> dict[str, Line]:
    """Learn from labelled pictures what scores mean in this library, keep it, and return it by kind of evidence.

    Labels are those of the library (class folders), or `labels`: hash -> label, of pictures that were held out. Words
    are calibrated on labels that are the names of concepts, examples on pairs of pictures of the same and of different
    labels. What there is too little data for keeps the measured default and is not in the result.
    """
    view = view_of(store)
    chosen = view.model(model)
    learned: dict[str, Line] = {}
    if chosen is None:
        return learned
    own: list[set[str]] = [set(row or ()) for row in view.table.column("labels").to_pylist()]
    if labels is not None:
        own = [{labels[str(h)]} if str(h) in labels else set() for h in view.hashes]
    rows = np.array([i for i, names in enumerate(own) if names], dtype=np.int64)
    names = sorted(set().union(*own))
    concepts = view.vocabulary(chosen)
    scores, right = [], []
    for name in names:
        match = concepts.find(name, typos=False) if concepts is not None else None
        if match is not None and match.how != "part":
            scores.append(log_odds(view.probabilities(chosen, match.concepts)[rows]))
            right.append(np.array([name in own[r] for r in rows]))
    if scores:
        x, y = np.concatenate(scores), np.concatenate(right)
        if min(y.sum(), (~y).sum()) >= _FEWEST:
            learned["word"] = fit_line(x, y)
    seen, vectors = view.vectors(chosen)
    both = np.intersect1d(rows, seen)
    if len(both) > 2000:
        both = both[np.linspace(0, len(both) - 1, 2000).astype(int)]
    if len(both) >= _FEWEST and len(names) > 1:
        some = vectors[np.searchsorted(seen, both)].astype(np.float32)  # rows are in order
        table = np.array([[name in own[r] for name in names] for r in both], np.float32)
        a, b = np.triu_indices(len(both), 1)
        zero, one_step = view.scale(chosen, "cosine")
        x, y = ((some @ some.T)[a, b] - zero) / one_step, (table @ table.T)[a, b] > 0
        if min(y.sum(), (~y).sum()) >= _FEWEST:
            learned["example"] = fit_line(x, y)
    learned = {kind: line for kind, line in learned.items() if line.slope > 0}
    if learned:
        store.save("calibration", lines_to(store.load("calibration"), chosen, learned))
    return learned
