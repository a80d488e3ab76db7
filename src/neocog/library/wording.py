"""The words of a query before they are judged: what they turn, which belong together, and which nobody understands."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from neocog.library.concepts import TURNING, Spelling, Vocabulary, normalise, says_nothing
from neocog.library.terms import Word
from neocog.library.view import View
from neocog.records import counted

_MOST_WORDS = 4  # in the name of a concept
_MOST_NOTES = 5  # unknown words of a query that are named
_AND = frozenset(("and", "or", "nor"))
_NOT = frozenset(TURNING) - _AND


def turned_words(words: Sequence[Word], notes: list[str], beside: bool = False) -> list[Word]:
    """Words in which *without*, *no*, *not* and *nobody* are read, where something else is looked for.

    *street without parked cars in summer* becomes ``street -(parked cars) summer``: what is turned ends where a word
    says nothing, and commas, *and* and *or* turn what follows as well.

    `beside`: whether the query looks for something that is no word, such as an example or a folder.
    """
    out: list[Word] = []
    at = 0
    while at < len(words):
        turned: list[list[str]] = []
        end = at
        if beside or any(not one.negative and not says_nothing(one.text) for one in out):
            while end < len(words) and not words[end].negative:
                key = normalise(words[end].text)
                if key in _NOT or (turned and key in _AND):
                    turned.append(["people"] if key == "nobody" else [])
                elif not turned:
                    break
                elif key == "one" and normalise(words[end - 1].text) == "no":
                    turned[-1].append("people")
                elif not says_nothing(key):
                    if turned[-1] and words[end - 1].text.endswith(","):
                        turned.append([])
                    turned[-1].append(words[end].text.rstrip(","))
                elif turned[-1]:
                    break
                end += 1
        found = [Word(" ".join(one), negative=True) for one in turned if one]
        if not found:
            out.append(words[at])
            at += 1
            continue
        while out and says_nothing(out[-1].text):  # street *with* no cars
            out.pop()
        while end < len(words) and says_nothing(words[end].text):  # nobody *on it*
            end += 1
        out += found
        notes.append(f"{' '.join(w.text for w in words[at:end])!r} is read as {' '.join(map(str, found))}")
        at = end
    return out


def grouped(
    words: Sequence[Word], concepts: Vocabulary | None, taught: dict[str, tuple[str, dict]]
) -> list[tuple[Word, range]]:
    """Join words in a row that name one concept, and leave out those that say nothing; each with its places.

    Where all say nothing (*the who*) they are one, which a text has side by side or not.
    """
    out: list[tuple[Word, range]] = []
    at = 0
    while at < len(words):
        size = 1
        for length in range(min(_MOST_WORDS, len(words) - at), 1, -1):
            several = words[at : at + length]
            plain = all(normalise(w.text) and not w.negative for w in several)
            plain = plain and all(w.weight == 1 for w in several[:-1])
            text = " ".join(w.text for w in several)
            if plain and (normalise(text) in taught or (concepts is not None and concepts.named(text))):
                size = length
                break
        joined = " ".join(w.text for w in words[at : at + size])
        out.append((replace(words[at + size - 1], text=joined), range(at, at + size)))
        at += size
    telling = [one for one in out if not says_nothing(one[0].text) or normalise(one[0].text) in taught]
    if telling or any(word.negative for word in words):
        return telling or out
    return [(replace(words[-1], text=" ".join(word.text for word in words)), range(len(words)))]


def not_understood(view: View, words: Sequence[Word], taught: Iterable[str]) -> list[str]:
    said = []
    for word in words[:_MOST_NOTES]:
        if remedy := TURNING.get(normalise(word.text)):
            said.append(f"{word.text!r} was not understood; {remedy}, or quotes around the word itself")
            continue
        if word.negative:
            said.append(f"{word}: {word.text!r} was not understood, so nothing is excluded")
            continue
        if all(map(says_nothing, word.text.split())):
            said.append(f"{word.text!r} only joins other words, and no text has it as it stands")
            continue
        known = f"{word.text!r} is no concept, no taught word and in no text of this library"
        guess = Spelling([*taught, *view.text.words]).nearest(normalise(word.text))
        remedy = f"did you mean {guess[0]!r}?" if guess else f"teach it: neocog teach LIBRARY {word.text!r} EXAMPLES"
        said.append(f"{known}; {remedy}")
    if more := len(words) - len(said):
        said.append(f"{counted(more, 'more word', 'was')} not understood")
    return said
