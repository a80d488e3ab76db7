"""Search a library: by word, by example, by filter, and by all at once; every hit says why.

Each part of a query gives every picture a probability (evidence.py). They are joined as independent conditions that
must all hold: `probability` is their product. Pictures are ranked by `score`, which is the same unless the query has
weights: these are powers, with a mean of 1, so that ``dog^2 beach`` cares twice as much for the dog. A hit is shown if
its score reaches that of the parts' own thresholds (calibration.py), so that two words are not held to a stricter one
than each alone; what it must not be is multiplied to the score, so that a ``-word`` never adds a hit, and must be less
likely than not. Parts that were not understood lower all scores (`calibration.UNKNOWN`), and hits say so.

Of alternatives (``dog OR cat``) at least one holds, as of independent witnesses; a hit needs what one of them needs.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from neocog.data.stores import is_sound, moment
from neocog.errors import LibraryError, UsageError
from neocog.library.calibration import UNKNOWN, counts, hears, lines_from
from neocog.library.evidence import Part, Reason, example_parts, word_parts
from neocog.library.filters import filtered
from neocog.library.folding import Folding
from neocog.library.model_names import at_layer
from neocog.library.query import Example, Query, parse
from neocog.library.sentences import missing_note, witness_of
from neocog.library.store import Store
from neocog.library.view import FEATURES, OUTPUT, View, view_of
from neocog.library.wording import turned_words
from neocog.records import counted

__all__ = ["Answer", "Hit", "Ranking", "Reason", "rank", "search"]

METRICS = ("cosine", "euclidean")
_MOST_UNKNOWN = 5  # words that were not understood that a hit names


@dataclass(frozen=True)
class Hit:
    """A picture that was found.

    Attributes:
        hash: identity of its content. path: its first file. paths: all its files.
        score: what it is ranked by: the probability that it answers the whole query, weighted. probability: that
            all parts of the query hold.
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
        not_understood: words to be found that were not understood; they lower all scores.
    """

    hits: tuple[Hit, ...]
    query: Query
    found: int
    threshold: float
    best: float
    notes: tuple[str, ...]
    not_understood: tuple[str, ...] = ()

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
            "not_understood": list(self.not_understood),
            "notes": list(self.notes),
            "hits": [asdict(hit) | _moment(hit.path) for hit in self.hits],
        }


def _moment(path: str) -> dict[str, Any]:
    """What a JSON document says of a frame of a video beside its path."""
    found = moment(path)
    return {} if found is None else {"file": found[0], "seconds": found[1]}


class Ranking:
    """The pictures that a query finds, ranked; hits are made as they are asked for.

    Attributes:
        answer: what is said of all of them, without hits, and without what is said of the hits that are shown.
    """

    def __init__(
        self, view: View, answer: Answer, asked: _Asked, folding: Folding, score: np.ndarray, probability: np.ndarray
    ) -> None:
        self.answer = answer
        self._view, self._asked, self._folding = view, asked, folding
        self._score, self._probability = score, probability
        self._lock = threading.Lock()

    @property
    def total(self) -> int:
        """How many hits there are; as long as not all were asked for, near duplicates may still leave fewer."""
        return self.answer.found - self._folding.folded

    @property
    def nothing(self) -> str:
        """Why there is no hit; "" if there are some, or if nothing is known to be nearest."""
        best, threshold = self.answer.best, self.answer.threshold
        if self.answer.found or best <= 0:
            return ""
        digits = 2 if threshold >= 0.1 else 3
        lacks = f"nothing reaches {threshold:.{digits}f}" if best < threshold else "nothing is probable enough"
        return f"{lacks}; the best has {best:.{digits}f}, a threshold of 0 shows it"

    def hits(self, start: int, stop: int) -> tuple[Hit, ...]:
        """Return the hits with these places, from 0; fewer where there are no more. Several threads may ask."""
        with self._lock:
            groups = [(row, tuple(near)) for row, near in self._folding.upto(stop)[start:]]
        return tuple(self._hit(row, near) for row, near in groups)

    def _hit(self, row: int, near: tuple[str, ...]) -> Hit:
        reasons, unknown, paths = self._asked.explain(row), self.answer.not_understood, self._view.paths(row)
        if unknown:
            more = len(unknown) - _MOST_UNKNOWN
            shown = [*unknown[:_MOST_UNKNOWN], *([f"{more} more"] if more > 0 else [])]
            listed = " and ".join([", ".join(shown[:-1]), shown[-1]] if len(shown) > 1 else shown)
            text = f"partly answered: {listed} {'was' if len(unknown) == 1 else 'were'} not understood"
            reasons.append(Reason(" ".join(unknown), "unknown", UNKNOWN ** len(unknown), float(len(unknown)), text))
        score, probability, path = float(self._score[row]), float(self._probability[row]), paths[0] if paths else ""
        return Hit(str(self._view.hashes[row]), path, paths, score, probability, tuple(reasons), near)


def search(store: Store, query: str | Query = "", *, top: int = 20, **options: Any) -> Answer:
    """Return the best hits for a query (see query.py for the language).

    Args:
        top: how many hits at most.
        options: those of `rank`.

    Raises: UsageError: the query is wrong, or an example is not to be found. LibraryError: no such model.
    """
    if top < 1:
        raise UsageError(f"expected to show at least 1 hit, got {top}")
    ranked = rank(store, query, top=top, **options)
    hits, notes = ranked.hits(0, top), list(ranked.answer.notes)
    if folded := sum(len(hit.near) for hit in hits):
        notes.append(f"{counted(folded, 'near duplicate', 'is')} folded away; duplicates:yes shows all")
    if ranked.nothing:
        notes.append(ranked.nothing)
    return replace(ranked.answer, hits=hits, notes=tuple(notes))


def rank(
    store: Store,
    query: str | Query = "",
    *,
    like: Sequence[str] = (),
    unlike: Sequence[str] = (),
    top: int = 200,
    threshold: float | None = None,
    model: str | None = None,
    metric: str = "cosine",
    layer: str = FEATURES,
) -> Ranking:
    """Rank all pictures of a library by a query (see query.py for the language).

    Args:
        like, unlike: files of example pictures, in addition to those in the query.
        top: how many hits will be looked at; a large library answers examples alone with ten times as many.
        threshold: least score of a hit; 0 shows everything, None takes the calibrated one.
        model: whose vectors and concepts are used; None takes the library's own.
        metric: "cosine", or "euclidean" (which also minds how strong a picture's features are).
        layer: what examples are compared by: "features", what the net's last layer reads (the last layer but one);
            "output", the probabilities of its classes (the last); or the dotted name of a layer that the library was
            indexed with as well.

    Raises: UsageError: the query is wrong, or an example is not to be found. LibraryError: no such model.
    """
    if metric not in METRICS:
        raise UsageError(f"expected the metric cosine or euclidean, got {metric!r}")
    if threshold is not None and not 0 <= threshold <= 1:
        raise UsageError(f"expected a threshold between 0 and 1, got {threshold}; 0 shows everything")
    more = (*(Example(str(f)) for f in like), *(Example(str(f), negative=True) for f in unlike))
    parsed = query if isinstance(query, Query) else parse(query) if query.strip() or not more else Query(source=query)
    parsed = Query((*parsed.terms, *more), parsed.duplicates, parsed.source)
    view = view_of(store)
    chosen = view.model(model, _examples(parsed))
    seeing, layer = _layer(view, chosen, layer)
    counted = chosen is not None and counts(store.models()[chosen])
    heard = chosen is not None and hears(store.models()[chosen])
    lines = lines_from(store.load("calibration"), chosen or "", counted=counted, heard=heard)
    notes: list[str] = []
    witness = witness_of(view)

    def asked(terms: Query, *, whole: bool) -> _Asked:
        keep, filters = filtered(view, terms, notes)
        words = turned_words(terms.words, notes, beside=bool(filters or terms.examples or terms.choices))
        parts, unknown = word_parts(view, chosen, words, lines, notes, witness) if words else ([], [])
        if chosen is not None and (unknown or len(terms.words) > 1):
            notes.extend(missing_note(view, witness))
        if unknown and not heard:
            notes.extend(_heard(view, unknown))
        if terms.examples:
            if seeing is None or not len(view.vectors(seeing, layer)[0]):
                raise UsageError(_nothing_like(view, terms.examples[0].file))
            line = lines["example" if layer == FEATURES else "output"]
            alone = whole and not parts and not filters and not terms.choices
            found, looked = example_parts(view, seeing, terms.examples, line, metric, layer, top=top, alone=alone)
            parts += found
            keep &= looked
        for choice in terms.choices:
            several = [asked(Query(one), whole=False) for one in choice.alternatives]
            unknown += [word for one in several for word in one.unknown]
            if any(one.known for one in several):
                parts.append(_either([one for one in several if one.known]))
            else:
                parts.append(Part(1.0, False, np.asarray(UNKNOWN, np.float32), UNKNOWN, lambda row: [], known=False))
        return _Asked(parts, keep, filters, unknown)

    whole = asked(parsed, whole=True)
    if not len(view):
        notes[:] = ["the library has no pictures yet; 'neocog index FOLDER' puts them in"]
    parts, keep, unknown = whole.parts, whole.keep, tuple(dict.fromkeys(whole.unknown))
    if unknown and not any(part.known and not part.negative for part in parts):
        keep[:] = False  # what was asked for is unknown, so nothing answers to it
    chances, enough = _joined(len(view), parts)
    score, probability = np.exp(chances), np.exp(sum((np.log(part.p) for part in parts), np.zeros(len(view))))
    least = _least(parts) if threshold is None else threshold
    shown = keep & (enough >= 0 if threshold is None else score >= least)
    if threshold is None:
        for part in parts:
            if part.negative:
                shown &= part.p >= part.threshold
    rows = np.flatnonzero(shown)
    if parts:
        rows = rows[np.argsort(-chances[rows], kind="stable")]  # logs: scores of many parts may all round to 0
    else:  # filters only: the newest first
        taken = view.taken[rows]
        rows = rows[np.argsort(np.where(np.isnat(taken), 2**62, -taken.astype(np.int64)), kind="stable")]
    folding = Folding(view, None if parsed.duplicates else chosen, rows)
    best = float(score[keep].max()) if keep.any() and parts else 0.0
    answer = Answer((), parsed, len(rows), float(least), best, tuple(dict.fromkeys(notes)), unknown)
    return Ranking(view, answer, whole, folding, score, probability)


def _heard(view: View, words: Sequence[str]) -> list[str]:
    """Of words that were not understood, those that the net of the library's recordings knows."""
    name = view.store.model_of(sounds=True)
    concepts = view.vocabulary(name) if name else None
    known = [word for word in words if concepts is not None and concepts.find(word, typos=False)]
    return [
        f"{word!r} is a word of {name}, which hears recordings: --model {name}, or on the page Filters, Heard by"
        for word in known
    ]


def _nothing_like(view: View, file: str) -> str:
    """Why an example cannot be compared with anything: the library has none of its kind, or no vectors of them."""
    kind, heard = ("recording", True) if view.heard(file) else ("picture", False)
    if len(view) and not any(is_sound(one) == heard for row in range(len(view)) for one in view.paths(row)[:1]):
        return f"{file} is a {kind}, and {view.store.folder} holds only {view.store.holds()}; compare with one of these"
    return f"{view.store.folder} has no vectors yet to compare with {file}; type 'neocog index FOLDER'"


def _examples(query: Query) -> list[str]:
    """The files of all examples, also of those among alternatives."""
    inside = [_examples(Query(one)) for choice in query.choices for one in choice.alternatives]
    return [one.file for one in query.examples] + [file for files in inside for file in files]


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


@dataclass(frozen=True)
class _Asked:
    """What was made of a query, or of one of its alternatives."""

    parts: list[Part]
    keep: np.ndarray  # bool (N,): pictures that meet all filters
    filters: list[Callable[[int], Reason]]
    unknown: list[str]

    @property
    def known(self) -> bool:
        """Whether anything of it was understood."""
        return bool(self.filters) or any(part.known for part in self.parts)

    def explain(self, row: int) -> list[Reason]:
        return [reason for part in self.parts for reason in part.explain(row)] + [say(row) for say in self.filters]


def _powers(parts: Sequence[Part]) -> list[float]:
    """The weights, those of what is looked for with a mean of 1."""
    those = [part.weight for part in parts if not part.negative] or [part.weight for part in parts]
    return [part.weight * len(those) / sum(those) for part in parts]


def _joined(count: int, parts: Sequence[Part]) -> tuple[np.ndarray, np.ndarray]:
    """(log of the score, how far that is above what a hit needs), float64 (N,)."""
    chances, enough = np.zeros(count), np.zeros(count)
    for part, power in zip(parts, _powers(parts), strict=True):
        one = np.log(part.p.astype(np.float64))
        chances += power * one
        enough += power * (one if part.negative else part.over)
    if all(part.negative for part in parts):
        enough[:] = 0
    return chances, enough


def _least(parts: Sequence[Part]) -> float:
    those = [part for part in parts if not part.negative]
    logs = [power * np.log(part.threshold) for part, power in zip(those, _powers(those), strict=True)] if those else []
    return float(np.exp(sum(logs))) if those else 0.0


def _either(several: Sequence[_Asked]) -> Part:
    none, over, needed = np.ones(1), [], []
    for one in several:
        chances, _ = _joined(len(one.keep), one.parts)
        sure = [part for part in one.parts if not part.negative] or one.parts
        least = sum(float(np.log(part.threshold)) for part in sure)
        keep = one.keep.copy()
        for part in one.parts:
            if part.negative:
                keep &= part.p >= part.threshold
        none = none * (1 - np.where(keep, np.exp(chances), 0))
        over.append(np.where(keep, chances - least, -np.inf))
        needed.append(least)
    nearest = np.argmax(over, axis=0)
    p = np.clip(1 - none, 1e-6, 1 - 1e-6).astype(np.float32)
    return Part(
        1.0, False, p, float(np.exp(min(needed))), lambda row: several[nearest[row]].explain(row), np.max(over, axis=0)
    )
