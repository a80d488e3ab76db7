"""English words as names are compared: one spelling, the singulars of plurals, and words that say nothing."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from functools import lru_cache

# Words that say nothing of what a picture shows.
STOP_WORDS = frozenset(
    "a an the of on in at by with and to from for near next over under into onto is are was be as this "
    "that my our your his her its their some any all picture pictures photo photos photograph photographs image "
    "images showing it i me".split()
)
# Letters that have no accent to take away, and how they are typed without them.
LETTERS = {"ß": "ss", "ς": "σ", "æ": "ae", "œ": "oe", "ø": "o", "ł": "l", "đ": "d", "ð": "d", "þ": "th", "ı": "i"}
_PLURALS = {
    "children": "child",
    "feet": "foot",
    "geese": "goose",
    "knives": "knife",
    "leaves": "leaf",
    "men": "man",
    "mice": "mouse",
    "oxen": "ox",
    "people": "person",
    "shelves": "shelf",
    "teeth": "tooth",
    "wolves": "wolf",
    "women": "woman",
}


def normalise(text: str) -> str:
    """Return `text` as names are compared: one case, no marks, words separated by one space."""
    if text.isascii():
        plain = text.lower().replace("'", "")
    else:
        plain = "".join(c for c in unicodedata.normalize("NFKD", text) if unicodedata.category(c) != "Mn")
        plain = plain.lower().replace("’", "").replace("'", "")
        for letter, other in LETTERS.items():
            plain = plain.replace(letter, other)
    return " ".join(re.findall(r"[^\W_]+", plain))


@lru_cache(4096)
def says_nothing(text: str) -> bool:
    """Whether a word only joins others: *the*, *on*, *&*.

    It is no condition of its own: where a dog and grass are to be seen, the dog is on the grass more often than not.
    """
    key = normalise(text)
    return key in STOP_WORDS or (not key and text.isascii())


def singulars(key: str) -> Iterator[str]:
    """Yield what a normalised English plural may be the plural of, for its last word: *butterflies*, *dogs*."""
    head, space, last = key.rpartition(" ")
    start = head + space
    if last in _PLURALS:
        yield start + _PLURALS[last]
    if len(last) > 3 and last.endswith("s") and not last.endswith("ss"):
        if last.endswith("ies"):
            yield start + last[:-3] + "y"
        if last.endswith(("ses", "xes", "zes", "ches", "shes", "oes")):
            yield start + last[:-2]
        yield start + last[:-1]
