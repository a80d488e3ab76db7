"""Tags from what people wrote about pictures: the words of captions, but for those that say nothing and rare ones."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from functools import lru_cache

import numpy as np

from neocog.data.columns import LabelSets, ends_of
from neocog.data.kinds import Categories
from neocog.data.source import Selected, Source
from neocog.errors import DataError, UsageError
from neocog.records import counted
from neocog.text.english import STOP_WORDS, normalise, singulars

AUTO = "auto"
_LEAST, _SHARE = 5, 0.005  # pictures that have a tag, in number and as a share
_OTHERWISE = frozenset("glasses shorts tights".split())  # plurals that mean something else
_MORE = frozenset(
    "does doing gets getting goes going like left right whilst".split()
)  # say nothing of a picture either
_THINGS = frozenset("bill fire mill".split())  # in scikit-learn's list of stop words


class FromTexts(Selected):
    """A source whose tags were made from its texts."""

    def fingerprint(self) -> str:
        tags = self.columns["tags"].fingerprint()
        return hashlib.sha256(super().fingerprint().encode() + tags).hexdigest()


def with_tags(source: Source, least: str = AUTO, names: Sequence[str] = ()) -> Source:
    """The same samples with the words of their captions as tags, plural and singular as one.

    Args:
        least: samples that must have a word, a number; "auto": half a per cent of them, but 5.
        names: the words that count; without any, all that enough samples have.

    Raises:
        DataError: there are no captions, or no word is common enough. UsageError: `least` is no number.
    """
    texts = source.captions
    if texts is None or not (known := texts.known).any():
        raise DataError(
            f"{source.name} has no texts beside its {source.kind}s to take tags from; expected a column called "
            "caption, text, description or title, or --column caption=NAME"
        )
    if least != AUTO and not least.isdigit():
        raise UsageError(f"--task-option from_text= is auto or how many {source.kind}s must have a word, not {least!r}")
    found = [_words(texts[i]) for i in range(len(texts))]
    raw = Counter(word for words in found for word in words)
    said = [set(_forms(words, names or raw)) for words in found]
    view = FromTexts(source, np.arange(len(source)))
    if not names:
        enough = max(_LEAST, round(_SHARE * int(known.sum()))) if least == AUTO else int(least)
        counts = Counter(word for words in said for word in sorted(words))
        names = sorted(word for word, n in counts.items() if n >= enough)
        if not names:
            raise DataError(
                f"no word that could be a tag is in the texts of {enough} {source.kind}s of {source.name}, where "
                f"{int(known.sum()):,} have texts; --task-option from_text=N asks for N of them"
            )
        most = ", ".join(f"{word} {n:,}" for word, n in counts.most_common(5))
        view.notes.append(
            f"{counted(len(names), 'tag')} from texts, the words of at least {enough} of {int(known.sum()):,} "
            f"{source.kind}s ({most}, ...); {counted(len(counts) - len(names), 'rarer word', 'is')} left out"
        )
    place = {name: k for k, name in enumerate(names)}
    rows = [sorted(place[word] for word in words if word in place) for words in said]
    values = np.array([k for row in rows for k in row], np.int32)
    tags = Categories(LabelSets(ends_of([len(row) for row in rows]), values), names, present=known)
    view.columns = {**view.columns, "tags": tags}
    return view


def _words(texts: Sequence[str]) -> set[str]:
    """The words of one sample's texts that say something."""
    stop = _stop_words()
    return {w for text in texts for w in normalise(text).split() if len(w) > 2 and not w.isdigit() and w not in stop}


def _forms(words: Collection[str], known: Collection[str]) -> Iterator[str]:
    """Each word as it counts: a plural as its singular, where that is `known`."""
    for word in words:
        plural = () if word in _OTHERWISE else singulars(word)
        yield next((form for form in plural if form in known), word)


@lru_cache(maxsize=1)
def _stop_words() -> frozenset[str]:
    from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS

    return (STOP_WORDS | ENGLISH_STOP_WORDS | _MORE) - _THINGS
