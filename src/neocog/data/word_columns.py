"""Words as rows of integers: each itself, how it is written, how it ends, and what further columns say of it."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from neocog.data.conll import Sentence, blocks
from neocog.data.read_text import TextReader, plain, user_path
from neocog.data.text import TABLES
from neocog.errors import DataError
from neocog.text.sentences import cased_words, split_sentences
from neocog.text.tokens import Subwords, Words, normal

_PIECES = 8  # subwords of a word
OWN = ("word", "shape", "ending of two", "ending of three")  # columns that are made of each word
_LEAST = 3  # shapes and endings that were seen so often


def shape(word: str) -> str:
    """How a word is written: ``McDonald's`` is XxXx'x, ``1,200`` is d,d."""
    letters = ("X" if c.isupper() else "x" if c.isalpha() else "d" if c.isdigit() else c for c in word)
    return re.sub(r"(.)\1+", r"\1", "".join(letters))


def columns_of(sentence: Sentence) -> list[list[str]]:
    """Of each word itself in small letters with 0 for digits, its shape, its last two and three letters; then more."""
    words = [re.sub(r"\d", "0", normal(word)) for word in sentence.words]
    made = [words, [*map(shape, sentence.words)], [word[-2:] for word in words], [word[-3:] for word in words]]
    return [*made, *map(list, sentence.more)]


def vocabularies(sentences: Sequence[Sentence], more: int) -> tuple[list[list[str]], float]:
    """What stands in each column of sentences, the commonest first, and the share of words that stand there once."""
    seen = [Counter[str]() for _ in range(len(OWN) + more)]
    for sentence in sentences:
        for counter, cells in zip(seen, columns_of(sentence), strict=False):
            counter.update(cells)
    few = _LEAST if len(sentences) > 100 else 1
    least = [1, *[few] * (len(OWN) - 1), *[1] * more]
    ranked = (sorted(one.items(), key=lambda of: (-of[1], of[0])) for one in seen)
    kept = [[cell for cell, count in one if count >= n] for one, n in zip(ranked, least, strict=True)]
    return kept, sum(count == 1 for count in seen[0].values()) / max(1, seen[0].total())


class WordsReader(TextReader):
    """Sentences as words with what is known of each: int32 (L, K), then with given vectors the subwords.

    Args:
        columns: what stands in each column, id 2 first; 1 is what is not known, 0 padding.
        pieces: whether subwords follow.
        more: how many further columns a sentence brings.
    """

    def __init__(self, columns: Sequence[Sequence[str]], pieces: bool, more: int) -> None:
        super().__init__(Subwords() if pieces else Words((), ()), 0)
        self.columns, self.more = [tuple(one) for one in columns], more
        self._ids = [{cell: k for k, cell in enumerate(one, 2)} for one in self.columns]

    def encode(self, raw: Any) -> np.ndarray:
        sentence = self.sentence(raw)
        cells = columns_of(sentence)[: len(OWN) + self.more]
        made = np.array([[ids.get(c, 1) for c in one] for ids, one in zip(self._ids, cells, strict=True)], np.int32).T
        if not isinstance(self.tokenizer, Subwords):
            return made
        parts = self.tokenizer.encode(list(map(normal, sentence.words)), _PIECES)
        return np.concatenate((made, np.pad(parts, ((0, 0), (0, _PIECES - parts.shape[1])))), 1)

    def sentence(self, raw: Any) -> Sentence:
        """What a source or a user gives, as words. Raises: DataError: it has no words, or fewer columns."""
        made = raw if isinstance(raw, Sentence) else Sentence(cased_words(plain(raw)))
        if not made.words:
            raise DataError("a text without words")
        if len(made.more) < self.more:
            raise DataError(
                f"the net reads {1 + self.more} columns for each word (the word first, as in training), and this has "
                f"{1 + len(made.more)}; give a CoNLL file, or train with --task-option columns=false"
            )
        return made

    def inputs(self, given: Iterable[Any]) -> Iterator[tuple[str, Any]]:
        """Each sentence of texts and of files; a file of CoNLL's columns is read as such, with or without tags."""
        for one in given:
            path = None if isinstance(one, Sentence) else user_path(one)
            if path is not None and path.is_file() and _a_word_a_line(path):
                for number, block in enumerate(blocks(plain(path).splitlines()), 1):
                    cells = list(zip(*block, strict=False))
                    yield f"{path}#{number}", Sentence(cells[0], cells[1 : 1 + self.more])
                continue
            for key, raw in [(str(one), one)] if isinstance(one, Sentence) else super().inputs([one]):
                try:
                    found = [raw] if isinstance(raw, Sentence) else split_sentences(plain(raw))
                except (DataError, OSError):
                    found = []  # which `encode` refuses
                for number, part in enumerate(found, 1):
                    said = part if isinstance(part, Sentence) else Sentence(cased_words(part))
                    yield (f"{key}#{number}" if len(found) > 1 else key), said
                if not found:
                    yield key, raw


def _a_word_a_line(path: Path) -> bool:
    """Whether a file holds words with equally many cells each, and not running text or a table."""
    if path.suffix.lower() in TABLES and path.suffix.lower() != ".tsv":
        return False
    try:
        rows = [cells for block in blocks(plain(path).splitlines()) for cells in block]
    except (DataError, OSError):  # which `encode` says
        return False
    return len(rows) > 2 and len({len(cells) for cells in rows}) == 1
