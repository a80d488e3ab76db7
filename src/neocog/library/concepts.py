"""From a word to concepts: by name, synonym and broader term, and in spite of typing errors.

A *concept* is a class that a net knows. The names and broader terms of the 1,000 ImageNet classes are those of
WordNet 3.0 (wordnet.json, made by scripts/make_wordnet.py; its notice is in the file and in wordnet.LICENSE.txt).
A word that is neither a concept nor common English (english.json, from SCOWL, made by scripts/make_english.py; notice
likewise) is taken to be mistyped.
A net trained on other classes takes part as well: where WordNet knows the name of a class, its synonyms and broader
terms hold for it, so that *animal* finds the classes ``cat`` and ``horse`` of a run on your own folders.

Nothing here needs torch.
"""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path

import numpy as np

from neocog.text.english import LETTERS as LETTERS
from neocog.text.english import STOP_WORDS as STOP_WORDS
from neocog.text.english import normalise as normalise
from neocog.text.english import says_nothing as says_nothing
from neocog.text.english import singulars as singulars

# Words that turn the meaning of others, and what to type where searching cannot follow them (see wording.py).
_NOT = "type - or NOT before what must not be there, such as -leash"
TURNING = {
    "or": "type OR in capitals between two alternatives",
    **dict.fromkeys(("no", "not", "without", "nobody"), _NOT),
}
# What people call things that WordNet has below, not above, the classes of ImageNet.
_ALIASES = {
    **dict.fromkeys(("puppy", "pup", "doggy", "doggie", "hound dog"), "dog"),
    **dict.fromkeys(("kitten", "kitty", "pussycat"), "domestic cat"),
    **dict.fromkeys(("tv", "telly"), "television"),
    **dict.fromkeys(("smartphone", "cell"), "cellular telephone"),
    **dict.fromkeys(("pc", "desktop"), "desktop computer"),
}
# English words that stand for what they begin: a tennis ball is a sign of tennis.
_GAMES = frozenset(("croquet", "golf", "rugby", "snooker", "soccer", "tennis"))


@dataclass(frozen=True)
class Match:
    """The concepts that stand for a word.

    Attributes:
        asked: what was typed.
        taken: the names of what was found; several where a word has several senses (*crane*).
        how: "name" (a class), "broader" (a term that covers classes), "part" (the last or first word of a name), or
            "typo".
        concepts: positions of the classes, ascending.
        examples: the names of the first classes.
    """

    asked: str
    taken: tuple[str, ...]
    how: str
    concepts: tuple[int, ...]
    examples: tuple[str, ...]

    def __str__(self) -> str:
        n = len(self.concepts)
        shown = ", ".join(self.examples) + (", ..." if n > len(self.examples) else "")
        many = f"the concept {shown}" if n == 1 else f"{n} concepts ({shown})"
        if self.how == "typo":
            return f"{self.asked!r} is not known; used {' or '.join(map(repr, self.taken))}: {many}"
        return f"{self.asked!r}: {many}"


