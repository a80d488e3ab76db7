"""Texts as rows of integers: words, letter trigrams of words (Huang et al. 2013), or subwords.

All read texts alike: Unicode NFC, lower case. Words and trigrams split punctuation off ("t-shirt." is four words) and
make a word of every ideograph and kana; an apostrophe between letters stays in its word. 0 is padding everywhere.
"""

from __future__ import annotations

import hashlib
import json
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from importlib.util import find_spec
from itertools import chain
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from neocog.errors import DataError, MissingExtra

PAD, UNKNOWN, START, END = range(4)
_BROKEN = re.compile("[\ud800-\udfff]")


class Tokenizer(Protocol):
    """What makes integers of texts. `size`: how many different ones, the padding 0 among them."""

    kind: str
    size: int

    def encode(self, texts: Sequence[str], longest: int | None = None) -> np.ndarray:
        """int32 (N, L), L at least 1, padded with 0 at the end; `longest`: the most tokens that are kept of a text."""
        ...

    def to_json(self) -> dict[str, Any]:
        """What `load_tokenizer` makes the same of."""
        ...


# ---------------------------------------------------------------- words


def split_words(texts: Iterable[str]) -> list[list[str]]:
    """The words and marks of punctuation of each text, lower-case."""
    return [_spaced(text) for text in texts]


def normal(text: str) -> str:
    """A text in Unicode NFC and lower case; half a character, as in a file name, is a space."""
    return unicodedata.normalize("NFC", _BROKEN.sub(" ", text)).lower()


def _spaced(text: str) -> list[str]:
    words = normal(text).translate(_SPACED).split()
    if "'" not in text and "’" not in text:
        return words
    return list(chain.from_iterable(map(_quoted, words)))


def _quoted(word: str) -> Iterable[str]:
    """A word without the apostrophes at its ends, which stand alone."""
    bare = word.strip("'")
    if bare == word or not bare:
        return word if not bare else (word,)
    before = len(word) - len(word.lstrip("'"))
    return (*word[:before], bare, *word[before + len(bare) :])


class _Spaces(dict[int, str]):
    """For ``str.translate``: spaces around what is a word of its own; asked once for each letter."""

    def __missing__(self, code: int) -> str:
        letter, kind = chr(code), unicodedata.category(chr(code))
        if letter in "'’":
            made = "'"
        elif kind[0] in "ZC":
            made = "" if kind == "Cf" else " "
        else:
            made = f" {letter} " if kind[0] in "PS" or _alone(code) else letter
        self[code] = made
        return made


def _alone(code: int) -> bool:
    """Whether a letter is written without spaces around words: ideographs and kana."""
    return (
        0x3040 <= code <= 0x30FF or 0x3400 <= code <= 0x9FFF or 0xF900 <= code <= 0xFAFF or 0x20000 <= code <= 0x323AF
    )


_SPACED = _Spaces()
_CLOSING, _OPENING = frozenset(".,;:!?%)]}"), frozenset("([{")


def learn(kind: str, texts: Iterable[str], least: int = 1) -> Tokenizer:
    """A tokenizer of one of `KINDS`, made of texts; of words, characters or trigrams those seen `least` times."""
    if kind in ("subwords", "pieces"):
        return Subwords() if kind == "subwords" else Pieces()
    kinds: dict[str, type[Words] | type[Trigrams]] = {"words": Words, "characters": Characters, "trigrams": Trigrams}
    return kinds[kind].learn(texts, least)


def _by_words(texts: Sequence[str], longest: int | None, parts: Callable[[str], Sequence[int]]) -> np.ndarray:
    """int32 (N, L, T): the parts of each word, up to the word of these texts that has most."""
    rows = [words[:longest] for words in split_words(texts)]
    place = {word: k for k, word in enumerate(dict.fromkeys(chain.from_iterable(rows)), 1)}
    table = padded([[], *map(parts, place)])  # (V, T)
    return table[padded([[place[word] for word in row] for row in rows])]


