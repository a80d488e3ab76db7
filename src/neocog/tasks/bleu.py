"""BLEU of sentences against several references each (Papineni et al. 2002), over a whole collection, not smoothed."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Hashable, Sequence

Sentence = Sequence[Hashable]


def bleu(found: Sequence[Sentence], references: Sequence[Sequence[Sentence]], longest: int = 4) -> list[float]:
    """BLEU-1 to BLEU-`longest` of N sentences, each in [0, 1]; `references`: N times one or more.

    Counts are clipped by the reference that has most of an n-gram; of two references whose length is as near, the
    shorter one counts for the brevity penalty. nan without any word.
    """
    right, total = [0] * longest, [0] * longest
    length = nearest = 0
    for sentence, others in zip(found, references, strict=True):
        length += len(sentence)
        nearest += min((abs(len(other) - len(sentence)), len(other)) for other in others)[1]
        for n in range(1, longest + 1):
            own, most = grams(sentence, n), Counter[tuple[Hashable, ...]]()
            for other in others:
                most |= grams(other, n)
            right[n - 1] += (own & most).total()
            total[n - 1] += own.total()
    if not length:
        return [math.nan] * longest
    brevity = min(0.0, 1 - nearest / length)
    made, logs = [], 0.0
    for n in range(longest):
        logs = logs + math.log(right[n] / total[n]) if right[n] else -math.inf
        made.append(math.exp(brevity + logs / (n + 1)))
    return made


def grams(sentence: Sentence, n: int) -> Counter[tuple[Hashable, ...]]:
    """How often each n words in a row stand in a sentence."""
    return Counter(tuple(sentence[i : i + n]) for i in range(len(sentence) - n + 1))
