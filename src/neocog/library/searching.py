"""Search a library: by word, by example, by filter, and by all at once; every hit says why.

Each part of a query gives every picture a probability (evidence.py). They are joined as independent conditions that
must all hold: `probability` is their product, and pictures are ranked by `score`, the weighted geometric mean of what
is looked for, so that ``dog^2 beach`` cares twice as much for the dog, and two words are not held to a stricter
threshold than one; what it must not be is multiplied to it, so that a ``-word`` never adds a hit. A hit is shown if
its score reaches that of the parts' own thresholds (calibration.py), and if what it must not be is less likely than
not.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from neocog.errors import LibraryError, UsageError
from neocog.library.calibration import Line, fit_line, lines_from, lines_to, log_odds
from neocog.library.embed import at_layer
from neocog.library.evidence import Part, Reason, example_parts, filtered, word_parts
from neocog.library.query import Example, Query, parse
from neocog.library.store import Store
from neocog.library.view import FEATURES, OUTPUT, Eye, View, view_of

__all__ = ["Answer", "Hit", "Reason", "calibrate", "search"]

METRICS = ("cosine", "euclidean")
# Near duplicates have perceptual hashes at most this far apart and vectors at least this alike; either alone is not
# enough (see data.duplicates).
_BITS, _ALIKE = 8, 0.93
_FEWEST = 20  # pictures on each side from which a calibration is learned


@dataclass(frozen=True)
class Hit:
    """A picture that was found.

    Attributes:
        hash: identity of its content. path: its first file. paths: all its files.
        score: what it is ranked by, 0..1. probability: that all parts of the query hold.
        reasons: what each part contributed.
        near: hashes of near duplicates that are folded away behind it.
    """

    hash: str
    path: str
    paths: tuple[str, ...]
    score: float
    probability: float
    reasons: tuple[Reason, ...]
    near: tuple[str, ...] = ()


@dataclass(frozen=True)
class Answer(Sequence[Hit]):
    """The hits of a search, best first, and what is to be said about it.

    Attributes:
        query: as it was understood.
        found: pictures that reach the threshold, shown or not.
        threshold: the score that a hit needs. best: the best score of any picture that meets the filters.
        notes: which concepts a word was taken for, what is unknown, what was left out.
    """

    hits: tuple[Hit, ...]
    query: Query
    found: int
    threshold: float
    best: float
    notes: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.hits)

    def __getitem__(self, index: Any) -> Any:
        return self.hits[index]

    def __iter__(self) -> Iterator[Hit]:
        return iter(self.hits)

    def to_json(self) -> dict[str, Any]:
        """Return everything, JSON-able."""
        return {
            "query": str(self.query),
            "found": self.found,
            "threshold": self.threshold,
            "best": self.best,
            "notes": list(self.notes),
            "hits": [asdict(hit) for hit in self.hits],
        }


def search(
    store: Store,
    query: str | Query = "",
    *,
    like: Sequence[str] = (),
    unlike: Sequence[str] = (),
    top: int = 20,
    threshold: float | None = None,
    model: str | None = None,
    metric: str = "cosine",
    layer: str = FEATURES,
    eye: Eye | None = None,
) -> Answer:
    """Return the best hits for a query (see query.py for the language).

    Args:
        like, unlike: files of example pictures, in addition to those in the query.
        top: how many hits at most.
        threshold: least score of a hit; 0 shows everything, None takes the calibrated one.
        model: whose vectors and concepts are used; None takes the library's own.
        metric: "cosine", or "euclidean" (which also minds how strong a picture's features are).
        layer: what examples are compared by: "features", what the net's last layer reads (the last layer but one);
            "output", the probabilities of its classes (the last); or the dotted name of a layer that the library was
            indexed with as well.
        eye: the net for example pictures that are not in the library; None makes the model's own when it is needed.

    Raises:
        UsageError: the query is wrong, or an example is not to be found. LibraryError: no such model.
    """
    if top < 1:
        raise UsageError(f"expected to show at least 1 hit, got {top}")
    if metric not in METRICS:
        raise UsageError(f"expected the metric cosine or euclidean, got {metric!r}")
    if threshold is not None and not 0 <= threshold <= 1:
        raise UsageError(f"expected a threshold between 0 and 1, got {threshold}; 0 shows everything")
    more = (*(Example(str(f)) for f in like), *(Example(str(f), negative=True) for f in unlike))
    parsed = query if isinstance(query, Query) else parse(query) if query.strip() or not more else Query(source=query)
    parsed = Query((*parsed.terms, *more), parsed.duplicates, parsed.source)
    view = view_of(store)
    chosen = view.model(model)
    seeing, layer = _layer(view, chosen, layer)
    lines = lines_from(store.load("calibration"), chosen or "")
    notes: list[str] = []
    keep, filters = filtered(view, parsed, notes)
    parts, unknown = word_parts(view, chosen, parsed.words, lines, notes) if parsed.words else ([], [])
    if parsed.examples:
        if seeing is None:
            raise UsageError(f"{store.folder} has no vectors yet to compare pictures by; type 'neocog index FOLDER'")
        line = lines["example" if layer == FEATURES else "output"]
        alone = not parts and not filters
        found, looked = example_parts(view, seeing, parsed.examples, line, metric, layer, eye, top=top, alone=alone)
        parts += found
        keep &= looked
    positive = [p for p in parts if not p.negative]
    if unknown and not positive:
        keep[:] = False  # what was asked for is unknown, so nothing answers to it
    score, probability = _joined(len(view), parts)
    least = _least(positive) if threshold is None else threshold
    shown = keep & (score >= least)
    if threshold is None:
        for part in parts:
            if part.negative:
                shown &= part.p >= part.threshold
    rows = np.flatnonzero(shown)
    if parts:
        rows = rows[np.argsort(-score[rows], kind="stable")]
    else:  # filters only: the newest first
        taken = np.asarray(view.table.column("taken").to_numpy()).astype("datetime64[s]")[rows]
        rows = rows[np.argsort(np.where(np.isnat(taken), 2**62, -taken.astype(np.int64)), kind="stable")]
    groups = _folded(view, chosen, rows, top) if not parsed.duplicates else [(int(r), []) for r in rows[:top]]
    hits = tuple(_hit(view, row, near, score, probability, parts, filters) for row, near in groups)
    best = float(score[keep].max()) if keep.any() and parts else 0.0
    if folded := sum(len(hit.near) for hit in hits):
        notes.append(f"{folded} near duplicates are folded away; duplicates:yes shows them")
    if not hits and not unknown and best > 0:
        notes.append(f"nothing reaches {least:.2f}; the best has {best:.2f}, a threshold of 0 shows it")
    return Answer(hits, parsed, len(rows), float(least), best, tuple(notes))


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
        place = (
            np.searchsorted(seen, both)
            if (np.diff(seen) > 0).all()
            else np.array([np.flatnonzero(seen == b)[0] for b in both])
        )
        some = vectors[place].astype(np.float32)
        table = np.array([[name in own[r] for name in names] for r in both], np.float32)
        a, b = np.triu_indices(len(both), 1)
        mean, spread = view.pairs(chosen, "cosine")
        x, y = ((some @ some.T)[a, b] - mean) / spread, (table @ table.T)[a, b] > 0
        if min(y.sum(), (~y).sum()) >= _FEWEST:
            line = fit_line(x, y)
            if line.slope > 0:
                learned["example"] = line
    learned = {kind: line for kind, line in learned.items() if line.slope > 0}
    if learned:
        store.save("calibration", lines_to(store.load("calibration"), chosen, learned))
    return learned


def _layer(view: View, model: str | None, layer: str) -> tuple[str | None, str]:
    """(model, layer) whose vectors examples are compared by; another layer's are a model of their own."""
    if layer in (FEATURES, OUTPUT) or model is None:
        if layer == OUTPUT and model is not None and not view.store.models()[model].get("classes"):
            raise LibraryError(f"{model!r} has no classes, so its output is no layer to compare by; use 'features'")
        return model, layer
    name = at_layer(model, layer)
    if name not in view.store.models():
        raise LibraryError(
            f"{view.store.folder} has no vectors of the layer {layer!r}; use 'features' or 'output', or type "
            f"'neocog index --layer {layer}'"
        )
    return name, FEATURES


def _joined(count: int, parts: Sequence[Part]) -> tuple[np.ndarray, np.ndarray]:
    """(score, probability), float64 (N,), of the parts' probabilities: product, powers being weights, and product."""
    total = sum(part.weight for part in parts if not part.negative) or sum(part.weight for part in parts)
    logs, weighted = np.zeros(count), np.zeros(count)
    for part in parts:
        one = np.log(part.p.astype(np.float64))
        logs += one
        weighted += part.weight / total * one
    return np.exp(weighted), np.exp(logs)


def _least(positive: Sequence[Part]) -> float:
    total = sum(part.weight for part in positive)
    return float(np.exp(sum(p.weight / total * np.log(p.threshold) for p in positive))) if positive else 0.0


def _folded(view: View, model: str | None, rows: np.ndarray, top: int) -> list[tuple[int, list[str]]]:
    """The first `top` of `rows` that are no near duplicates of an earlier one, each with those that are."""
    groups: list[tuple[int, list[str]]] = []
    if model is None:
        return [(int(row), []) for row in rows[:top]]
    seen, vectors = view.vectors(model)
    place = np.full(len(view), -1)
    place[seen] = np.arange(len(seen))
    prints = view.table.column("phash").fill_null(0).to_numpy().astype(np.uint64)
    able = (prints != 0) & ~np.asarray(view.table.column("flat").fill_null(False)).astype(bool) & (place >= 0)
    leaders: list[np.ndarray] = []
    marks: list[int] = []
    for row in rows:
        row = int(row)
        twin = -1
        vector = vectors[place[row]].astype(np.float32) if able[row] else np.zeros(1, np.float32)
        if able[row] and groups:
            near = np.bitwise_count(np.array([prints[g[0]] for g in groups]) ^ prints[row]) <= _BITS
            for k in np.flatnonzero(near & np.array(marks, bool)):
                if float(vector @ leaders[k]) >= _ALIKE:
                    twin = int(k)
                    break
        if twin >= 0:
            groups[twin][1].append(str(view.hashes[row]))
        elif len(groups) == top:
            break
        else:
            groups.append((row, []))
            leaders.append(vector)
            marks.append(bool(able[row]))
    return groups


def _hit(
    view: View,
    row: int,
    near: list[str],
    score: np.ndarray,
    probability: np.ndarray,
    parts: Sequence[Part],
    filters: Sequence[Any],
) -> Hit:
    reasons = [reason for part in parts for reason in part.explain(row)]
    reasons += [tell(row) for tell in filters]
    paths = view.paths(row)
    return Hit(
        hash=str(view.hashes[row]),
        path=paths[0] if paths else "",
        paths=paths,
        score=float(score[row]),
        probability=float(probability[row]),
        reasons=tuple(reasons),
        near=tuple(near),
    )