class Words:
    """A vocabulary of whole words; ids 0 padding, 1 unknown, 2 start, 3 end, then the words, the commonest first.

    Attributes:
        words: the words, id 4 first.
        counts: int64, how often each was seen.
    """

    kind = "words"

    split = staticmethod(split_words)

    def __init__(self, words: Sequence[str], counts: Sequence[int] | np.ndarray) -> None:
        self.words, self.counts = tuple(words), np.asarray(counts, np.int64)
        self.size = len(self.words) + 4
        self._ids = {word: k for k, word in enumerate(self.words, 4)}

    @classmethod
    def learn(cls, texts: Iterable[str], least: int = 1) -> Words:
        """The words that stand in `texts` at least `least` times."""
        counts = Counter(chain.from_iterable(cls.split(texts)))
        kept = sorted(
            (word for word, count in counts.items() if count >= least), key=lambda word: (-counts[word], word)
        )
        return cls(kept, [counts[word] for word in kept])

    def encode(self, texts: Sequence[str], longest: int | None = None, *, ends: bool = False) -> np.ndarray:
        """See `Tokenizer`; `ends` puts a start before each text and an end behind it (`longest` counts words)."""
        get = self._ids.get
        rows = [[get(word, UNKNOWN) for word in words[:longest]] for words in self.split(texts)]
        return padded([[START, *row, END] for row in rows] if ends else rows)

    def tokens(self, ids: Iterable[int]) -> list[str]:
        """The words of ids; … is one that is not known, padding is left out."""
        return [self.words[int(k) - 4] if k >= 4 else "…" for k in ids if k]

    def text(self, ids: Iterable[int]) -> str:
        """The words up to the end, with no space before marks that close."""
        made, open_ = "", True
        for one in map(int, ids):
            if one == END:
                break
            if one in (PAD, START):
                continue
            word = self.words[one - 4] if one >= 4 else "…"
            made += word if open_ or word in _CLOSING else f" {word}"
            open_ = word in _OPENING
        return made

    def to_json(self) -> dict[str, Any]:
        return {"kind": self.kind, "words": list(self.words), "counts": self.counts.tolist()}


class Characters(Words):
    """As `Words`, of single characters in lower case; spaces are characters."""

    kind = "characters"

    @staticmethod
    def split(texts: Iterable[str]) -> list[list[str]]:
        """The characters of each text."""
        return [list(" ".join(normal(text).split())) for text in texts]


def padded(rows: Sequence[Sequence[int]]) -> np.ndarray:
    """int32 (N, L) of rows of several lengths, 0 where a row is over; L is at least 1."""
    lengths = np.fromiter(map(len, rows), np.int64, len(rows))
    made = np.zeros((len(rows), max(1, int(lengths.max(initial=0)))), np.int32)
    made[np.arange(made.shape[1]) < lengths[:, None]] = np.fromiter(chain.from_iterable(rows), np.int32, lengths.sum())
    return made


# ---------------------------------------------------------------- letter trigrams


def trigrams_of(word: str) -> list[str]:
    """``good``: #go, goo, ood, od#."""
    marked = f"#{word}#"
    return [marked[k : k + 3] for k in range(max(1, len(marked) - 2))]


class Trigrams:
    """Letter trigrams of words (P.-S. Huang et al., "Learning deep structured semantic models for web search using
    clickthrough data", CIKM 2013): any vocabulary becomes a few ten thousand numbers, and a new word is seldom unknown.

    Ids: 0 padding, 1 a trigram that was not seen, then `trigrams`.

    Attributes:
        trigrams: the trigrams, id 2 first.
        words: how many different words they were learned from.
        collisions: how many of these have the trigrams of another one (the paper: 22 of 500,000).
    """

    kind = "trigrams"

    def __init__(self, trigrams: Sequence[str], words: int = 0, collisions: int = 0) -> None:
        self.trigrams, self.words, self.collisions = tuple(trigrams), words, collisions
        self.size = len(self.trigrams) + 2
        self._ids = {trigram: k for k, trigram in enumerate(self.trigrams, 2)}

    @classmethod
    def learn(cls, texts: Iterable[str], least: int = 1) -> Trigrams:
        """The trigrams of the words that stand in `texts` at least `least` times."""
        counts = Counter(chain.from_iterable(split_words(texts)))
        words = [word for word, count in counts.items() if count >= least]
        found = sorted(set(chain.from_iterable(map(trigrams_of, words))))
        return cls(found, len(words), sum(len(group) for group in colliding(words)))

    def encode(self, texts: Sequence[str], longest: int | None = None) -> np.ndarray:
        """int32 (N, L, T): the trigrams of each word, up to the longest word of these texts."""
        get = self._ids.get
        return _by_words(texts, longest, lambda word: [get(trigram, UNKNOWN) for trigram in trigrams_of(word)])

    def to_json(self) -> dict[str, Any]:
        made = {"kind": self.kind, "trigrams": list(self.trigrams)}
        return {**made, "words": self.words, "collisions": self.collisions}


def colliding(words: Iterable[str]) -> list[list[str]]:
    """Groups of different words that have the same letter trigrams, equally often."""
    groups: dict[tuple[str, ...], list[str]] = {}
    for word in dict.fromkeys(words):
        groups.setdefault(tuple(sorted(trigrams_of(word))), []).append(word)
    return [group for group in groups.values() if len(group) > 1]


# ---------------------------------------------------------------- subwords


