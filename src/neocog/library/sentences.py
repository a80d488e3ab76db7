"""What a sentence says of the pictures of a library: one more witness beside those of the words (evidence.py).

A space of pictures and sentences (``text/space.py``) comes with neocog; `learning.py` makes one of a library's own.
It reads the vectors that a library has of one net, its trunk, so no picture is looked at again: the pictures' places
in the space are computed once, and kept beside the other copies of the library's columns.

A word is known to the space if it is common English, or one of the captions that the space was made of. Any other word
would be read as well, by its letters, and its answer would mean nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property, lru_cache
from pathlib import Path

import numpy as np

from neocog.errors import DataError
from neocog.library.calibration import log_odds, sigmoid
from neocog.library.concepts import Vocabulary, is_english, normalise, says_nothing, singulars
from neocog.library.store import Store
from neocog.library.view import View
from neocog.records import counted
from neocog.text.space import FILES, Space

FOLDER = "sentences"  # in a library: a space of its own
# Where one picture reaches the space's threshold, what the text says is in this library, and pictures with this share
# of the threshold are hits, too.
_FOLLOWING = 0.5
_COMMON = 0.01  # share of the training's pictures of which a caption has a word, from which on the word is common
_MOST_CLASSES = 0.2  # share of a net's classes from which on a concept is too broad to be seen (object, being)
_NOT_SEEN = -6.0  # log-odds of a concept in a picture that does not show it, about
_REACH = (-6.0, 12.0)  # how much less or more they can be
_LEAST_SHARE = 0.25  # of what the strongest word adds: from there on a word is named
_MOST_NAMED = 3
Seen = Callable[[str], np.ndarray | None]


def space_of(store: Store) -> Space | None:
    """Return the space that a library is searched with: its own, or the one that comes with neocog; None without one.

    Raises: DataError: its own is damaged.
    """
    own = store.folder / FOLDER
    try:
        return _loaded(own, tuple((own / name).stat().st_mtime_ns for name in FILES))
    except FileNotFoundError:
        return shipped()


@lru_cache(maxsize=4)
def _loaded(folder: Path, changed: tuple[int, ...]) -> Space:
    return Space.load(folder)


@lru_cache(maxsize=1)
def shipped() -> Space | None:
    """The space that comes with neocog."""
    try:
        return Space.load(None)
    except DataError:
        return None


def places(store: Store, space: Space) -> tuple[np.ndarray, np.ndarray]:
    """Return hashes "U32" (N,) and places float16 (N, D) in a space of the pictures that its trunk has seen."""
    return store.derived(space.trunk, space.fingerprint, space.dimensions, space.pictures)


def prepare(store: Store) -> None:
    """Compute the places of pictures that are new, so that the next search starts at once."""
    space = space_of(store)
    if space is not None and space.trunk in store.models():
        places(store, space)


def witness_of(view: View) -> Witness | None:
    """Return the witness for the pictures of a view; None where the library lacks the vectors that the space reads."""
    space = space_of(view.store)
    return Witness(view, space) if space is not None and space.trunk in view.store.models() else None


def missing_note(view: View, witness: Witness | None) -> list[str]:
    """What to type where pictures lack the vectors that the space reads."""
    space = space_of(view.store) if witness is None else witness.space
    away = len(view) if witness is None else witness.away
    if away and (sound := view.store.model_of(sounds=True)) is not None:  # recordings have no place
        away -= min(away, len(view.vectors(sound)[0]))
    if space is None or not away:
        return []
    which = "" if witness is None else f"{counted(away, f'picture of {len(view):,}', 'is')} not found by sentence; "
    return [
        f"{which}to search by sentence, type 'neocog index --net {space.trunk}'; until then each word is judged alone"
    ]


def seen_in(classes: Vocabulary | None, probabilities: Callable[[tuple[int, ...]], np.ndarray]) -> Seen:
    """What a net's classes say of pictures that are to show what a text says, float32 (N,); None: it names no class.

    That is how much higher the log-odds of a word's concepts are than where they are not shown, 0 for a word that is no
    concept, and the mean over the words.

    Args:
        probabilities: float32 (N,): the sum of those of some classes.
    """

    def seen(text: str) -> np.ndarray | None:
        words, found = [word for word in normalise(text).split() if not says_nothing(word)], []
        while words and classes is not None:
            size = 2 if len(words) > 1 and classes.named(" ".join(words[:2])) else 1
            match = classes.find(" ".join(words[:size]), typos=False)
            there = match is not None and match.how != "part" and len(match.concepts) < _MOST_CLASSES * len(classes)
            odds = log_odds(probabilities(match.concepts)) if there and match is not None else None
            found.append((size, odds))
            words = words[size:]
        several = [np.clip(odds - _NOT_SEEN, *_REACH) * size for size, odds in found if odds is not None]
        return sum(several) / sum(size for size, _ in found) if several else None  # type: ignore[return-value]

    return seen


class Witness:
    """A space, asked about the pictures of one view, with what the net of its trunk sees in them."""

    def __init__(self, view: View, space: Space) -> None:
        self.view, self.space = view, space
        self._asked: dict[str, np.ndarray] = {}
        self.seen = seen_in(view.vocabulary(space.trunk), lambda some: view.probabilities(space.trunk, some))
        words = space.about.get("words", {})
        self._words, self._common = frozenset(words), frozenset(space.about.get("common", ()))
        if not isinstance(words, list):  # as spaces of a library were kept first
            self._common |= {word for word, share in words.items() if share >= _COMMON}

    @cached_property
    def _places(self) -> tuple[np.ndarray, np.ndarray]:
        hashes, values = places(self.view.store, self.space)
        rows = self.view.aligned(hashes)
        return (rows, values) if (rows >= 0).all() else (rows[rows >= 0], values[rows >= 0])

    @property
    def away(self) -> int:
        """Pictures that have no place."""
        return len(self.view) - len(self._places[0])

    def judges(self, model: str | None) -> bool:
        """Whether the concepts of a model count in what the space says, so that they are no witness beside it."""
        return self.space.weighs_classes and model == self.space.trunk

    def knows(self, text: str, *, concept: bool = False) -> bool:
        """Whether the space can say something of a word, or of several.

        `concept`: the net has a concept of that name. Then it knows better, unless the captions had the words as well.
        """
        words = normalise(text).split()
        return bool(words) and all(
            any(form in self._words for form in (word, *singulars(word))) or (not concept and is_english(word))
            for word in words
        )

    def probability(self, text: str) -> np.ndarray:
        """Return float32 (N,): how probable it is that each picture shows what a text says; 0 where none can say."""
        self.ask([text])
        return self._asked[text]

    def ask(self, texts: Sequence[str]) -> None:
        """Find out the probabilities of several texts in one pass over the pictures, which takes as long as for one."""
        new = [text for text in dict.fromkeys(texts) if text not in self._asked]
        if not new:
            return
        heads = [self.space.heads(text) for text in new]
        vectors = np.concatenate((self.space.sentences(new), *(vectors for vectors, _ in heads)))
        rows, values = self._places
        products = self.view.store.products(self.space.trunk, self.space.fingerprint, values, vectors.T)
        after = len(new)
        for k, (text, (_, added)) in enumerate(zip(new, heads, strict=True)):
            found = np.zeros(len(self.view), np.float32)
            seen = self.seen(text)
            seen = seen if seen is None else seen[rows]
            heard = self.space.heard(products[:, after : after + len(added)], added) if len(added) else None
            after += len(added)
            found[rows] = self.space.probability(np.ascontiguousarray(products[:, k]), text, seen, heard)
            self._asked[text] = found

    def needed(self, text: str) -> float:
        """Return the probability from which a picture is a hit.

        What is common in captions is in most libraries, too, and needs no picture that is beyond doubt.
        """
        words = [word for word in normalise(text).split() if not says_nothing(word)]
        common = bool(words) and all(self._common & {word, *singulars(word)} for word in words)
        sure = common or float(self.probability(text).max(initial=0)) >= self.space.threshold
        return self.space.threshold * (_FOLLOWING if sure else 1)

    def against(self, text: str) -> np.ndarray:
        """Return float32 (N,): the probability if the odds were even at what a hit needs; for ``-word``."""
        p, shift = self.probability(text), float(log_odds(np.array(self.needed(text))))
        return np.where(p > 0, sigmoid(log_odds(p) - shift), 0).astype(np.float32)

    def said(self, text: str, row: int) -> str:
        """Name the words of a text that speak most for a picture, those that stand side by side together."""
        rows, values = self._places
        place = np.flatnonzero(rows == row)
        if not len(place):
            return ""
        added = self.space.contributions(text, values[place[0]].astype(np.float32))
        most = max((value for word, value in added if not says_nothing(word)), default=0.0)
        runs: list[tuple[float, list[str]]] = [(0.0, [])]
        for word, value in added:
            if most > 0 and value >= _LEAST_SHARE * most and not says_nothing(word):
                runs[-1] = (runs[-1][0] + value, [*runs[-1][1], word])
            elif runs[-1][1]:
                runs.append((0.0, []))
        named = sorted((run for run in runs if run[1]), key=lambda run: -run[0])[:_MOST_NAMED]
        return ", ".join(" ".join(words) for _, words in named)
