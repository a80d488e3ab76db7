"""CIDEr-D of sentences against several references each (Vedantam, Zitnick, Parikh, CVPR 2015, section 4)."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Hashable, Sequence

from neocog.tasks.bleu import Sentence, grams

_SIGMA = 6.0  # words by which lengths may differ


def cider(found: Sequence[Sentence], references: Sequence[Sequence[Sentence]], longest: int = 4) -> float:
    """The mean CIDEr-D of N sentences, 0 to 10; `references`: N times one or more. nan without any sentence.

    For each length of n-grams the mean cosine with the references, n-grams weighed by the logarithm of the share of
    pictures in whose references they stand, repeated ones clipped, times a Gaussian of the difference of the lengths.
    As in the authors' scorer a length is counted in pairs of words, and a single picture has 0, because all that stands
    in every picture weighs nothing.
    """
    if not found:
        return math.nan
    pictures = Counter[tuple[Hashable, ...]]()
    for others in references:
        pictures.update({gram for other in others for n in range(1, longest + 1) for gram in grams(other, n)})

    def weighed(sentence: Sentence, n: int) -> tuple[dict[tuple[Hashable, ...], float], float]:
        made = {g: count * math.log(len(found) / max(1, pictures[g])) for g, count in grams(sentence, n).items()}
        return made, math.sqrt(sum(w * w for w in made.values()))

    total = 0.0
    for sentence, others in zip(found, references, strict=True):
        for n in range(1, longest + 1):
            own, length = weighed(sentence, n)
            for other in others:
                theirs, size = weighed(other, n)
                common = sum(min(w, theirs[g]) * theirs[g] for g, w in own.items() if g in theirs)
                off = max(0, len(sentence) - 1) - max(0, len(other) - 1)
                near = math.exp(-off * off / (2 * _SIGMA**2))
                total += near * common / (length * size) / len(others) if length and size else 0.0
    return 10 * total / longest / len(found)