class Subwords:
    """The 32,000 subwords of the package wordllama (those of Llama 2), to which its word vectors belong.

    Ids are the tokenizer's plus 1: 0 is padding, and row ``id - 1`` of `vectors.word_vectors` is a token's vector.
    """

    kind = "subwords"

    def __init__(self) -> None:
        """Raises: MissingExtra: wordllama or tokenizers is not installed."""
        self._tokenizer, self.fingerprint = _subword_tokenizer()
        self.size = self._tokenizer.get_vocab_size() + 1
        self._known: dict[str, list[int]] = {}

    def encode(self, texts: Sequence[str], longest: int | None = None) -> np.ndarray:
        """See `Tokenizer`."""
        # a space begins a token and is nowhere else in one, so each different word is split only once
        rows = [normal(text).split() for text in texts]
        known = self._learned({word for row in rows for word in row})
        return padded([[k for word in row for k in known[word]][:longest] for row in rows])

    def _learned(self, words: Iterable[str]) -> dict[str, list[int]]:
        known = {} if len(self._known) > _MOST_KNOWN else self._known
        new = list(set(words) - known.keys())
        for word, one in zip(new, self._tokenizer.encode_batch(new, add_special_tokens=False), strict=True):
            known[word] = [k + 1 for k in one.ids]
        self._known = known
        return known

    def tokens(self, ids: Iterable[int]) -> list[str]:
        """How each token is written, with ▁ where a word begins; padding is left out."""
        return [self._tokenizer.id_to_token(int(k) - 1) for k in ids if k]

    def to_json(self) -> dict[str, Any]:
        return {"kind": self.kind, "of": "wordllama", "sha256": self.fingerprint}


class Pieces(Subwords):
    """Words as `Words` has them, each as the subwords that it is made of: no word is unknown."""

    kind = "pieces"

    def encode(self, texts: Sequence[str], longest: int | None = None) -> np.ndarray:
        """int32 (N, L, T): the subwords of each word, 8 at most."""
        known = self._learned(chain.from_iterable(split_words(texts)))
        return _by_words(texts, longest, lambda word: known[word][:MOST_PIECES])

    def tokens(self, ids: Iterable[Any]) -> list[str]:
        """The words of ids (L, T)."""
        return ["".join(super(Pieces, self).tokens(word)).replace("▁", "") for word in ids if any(word)]


MOST_PIECES = 8  # of a word
_MOST_KNOWN = 1_000_000  # words that are remembered with their tokens


@cache
def package_file(name: str) -> Path:
    """The path of a file of wordllama, whose own import takes seconds and wants the network.

    Raises: MissingExtra: it is not installed, or has no such file.
    """
    found = find_spec("wordllama")
    for folder in (found.submodule_search_locations or ()) if found else ():
        if (path := Path(folder) / name).exists():
            return path
    what = "is not installed" if found is None else f"has no {name}: another version is installed"
    raise MissingExtra(f"the word vectors come with the package wordllama, which {what}; pip install 'wordllama>=0.4'")


@cache
def _subword_tokenizer() -> tuple[Any, str]:
    path = package_file("tokenizers/l2_supercat_tokenizer_config.json")
    try:
        from tokenizers import Tokenizer as Whole
    except ImportError:
        raise MissingExtra("subwords need the package tokenizers: pip install tokenizers") from None
    return Whole.from_file(str(path)), hashlib.sha256(path.read_bytes()).hexdigest()


# ---------------------------------------------------------------- kept as JSON


def _subwords(values: Mapping[str, Any]) -> Subwords:
    made = Pieces() if values["kind"] == "pieces" else Subwords()
    if values.get("sha256", made.fingerprint) != made.fingerprint:
        raise DataError(
            "these weights were trained with the subwords of another version of wordllama than the one that is "
            "installed; pip install 'wordllama==0.4.0.post1'"
        )
    return made


_KINDS: dict[str, Callable[[Mapping[str, Any]], Tokenizer]] = {
    "words": lambda v: Words(v["words"], v["counts"]),
    "characters": lambda v: Characters(v["words"], v["counts"]),
    "trigrams": lambda v: Trigrams(v["trigrams"], v.get("words", 0), v.get("collisions", 0)),
    "subwords": _subwords,
    "pieces": _subwords,
}
KINDS = tuple(_KINDS)


def load_tokenizer(values: Mapping[str, Any] | str | Path) -> Tokenizer:
    """The tokenizer that ``to_json`` described, or of a JSON file. Raises: DataError: it describes none."""
    if isinstance(values, (str, Path)):
        return load_tokenizer(json.loads(Path(values).read_bytes()))
    kind = values.get("kind")
    if kind not in _KINDS:
        raise DataError(f"unknown kind of tokenizer {kind!r}; expected one of {', '.join(_KINDS)}")
    return _KINDS[kind](values)