class Vocabulary:
    """The concepts of one net, and how words find them."""

    def __init__(self, classes: Sequence[str]) -> None:
        """The classes of a net, in the order of its outputs; "imagenet" stands for its 1,000 (see `vocabulary`)."""
        self.classes = tuple(classes)
        words = _wordnet()
        own: list[tuple[tuple[str, ...], frozenset[int]]]
        if self.classes == words.classes:
            own = [(names, frozenset(_above(words, parents))) for names, parents in words.nodes[words.split :]]
        else:
            own = [words.lookup(name) for name in self.classes]
        self._names: dict[str, set[int]] = defaultdict(set)  # normalised name -> nodes (classes, then broader terms)
        self._shown: dict[int, str] = dict(enumerate(self.classes))
        self._several: dict[tuple[str, ...], set[int]] = defaultdict(set)  # names of classes, of several words
        below: dict[int, list[int]] = defaultdict(list)
        for i, (names, broader) in enumerate(own):
            for name in names:
                self._names[normalise(name)].add(i)
                # a hyphen makes one word: bicycle-built-for-two is no *two*; and *not a wet dog* stands for no dog
                parts = [normalise(part) for part in re.split(r"[ _]+", name)]
                if len(parts) > 1 and not TURNING.keys() & set(parts):
                    self._several[tuple(parts)].add(i)
            for term in broader:
                below[term].append(i)
        self._below: dict[int, tuple[int, ...]] = {i: (i,) for i in range(len(self.classes))}
        for term, covered in below.items():
            node = len(self.classes) + term
            self._below[node] = tuple(covered)
            self._shown[node] = words.nodes[term][0][0]
            for name in words.nodes[term][0]:
                self._names[normalise(name)].add(node)
        self._broader = [tuple(sorted(broader, reverse=True)) for _, broader in own]
        self._names.pop("", None)

    def __len__(self) -> int:
        return len(self.classes)

    def find(self, text: str, *, typos: bool = True) -> Match | None:
        """Return the concepts that `text`, one word or a name of several, stands for; None if it is no concept."""
        found = self._exactly(text)
        if found is None and typos:
            found = self.corrected(text, self._spelling.correct(text))
        return found

    def corrected(self, text: str, names: Sequence[str]) -> Match | None:
        """Return the concepts of all of `names` (see `Spelling`), for which `text` was taken to be mistyped."""
        several = [match for name in names if (match := self._exactly(name)) is not None]
        if not several:
            return None
        concepts = tuple(sorted({i for match in several for i in match.concepts}))
        taken = tuple(normalise(match.asked) for match in several)
        return Match(text, taken, "typo", concepts, tuple(self.classes[i] for i in concepts[:3]))

    def _exactly(self, text: str) -> Match | None:
        key = normalise(text)
        if not key:
            return None
        for form in (key, *singulars(key)):
            form = form if form in self._names else _ALIASES.get(form, form)
            if form in self._names:
                return self._match(text, self._names[form])
        if key.replace(" ", "") in self._joined:
            return self._match(text, self._joined[key.replace(" ", "")])
        for form in (key, *singulars(key)):
            for part in (self._heads, self._starts):
                if form in part:
                    return self._match(text, part[form], "part")
        return None

    def named(self, text: str) -> bool:
        """Whether `text` is, as it stands or as a plural, the name of a concept or of a broader term."""
        key = normalise(text)
        return any(form in self._names for form in (key, *singulars(key)))

    def broader(self, concept: int) -> tuple[str, ...]:
        """Return the broader terms of a class, the most special first."""
        return tuple(self._shown[len(self.classes) + term] for term in self._broader[concept])

    def summary(self, probabilities: np.ndarray, least: float = 0.5) -> list[tuple[str, float]]:
        """Return what probabilities float (K,) of the classes amount to: each term that reaches `least`, special first.

        A term is left out when another, more special one covers it and has the same probability to within 1 %, and
        when it covers most classes: that a picture shows an object is no news.
        """
        found: list[tuple[int, str, float]] = []
        for node, covered in self._below.items():
            total = float(probabilities[list(covered)].sum())
            if total >= least and (len(covered) == 1 or 2 * len(covered) <= len(self)):
                found.append((len(covered), self._shown[node], min(total, 1.0)))
        kept: list[tuple[str, float]] = []
        for _, name, total in sorted(found, key=lambda f: (f[0], -f[2])):
            if not kept or (total > kept[-1][1] + 0.01 and name not in dict(kept)):
                kept.append((name, total))
        return kept

    def _match(self, asked: str, nodes: Iterable[int], how: str = "") -> Match:
        found = sorted(nodes)
        concepts = tuple(sorted(set().union(*(self._below[n] for n in found))))
        if not how:
            how = "name" if found[0] < len(self.classes) else "broader"
        taken = tuple(dict.fromkeys(self._shown[n] for n in found))
        return Match(asked, taken, how, concepts, tuple(self.classes[i] for i in concepts[:3]))

    @cached_property
    def _joined(self) -> dict[str, set[int]]:
        """Names written without spaces: *hotdog*, *lap top*."""
        return _gathered((name.replace(" ", ""), nodes) for name, nodes in self._names.items())

    @cached_property
    def _heads(self) -> dict[str, set[int]]:
        """The last word of a class's name of several: *shepherd* stands for *German shepherd*."""
        return _gathered((name[-1], nodes) for name, nodes in self._several.items())

    @cached_property
    def _starts(self) -> dict[str, set[int]]:
        """The first word of a name of several, if it means little else: *labrador*, *tennis*, but not *giant*."""
        alone = {name: nodes for name, nodes in self._several.items() if not is_english(name[0]) or name[0] in _GAMES}
        return _gathered((name[0], nodes) for name, nodes in alone.items())

    @property
    def spellings(self) -> list[str]:
        """All that `find` knows, normalised: names, and words that stand for them."""
        return [*self._names, *self._heads, *self._starts]

    @cached_property
    def _spelling(self) -> Spelling:
        return Spelling(self.spellings)


