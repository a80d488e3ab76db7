"""The probability of each part of a query, for every picture.

A **word** is answered by three witnesses, each of which may be enough alone: the concepts that it stands for (their
classes exclude each other, so the probability that one of them is shown is their sum), a concept of that name that
the user taught, and every text that is known of the picture. They are joined as independent witnesses:
``1 - (1 - p_concepts) (1 - p_taught) (1 - p_text)``. Several words in a row that are the name of one concept
(*golden retriever*) are one part.

The **sentence space** (sentences.py) is a witness for all words to be found together, in their order: how probable is
it that a picture shows what they say? A word that it knows needs no concept. Where words have witnesses of their own in
one picture and not in another (a name in a text), the space is also asked for the rest of the words. The most probable
of these answers counts, not their joint odds. The concepts of words that the space knows are no witness of their own
then: space and classes see by the same vectors, so they err together, and the space weighs the classes' odds together
with its own cosines. A word with ``-`` is asked of the space on its own.

A word that was not understood is still a condition. It is taken to hold as often as a word of a description does
where another word of it holds (`calibration.UNKNOWN`): no picture gains or loses its place, but all their
probabilities are lower, as they should be for pictures that were judged by half of what was asked.

**Examples** are joined before they are judged: the mean likeness to all of them, so that what they have in common
counts. Each example to be avoided is a part of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import PurePath

import numpy as np
import pyarrow.compute as pc

from neocog.library.calibration import LEAST_TEXT, UNKNOWN, Line, counts, hears, log_odds, shown_in, threshold_of
from neocog.library.concepts import TURNING, Match, Spelling, normalise, says_nothing
from neocog.library.query import Example, Word
from neocog.library.sentences import Witness
from neocog.library.teaching import answers, concepts_of, probabilities, said_of
from neocog.library.view import FEATURES, OUTPUT, View, texts, vector_of
from neocog.library.wording import grouped, not_understood

_MOST_TYPOS = 20  # words of a query up to which spelling is corrected; a pasted page is not a query
_MOST_RESTS = 16  # words of a query up to which the space is asked for the rest of them, and how many rests
_WORTH_SAYING = 0.05  # probability from which a witness that another one outweighs is named
_LONG_WORD = 6  # letters from which a word of a text is what a mistyped word is corrected to
_SAME, _APART = 0.98, 0.2  # cosine of two copies of a picture, and the distance of vectors of length 1 that it means
_FROM_INDEX = 200  # pictures that the store's nearest-neighbour search is asked for, at least
_PERSONS = ("people", "person", "man", "woman", "child", "boy", "girl")  # as captions call them


@dataclass(frozen=True)
class Reason:
    """What one part of a query contributed to a hit.

    Attributes:
        part: the part, as it was typed.
        kind: "sentence" (the words together), "word", "example", "text" (exact words), "filter", or "unknown" (words
            that were not understood).
        value: the probability (0..1) that this part holds; 1 for what must hold and does.
        weight: how much it counts; 0 for filters.
        text: the same for people.
    """

    part: str
    kind: str
    value: float
    weight: float
    text: str


@dataclass(frozen=True)
class Part:
    """A ranking part: `p` float32 (N,), the probability that it holds (for a negative one: that it does not).

    `threshold`: a hit needs this much. `explain` gives the reasons for a row. `margin`: log(p / threshold), where that
    is not the same threshold for all. `known`: whether anything is known of it; else `p` is `UNKNOWN`, one number.
    """

    weight: float
    negative: bool
    p: np.ndarray
    threshold: float
    explain: Callable[[int], list[Reason]]
    margin: np.ndarray | None = None
    known: bool = True

    @property
    def over(self) -> np.ndarray:
        """log(p / threshold): from 0 on it is enough for a hit."""
        return np.log(self.p) - np.log(np.asarray(self.threshold, self.p.dtype)) if self.margin is None else self.margin


def word_parts(
    view: View,
    model: str | None,
    words: Sequence[Word],
    lines: dict[str, Line],
    notes: list[str],
    witness: Witness | None = None,
) -> tuple[list[Part], list[str]]:
    """Return the parts for the words of a query, and the words to be found that were not understood."""
    parts: list[Part] = []
    run: list[_Told] = []
    unknown: list[Word] = []
    texts = {at: word.text for at, word in enumerate(words) if not word.negative}  # what is asked of the space
    concepts = view.vocabulary(model) if model is not None else None
    taught = {normalise(name): (name, entry) for name, entry in concepts_of(view.store).items()}
    for word, at in grouped(words, concepts, taught):
        if normalise(word.text) in TURNING and not word.negative and len(words) > 1:
            unknown.append(word)
            texts.pop(at.start, None)
            continue
        spelled = [word.text]
        known, heads = view.text.score(spelled), taught.get(normalise(word.text))
        match = concepts.find(word.text, typos=False) if concepts is not None else None
        literal = heads is None and match is None and all(map(says_nothing, word.text.split()))
        read = witness is not None and not literal and witness.knows(word.text, concept=match is not None)
        silent = match is None and heads is None and not known.any() and not read
        if silent and not literal and len(words) <= _MOST_TYPOS:
            # a short word of a text is near to too many others: trick, truck, track
            longer = [one for one in view.text.words if len(one) >= _LONG_WORD]
            own = concepts.spellings if concepts is not None else ()
            near = Spelling([*own, *taught, *longer]).correct(word.text)
            if near:
                spelled = list(near)
                match = concepts.corrected(word.text, near) if concepts is not None else None
                known = np.max([view.text.score([name]) for name in near], axis=0)
                heads = next((taught[name] for name in near if name in taught), None)
                texts[at.start] = near[0]
                read = witness is not None and witness.knows(near[0])
                if match is None:
                    notes.append(f"{word.text!r} is not known; used {' or '.join(map(repr, near))}")
        if match is None and heads is None and not known.any() and not read:
            unknown.append(word)
            texts.pop(at.start, None)
            continue
        if match is not None:
            notes.append(str(match))
        if not read:
            texts = {place: text for place, text in texts.items() if place not in at}
        seen = None
        if witness is not None and read and word.negative:
            asked = _PERSONS if normalise(spelled[0]) in _PERSONS[:2] else spelled[:1]
            witness.ask(asked)
            seen = np.max([witness.against(one) for one in asked], axis=0)
        judged = witness is not None and witness.judges(model) and read and not word.negative
        part, shown = _word_part(view, model, word, spelled, match, heads, known, lines, seen, judged=judged)
        if word.negative or witness is None:
            parts.append(part)
        else:
            run.append(_Told(part, at, spelled[0], read, shown))
    if witness is not None and any(one.read for one in run):
        parts.insert(0, _together(witness, run, texts))
    else:
        parts[:0] = [one.part for one in run]
    notes += not_understood(view, unknown, taught)
    missing = [word for word in unknown if not word.negative]
    chance = np.asarray(UNKNOWN, np.float32)
    parts += [Part(w.weight, False, chance, UNKNOWN, lambda row: [], known=False) for w in missing]
    return parts, [word.text for word in missing]


def _word_part(
    view: View,
    model: str | None,
    word: Word,
    spelled: Sequence[str],
    match: Match | None,
    heads: tuple[str, dict] | None,
    known: np.ndarray,
    lines: dict[str, Line],
    seen: np.ndarray | None = None,
    *,
    judged: bool = False,
) -> tuple[Part, np.ndarray]:
    """The part of one word, and how probable its concepts are, float32 (N,).

    `seen`: what the space says of a word that must not hold. `judged`: the space judges the concepts together with what
    it sees itself, so they are no witness of their own.
    """
    none = np.zeros(len(view), np.float32)
    shown, raw = none, none
    if match is not None and model is not None:
        raw = view.probabilities(model, match.concepts)
        shown = shown_in(view, model, match.concepts, lines.get("word"))
    learned = none
    by_text = np.where(known > 0, LEAST_TEXT + (1 - LEAST_TEXT) * lines["text"](known), 0)
    if heads is not None:
        said = said_of(view.store, heads[0])
        if heads[1]["model"] in view.store.models():
            learned = probabilities(view, heads[1], said)
        rows, tags = texts(view, "tags")
        tagged = rows[np.asarray(pc.fill_null(pc.equal(tags, heads[0]), False)).astype(bool)]
        by_text[tagged] = 0  # the tag comes from the head, so it says nothing more
        denied = view.rows_of(answers(heads[1], said)[1])
        denied = denied[denied >= 0]
        shown[denied], by_text[denied] = 0, 0  # what the user said outvotes the net
    p = 1 - (1 - (none if judged else shown)) * (1 - learned) * (1 - by_text)
    if seen is not None:
        p = np.maximum(p, seen)
    p = np.clip(p, 1e-6, 1 - 1e-6).astype(np.float32)

    def explain(row: int) -> list[Reason]:
        told = [f"sentence {seen[row]:.2f}"] if seen is not None and seen[row] > 0.01 else []
        if match is not None and shown[row] > 0.01:
            told.append(f"concepts {raw[row]:.2f}{_best(view, model, match, row)}, calibrated {shown[row]:.2f}")
        if heads is not None:
            told.append(f"taught concept {heads[0]!r} {learned[row]:.2f}")
        if by_text[row] > 0:
            told.append(f"in its {' and '.join(view.text.where(spelled, row))}")
        sign = "not " if word.negative else ""
        text = f"{sign}{word.text}: {'; '.join(told) or 'no sign of it'}"
        value = 1 - p[row] if word.negative else max(p[row], shown[row])
        return [Reason(str(word), "word", float(value), word.weight, text)]

    counted = model is not None and counts(view.store.models()[model])
    threshold = 0.5 if word.negative else threshold_of("word", model or "", counted=counted)
    return Part(word.weight, word.negative, 1 - p if word.negative else p, threshold, explain), shown


def example_parts(
    view: View,
    model: str,
    examples: Sequence[Example],
    line: Line,
    metric: str,
    layer: str,
    *,
    top: int,
    alone: bool,
) -> tuple[list[Part], np.ndarray]:
    """Return the parts for example pictures, and bool (N,): which pictures were looked at.

    `alone`: nothing else ranks or filters, so that the store's own search for the nearest may pick the candidates.
    """
    vectors = {one: vector_of(view, model, one, layer, metric=metric) for one in examples}
    lengths = {one: max(float(np.linalg.norm(vector)), 1e-12) for one, vector in vectors.items()}
    usual, (zero, one_step) = view.pairs(model, metric, layer)[0], view.scale(model, metric, layer)
    heard = hears(view.store.models()[model])
    least = threshold_of("example" if layer == FEATURES else "output", model, heard=heard)
    liked = [one for one in vectors if not one.negative]
    looked = np.ones(len(view), bool)
    rows: np.ndarray | None = None
    if alone and liked and layer == FEATURES and len(view) > 10 * max(_FROM_INDEX, 10 * top):
        total = sum(one.weight * (vectors[one] / (lengths[one] if metric == "cosine" else 1.0)) for one in liked)
        assert isinstance(total, np.ndarray)
        hashes, _ = view.store.nearest(model, total / sum(o.weight for o in liked), max(_FROM_INDEX, 10 * top), metric)
        rows = np.unique(view.rows_of(hashes[0]))
        rows = rows[rows >= 0]
        looked = np.zeros(len(view), bool)
        looked[rows] = True
    alike = {one: view.likeness(model, vector, metric, layer, rows) for one, vector in vectors.items()}
    for one in liked:  # pictures are not compared with recordings
        looked &= np.isfinite(alike[one])
    what, sign = ("cosine", 1) if metric == "cosine" else ("distance", -1)

    # what is all but the same picture (from 0 to 1) is like it, however alike the pictures of a library are
    same = {
        one: (raw - _SAME) / (1 - _SAME) if metric == "cosine" else 1 + raw / (_APART * lengths[one])
        for one, raw in alike.items()
    }

    def judged(raw: np.ndarray, same: np.ndarray, line: Line = line) -> np.ndarray:
        seen = np.isfinite(raw)
        p = np.where(seen, line(np.where(seen, (raw - zero) / one_step, 0)), 0)
        return np.where(same >= 0, np.maximum(p, 0.99 + 0.009 * np.clip(same, 0, 1)), p).astype(np.float32)

    def reason(one: Example, row: int, value: float) -> Reason:
        name = PurePath(one.file).name + str(one.region or "")
        text = f"{'un' if one.negative else ''}like {name}: {what} {sign * alike[one][row]:.3f}"
        text += f" (random {'recordings' if heard else 'pictures'}: {sign * usual:.3f})"
        return Reason(str(one), "example", value, one.weight, text)

    parts = []
    if liked:
        weights = np.array([one.weight for one in liked])
        joined = sum(w * alike[one] for w, one in zip(weights / weights.sum(), liked, strict=True))
        p = judged(np.asarray(joined), np.min([same[one] for one in liked], axis=0))

        def explain(row: int) -> list[Reason]:
            at = slice(row, row + 1)
            return [reason(one, row, float(judged(alike[one][at], same[one][at])[0])) for one in liked]

        parts.append(Part(float(weights.mean()), False, np.clip(p, 1e-6, 1), least, explain))
    # Likeness is rarely probable, so "not alike" would hardly count. Measured against the threshold from which a
    # picture counts as a hit, it does: there the odds are even.
    shift = Line(line.slope, line.shift - float(log_odds(np.array(least))))
    for one in vectors:
        if one.negative:
            close = judged(alike[one], same[one], shift)
            # its picture is no hit, and neither are copies of it
            away = np.where(close > 0.98, 1e-6, 1 - close).astype(np.float32)

            def avoided(row: int, one: Example = one, away: np.ndarray = away) -> list[Reason]:
                return [reason(one, row, float(away[row]))]

            parts.append(Part(one.weight, True, away, 0.02, avoided))
    return parts, looked


@dataclass(frozen=True)
class _Told:
    """A word to be found: its part, its places in the query, its spelling, whether the space knows it, its concepts."""

    part: Part
    at: range
    text: str
    read: bool
    shown: np.ndarray


def _together(witness: Witness, run: Sequence[_Told], texts: dict[int, str]) -> Part:
    """The part of all words to be found: by their own witnesses, as a sentence, or the rest of it as one.

    `texts`: the words by their places, as the space is asked for them.
    """
    weights = np.array([one.part.weight for one in run], np.float64)
    powers = weights * len(run) / weights.sum()
    logs = [np.log(one.part.p.astype(np.float64)) * power for one, power in zip(run, powers, strict=True)]
    needs = [float(np.log(one.part.threshold)) * power for one, power in zip(run, powers, strict=True)]
    count = len(logs[0])

    def spoken(left: Sequence[int]) -> str:
        """What is asked where these words of the run are left to the space."""
        gone = {place for k in range(len(run)) if k not in left for place in run[k].at}
        return " ".join(texts[place] for place in sorted(texts) if place not in gone)

    def sentence(left: Sequence[int]) -> tuple[str, np.ndarray | None]:
        """The same, and log p, float64 (N,)."""
        if not any(run[k].read for k in left):
            return "", None
        text = spoken(left)
        found = np.log(np.clip(witness.probability(text).astype(np.float64), 1e-6, 1))
        for k in left:  # a word that counts twice is asked twice
            if powers[k] != 1 and run[k].read:
                found += (powers[k] - 1) * np.log(np.clip(witness.probability(run[k].text).astype(np.float64), 1e-6, 1))
        return text, np.minimum(found, 0)

    chance, over, needed = sum(logs), sum(logs) - sum(needs), []  # what a hit of each way needs
    if float(over.max(initial=-1)) >= 0:
        needed.append(sum(needs))
    asked: list[tuple[str, np.ndarray | None]] = [("", None)]  # sentences; 0: none
    source = np.zeros(count, np.int64)
    # the words that the space does not know, and those that have witnesses of their own, leave it the others
    ways = [([k for k, one in enumerate(run) if not one.read], np.ones(count, bool))]
    if len(run) <= _MOST_RESTS:
        attested = sum((one.part.p >= one.part.threshold).astype(np.int64) << k for k, one in enumerate(run))
        for code in np.flatnonzero(np.bincount(attested))[:_MOST_RESTS].tolist():
            if 0 < code < (1 << len(run)) - 1:
                ways.append(([k for k in range(len(run)) if code >> k & 1], attested == code))
    rests = [[k for k, one in enumerate(run) if k in own or not one.read] for own, _ in ways]
    left = [[k for k in range(len(run)) if k not in rest] for rest in rests]
    witness.ask([spoken(kept) for kept in left if any(run[k].read for k in kept)])
    for (_, rows), rest, kept in zip(ways, rests, left, strict=True):
        text, said = sentence(kept)
        if said is None:
            continue
        total = said + sum((logs[k] for k in rest), np.zeros(count))
        least = float(np.log(witness.needed(text)))
        needed.append(least + sum(needs[k] for k in rest))
        enough = said - least + sum((logs[k] - needs[k] for k in rest), np.zeros(count))
        better = rows & (total > chance)
        source[better] = len(asked)
        asked.append((text, said))
        chance, over = np.where(better, total, chance), np.where(rows, np.maximum(over, enough), over)
    whole = " ".join(texts[place] for place in sorted(texts))

    def explain(row: int) -> list[Reason]:
        text, said = asked[source[row]]
        if said is None:
            text, said = asked[1] if len(asked) > 1 else ("", None)
        reasons = []
        if said is not None and (source[row] or np.exp(said[row]) >= _WORTH_SAYING):
            p = float(np.exp(said[row]))
            named = witness.said(text, row)
            reasons.append(Reason(text or whole, "sentence", p, float(weights.mean()), f"sentence {p:.2f}: {named}"))
        for one in run:
            if not reasons or max(one.part.p[row], one.shown[row]) >= _WORTH_SAYING:
                reasons += one.part.explain(row)
        return reasons if source[row] else sorted(reasons, key=lambda reason: reason.kind == "sentence")

    p = np.clip(np.exp(chance), 1e-6, 1 - 1e-6).astype(np.float32)
    return Part(float(weights.mean()), False, p, float(np.exp(min(needed, default=sum(needs)))), explain, over)


def _best(view: View, model: str | None, match: Match, row: int) -> str:
    if model is None or len(match.concepts) < 2:
        return ""
    rows, values = view.vectors(model, OUTPUT)  # in the order of rows
    at = int(np.searchsorted(rows, row))
    if at == len(rows) or rows[at] != row:
        return ""
    own = values[at].astype(np.float32)[list(match.concepts)]
    concepts = view.vocabulary(model)
    assert concepts is not None
    return f" ({concepts.classes[match.concepts[int(own.argmax())]]} {own.max():.2f})"
