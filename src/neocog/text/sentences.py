"""Texts as sentences, and sentences as words with their capitals, by rules."""

from __future__ import annotations

import re

_END = re.compile(r"""[.!?…]+["'”’)\]]*(?=\s)|[。！？]+[」』”]*|\n[^\S\n]*\n""")
_TITLES = frozenset(
    "mr mrs ms dr prof st rev gen sen rep gov capt lt col sgt hon e.g i.e cf vs fig no nos vol pp approx".split()
)
# numbers and abbreviations whole; n't, 's and the like alone, as in the Penn treebank; marks one by one
_WORD = re.compile(
    r"(?:[^\W\d_]\.){2,}|(?:mr|mrs|ms|dr|prof|inc|corp|co|ltd|jr|sr|st)\.|\w+?(?=n['’]t\b)|n['’]t\b"
    r"|['’](?:s|m|d|re|ve|ll)\b|\d+(?:[.,:/]\d+)*|\w+(?:[-&/]\w+)*|\.\.\.|--|``|''|\S",
    re.IGNORECASE,
)  # fmt: skip


def sentence_spans(text: str) -> list[tuple[int, int]]:
    """Where each sentence of a text begins and ends, without the spaces around it.

    A sentence ends with a mark (. ! ?) before a space and what is no small letter, unless the mark belongs to a title
    or an initial (Mr., J.), or with an empty line.
    """
    made, begin = [], 0
    for found in [*_END.finditer(text), None]:
        end = len(text) if found is None else found.end()
        if found is not None and found[0][0] in ".!?…" and not _ends(text, begin, found):
            continue
        part = text[begin:end]
        if bare := part.strip():
            at = begin + len(part) - len(part.lstrip())
            made.append((at, at + len(bare)))
        begin = end
    return made


def _ends(text: str, begin: int, found: re.Match[str]) -> bool:
    """Whether a full stop, or another mark of the kind, ends a sentence."""
    before, after = text[begin : found.start()], text[found.end() : found.end() + 40].lstrip()
    if before[-1:].isspace():  # a text whose marks stand alone
        return True
    last = before.split()[-1:] or [""]
    word = last[0].strip("\"'“‘([").lower()
    short = found[0][0] == "." and (word in _TITLES or (len(word) == 1 and word.isalpha() and word != "i"))
    return not (short or after[:1].islower())


def split_sentences(text: str) -> list[str]:
    """The sentences of a text; see `sentence_spans`."""
    return [text[a:b] for a, b in sentence_spans(text)]


def cased_words(sentence: str) -> list[str]:
    """The words and marks of a sentence as they are written: ``He didn't.`` is He, did, n't and a full stop."""
    return _WORD.findall(sentence)
