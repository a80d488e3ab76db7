"""What two texts share, as a few numbers: for telling paraphrases, on top of what towers say of them.

After A. Finch, Y. Hwang, E. Sumita, "Using machine translation evaluation techniques to determine sentence-level
semantic equivalence", 2005, and N. Madnani, J. Tetreault, M. Chodorow, "Re-examining machine translation metrics for
paraphrase identification", NAACL 2012: overlaps of n-grams both ways tell most.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np

from neocog.text.tokens import Subwords, split_words
from neocog.text.vectors import word_vectors

SHARED = (
    "words shared, of the longer", "words shared, of the shorter", "pairs of words shared, of the longer",
    "pairs of words shared, of the shorter", "triples of words shared, of the longer", "letter trigrams shared",
    "numbers shared", "numbers differ", "length, of the longer", "words in the same order", "cosine of word vectors",
    "words of the shorter near one of the longer", "words of the longer near one of the shorter",
)  # fmt: skip


def shared(first: Sequence[str], second: Sequence[str]) -> np.ndarray:
    """float32 (N, len(SHARED)), each number about 0 to 1, and the same in both orders of a pair."""
    made = np.zeros((len(first), len(SHARED)), np.float32)
    if not len(first):
        return made
    tokenizer, table = Subwords(), word_vectors()
    vectors = [_lengthened(table[row[row > 0] - 1]) for row in tokenizer.encode([*first, *second])]
    words = split_words([*first, *second])
    for i in range(len(first)):
        a, b = sorted((words[i], words[len(first) + i]), key=lambda one: (len(one), one))
        x, y = vectors[i], vectors[len(first) + i]
        if len(x) > len(y):
            x, y = y, x
        grams = [_overlap(_grams(a, n), _grams(b, n)) for n in (1, 2, 3)]
        letters = _overlap(_grams(list(" ".join(a)), 3), _grams(list(" ".join(b)), 3))
        numbers = [{w for w in one if any(c.isdigit() for c in w)} for one in (a, b)]
        either, both = len(numbers[0] | numbers[1]), len(numbers[0] & numbers[1])
        cosines = x @ y.T if len(x) and len(y) else np.zeros((1, 1), np.float32)
        mean = [one.sum(0) for one in (x, y)]
        lengths = [float(np.linalg.norm(one)) for one in mean]
        made[i] = (
            grams[0][1], grams[0][0], grams[1][1], grams[1][0], grams[2][1], letters[1],
            both / either if either else 1.0, float(numbers[0] != numbers[1]), len(a) / max(1, len(b)), _ordered(a, b),
            float(mean[0] @ mean[1]) / (lengths[0] * lengths[1]) if min(lengths) > 0 else 0.0,
            float(cosines.max(1).mean()), float(cosines.max(0).mean()),
        )  # fmt: skip
    return made


def _lengthened(rows: np.ndarray) -> np.ndarray:
    rows = rows.astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True).clip(1e-6)


def _grams(words: Sequence[str], n: int) -> Counter[tuple[str, ...]]:
    return Counter(zip(*(words[k:] for k in range(n)), strict=False))


def _overlap(a: Counter[tuple[str, ...]], b: Counter[tuple[str, ...]]) -> tuple[float, float]:
    """Shares of the smaller and of the larger count that are in both."""
    both = (a & b).total()
    counts = sorted((a.total(), b.total()))
    return both / max(1, counts[0]), both / max(1, counts[1])


def _ordered(a: Sequence[str], b: Sequence[str]) -> float:
    """The length of the longest common subsequence, of the longer's."""
    before = [0] * (len(b) + 1)
    for word in a:
        now = [0]
        for k, other in enumerate(b):
            now.append(before[k] + 1 if word == other else max(now[-1], before[k + 1]))
        before = now
    return before[-1] / max(1, len(b))