def _gathered(pairs: Iterable[tuple[str, set[int]]]) -> dict[str, set[int]]:
    found: dict[str, set[int]] = defaultdict(set)
    for name, nodes in pairs:
        found[name] |= nodes
    return dict(found)


def vocabulary(concepts: str | Sequence[str]) -> Vocabulary:
    """Return the `Vocabulary` of "imagenet" or of a list of class names; the 1,000 ImageNet names mean "imagenet"."""
    return _vocabulary("imagenet" if isinstance(concepts, str) else tuple(concepts))


@lru_cache(maxsize=8)
def _vocabulary(concepts: str | tuple[str, ...]) -> Vocabulary:
    official = _wordnet().classes
    if isinstance(concepts, str):
        return Vocabulary(official)
    # lists of the 1,000 names differ in a few spellings and in what they append
    same = len(concepts) == len(official) and np.mean(
        [normalise(a.split(",")[0]) == normalise(b) for a, b in zip(concepts, official, strict=True)]
    )
    return Vocabulary(official if same > 0.9 else concepts)


class Spelling:
    """The nearest of many names, by the number of letters left out, added, changed or swapped (Damerau 1964).

    All names are compared at once, a column of the table of distances for all of them in one numpy operation: 3,000
    names take some milliseconds.
    """

    def __init__(self, names: Iterable[str]) -> None:
        self._all = {n for n in names if 2 < len(n) <= 40}
        self.names = sorted(self._all)
        self.lengths = np.array([len(n) for n in self.names], dtype=np.int64)
        width = int(self.lengths.max(initial=0))
        joined = "".join(n.ljust(width, "\0") for n in self.names)
        self.letters = np.frombuffer(joined.encode("utf-32-le", "surrogatepass"), np.uint32).reshape(-1, max(width, 1))

    def correct(self, text: str) -> tuple[str, ...]:
        """Return the names nearest to what was typed; none if it is an English word: *grass* is no mistyped *brass*."""
        key = normalise(text)
        return () if is_english(key) else self.nearest(key)

    def nearest(self, word: str) -> tuple[str, ...]:
        """Return the names nearest to `word`: one error in 5 to 7 letters, two in 8 or more.

        The first letter is taken to be right (or swapped with the second): people rarely mistype it, and other words
        (*beach*, *peach*) differ in it. In 3 or 4 letters only a swap of two neighbours after the first counts (*dgo*):
        any other error makes another word.
        """
        if len(word) in (3, 4):
            swaps = [word[:i] + word[i + 1] + word[i] + word[i + 2 :] for i in range(1, len(word) - 1)]
            return tuple(sorted({one for one in swaps if one != word and one in self._all}))
        if not 5 <= len(word) <= 40:
            return ()
        first = np.frombuffer(word[:2].encode("utf-32-le", "surrogatepass"), np.uint32)
        start = self.letters[:, 0] == first[0]
        if self.letters.shape[1] > 1:
            start = start | ((self.letters[:, 0] == first[1]) & (self.letters[:, 1] == first[0]))
        allowed = np.where(np.maximum(self.lengths, len(word)) < 8, 1, 2)
        rows = np.flatnonzero(start & (np.abs(self.lengths - len(word)) <= allowed) & (self.lengths > 3))
        if not len(rows):
            return ()
        distance = damerau(word, self.letters[rows], self.lengths[rows])
        distance = np.where(distance <= allowed[rows], distance, len(word))
        best = int(distance.min())
        return tuple(self.names[i] for i in rows[distance == best]) if best < len(word) else ()


def damerau(word: str, letters: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """Return int64 (N,): edits (insert, delete, change, swap of two neighbours) from `word` to each of N words.

    `letters` uint32 (N, W) are their code points, padded; `lengths` int64 (N,). "Optimal string alignment": what was
    swapped is not edited again.
    """
    codes = np.frombuffer(word.encode("utf-32-le", "surrogatepass"), np.uint32)
    n, width = letters.shape
    before = np.zeros((n, width + 1), np.int64)
    row = np.tile(np.arange(width + 1), (n, 1))
    for i, code in enumerate(codes):
        after = np.empty_like(row)
        after[:, 0] = i + 1
        changed = row[:, :-1] + (letters != code)
        for j in range(width):
            best = np.minimum(np.minimum(row[:, j + 1], after[:, j]) + 1, changed[:, j])
            if i and j:
                swapped = (letters[:, j] == codes[i - 1]) & (letters[:, j - 1] == code)
                best = np.where(swapped, np.minimum(best, before[:, j - 1] + 1), best)
            after[:, j + 1] = best
        before, row = row, after
    return row[np.arange(n), lengths]


def is_english(text: str) -> bool:
    """Whether all words of a normalised text, or their singulars, are common English words (see english.json)."""
    words = text.split()
    return bool(words) and all(any(form in _english() for form in (word, *singulars(word))) for word in words)


@lru_cache(maxsize=1)
def _english() -> frozenset[str]:
    return frozenset(json.loads(Path(__file__).with_name("english.json").read_text("utf-8"))["words"].split())


# ---- WordNet


class _WordNet:
    """The compact file, read: nodes are broader terms, then the ImageNet classes; parents are broader terms."""

    def __init__(self, data: dict) -> None:
        self.split = len(data["terms"])
        self.nodes: list[tuple[tuple[str, ...], tuple[int, ...]]] = [
            (tuple(names), tuple(parents)) for names, parents in data["terms"]
        ] + [(tuple(names), tuple(parents)) for _, names, parents in data["classes"]]
        self.classes = tuple(names[0] for _, names, _ in data["classes"])
        self._wnids = {wnid: self.split + i for i, (wnid, _, _) in enumerate(data["classes"])}

    @cached_property
    def _by_name(self) -> dict[str, list[int]]:
        found: dict[str, list[int]] = defaultdict(list)
        for node, (names, _) in enumerate(self.nodes):
            for name in names:
                found[normalise(name)].append(node)
        return found

    def lookup(self, name: str) -> tuple[tuple[str, ...], frozenset[int]]:
        """Return all names, and all broader terms, of a class of any net; an unknown name has only itself."""
        if name in self._wnids:
            nodes = [self._wnids[name]]
        else:
            key = normalise(name)
            nodes = next((self._by_name[f] for f in (key, *singulars(key)) if f in self._by_name), [])
        if len(nodes) > 1:  # a name with several senses: only what they have in common is sure
            shared = frozenset.intersection(*(frozenset(_above(self, self.nodes[n][1])) for n in nodes))
            return (name,), shared
        if not nodes:
            return (name,), frozenset()
        names, parents = self.nodes[nodes[0]]
        return (name, *names), frozenset(_above(self, parents))


def _above(words: _WordNet, parents: Iterable[int]) -> set[int]:
    found: set[int] = set()
    waiting = list(parents)
    while waiting:
        term = waiting.pop()
        if term not in found:
            found.add(term)
            waiting.extend(words.nodes[term][1])
    return found


@lru_cache(maxsize=1)
def _wordnet() -> _WordNet:
    return _WordNet(json.loads(Path(__file__).with_name("wordnet.json").read_text("utf-8")))
