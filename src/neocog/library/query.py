"""The query language, parsed once: text -> a frozen `Query`, or an error that says where and what to type.

    dog -indoor^2 "exact words" like:a.jpg like:b.jpg@10,20,200,180 unlike:c.jpg
    tag:holiday label:cat folder:italy camera:canon after:2023 before:2023-09 taken:2022-05-17 duplicates:no

=============================  =======================================================================================
``dog on grass``               ranks: as a sentence, and word by word: concepts, and every text known of it
``"exact words"``              only pictures whose text has these words, in this order, side by side
``like:FILE`` ``unlike:FILE``  ranks: pictures that look like FILE, or do not; quotes around names with spaces
``like:FILE@x0,y0,x1,y1``      the same for a part of FILE, in pixels, or in fractions if no number is above 1
``tag: label:``                only pictures with that tag or label (the whole name; case and ``_`` do not matter)
``folder: camera: place:``     only pictures in a folder (made by a camera, at a place) whose name has these words;
                               a folder may be a whole path, such as ``folder:/home/anna/italy``
``near:48.85,2.35,10km``       only pictures taken at most so far (10 km if it is left out) from there, by GPS
``has:gps``                    only pictures with a position, date, camera, caption, label, tag or place
``after: before: taken:``      only pictures taken from the start of that year, month, day or minute on; before its
                               start; within it. Pictures without a date are left out
``duplicates:yes``             shows near duplicates of better hits, too (they are folded away otherwise)
``-`` ``NOT``                  before any of these: not
``OR``                         between two of these: either; ``(golden retriever) OR (tabby cat)`` for several words
``^2`` ``^0.5``                after a word or an example: how much it counts
=============================  =======================================================================================

Filters are values of these types and nothing else: no text of a query ever becomes part of a database expression.
"""

from __future__ import annotations

import math
import re
from dataclasses import replace

from neocog.errors import UsageError, closest
from neocog.library.terms import Either, Example, Filter, Moment, Near, Phrase, Query, Region, Term, Word, plain, quoted

__all__ = [
    "FIELDS", "HAS", "LONGEST", "Either", "Example", "Filter", "Moment", "Near", "Phrase", "Query", "Region", "Term",
    "Word", "parse", "plain",
]  # fmt: skip

LONGEST = 4000  # characters
HEAVIEST = 100.0

_EXAMPLES = ("like", "unlike")
_TEXTS = ("tag", "label", "folder", "camera", "place")
_DATES = ("after", "before", "taken")
FIELDS = (*_EXAMPLES, *_TEXTS, *_DATES, "near", "has", "duplicates")
HAS = ("gps", "date", "camera", "caption", "label", "tag", "place")
_HINTS = {
    **dict.fromkeys(_EXAMPLES, 'a picture file, such as {0}:cat.jpg or {0}:"my cat.jpg"'),
    **dict.fromkeys(_TEXTS, 'a name, such as {0}:holiday or {0}:"our holiday"'),
    **dict.fromkeys(_DATES, "a date, such as {0}:2023, {0}:2023-05 or {0}:2023-05-17T12:30"),
    "near": "a latitude and a longitude in degrees, and the greatest distance, such as {0}:48.85,2.35,10km",
    "has": f"one of {', '.join(HAS)}, such as {{0}}:gps",
    "duplicates": "yes or no, such as {0}:no",
}

_OPENING, _CLOSING = '"“”„', {'"': '"', "“": "”“", "”": "”", "„": "“”"}
_QUOTES = re.compile("|".join(rf"{a}(?:\\[\\{_OPENING}]|[^{z}])*[{z}]" for a, z in _CLOSING.items()))
_OR = re.compile(r"(?<![^\s(])OR(?![^\s)])")
_BRACKETED = re.compile(r"\(+([^()]*\w[^()]*)\)*|([^()]*\w[^()]*)\)+|\((.*\w.*)\)")  # (dog), ((dog, dog)); not (1).jpg
_FIELD = re.compile(r"([A-Za-z_]+):")
_NUMBER = r"(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)"
_WEIGHT = re.compile(rf"\^({_NUMBER})\Z")
_REGION = re.compile(r"@([-+0-9.]*(?:,[-+0-9.]*)+)\Z")
_MOMENT = re.compile(r"([0-9]{4})(?:[-/]([0-9]{1,2})(?:[-/]([0-9]{1,2})(?:T([0-9]{1,2}):([0-9]{2}))?)?)?\Z")
_NEAR = re.compile(rf"([-+]?{_NUMBER}),([-+]?{_NUMBER})(?:,({_NUMBER})(km|m|mi)?)?\Z")
_METRES = {"m": 1.0, "km": 1000.0, "mi": 1609.344, None: 1000.0}


def parse(text: str) -> Query:
    """Return the query that `text` says.

    Raises: UsageError: with the position (from 1), what was expected and what to type.
    """
    if len(text) > LONGEST:
        raise UsageError(f"a query may have {LONGEST:,} characters, this one has {len(text):,}; remove some words")
    # brackets are parts of words, as in IMG (1).jpg, or say nothing, unless there is an OR
    reader = _Reader(text, groups=_OR.search(_QUOTES.sub("''", text)) is not None)
    terms: list[Term] = []
    duplicates: bool | None = None
    for term in reader.sequence():
        if not isinstance(term, bool):
            terms.append(term)
        elif duplicates not in (None, term):
            raise UsageError("the query says both duplicates:yes and duplicates:no; remove one")
        else:
            duplicates = term
    if not terms and duplicates is None:
        raise UsageError("the query is empty; type what you look for, such as 'dog' or 'like:cat.jpg'")
    return Query(tuple(terms), duplicates, text)


class _Reader:
    """Reads one term after the other; a bool stands for ``duplicates:yes`` or ``no``.

    With `groups`, "(" and ")" join terms; without, they are parts of words, or around words and left out.
    """

    def __init__(self, text: str, groups: bool) -> None:
        self.text, self.groups = text, groups
        self.at = self.depth = 0

    def sequence(self, opened: int | None = None) -> list[Term | bool]:
        """Return the terms up to the end, or up to the ")" of the "(" at position `opened`.

        Where OR stands between two terms or groups, these are alternatives.
        """
        found: list[tuple[int, list[Term | bool], bool]] = []  # position, terms, whether in brackets
        joined: list[bool] = []  # whether OR stands before each
        either: int | None = None
        while True:
            self._skip_spaces()
            start = self.at
            if start == len(self.text):
                if opened is not None:
                    remedy = "OR joins terms or groups: (golden retriever) OR cat"
                    raise self._fail(f'expected a ")" for this "("; {remedy}', opened)
                break
            if opened is not None and self.text[start] == ")":
                self.at, self.depth = start + 1, self.depth - 1
                if not self._ended():
                    raise self._fail('expected a space after ")"; use "quotes" for a bracket that belongs to a name')
                break
            if self._operator("OR"):
                if not found or either is not None:
                    raise self._fail("expected a term before OR; type dog OR cat", start)
                either = start
                continue
            bracket = self.groups and self.text[start] == "("
            if bracket:
                self.at, self.depth = start + 1, self.depth + 1
            found.append((start, self.sequence(start) if bracket else [self._term()], bracket))
            joined.append(either is not None)
            either = None
        if either is not None:
            raise self._fail('expected a term after OR; type dog OR cat, or "OR" in quotes for the word itself', either)
        if opened is not None and not found:
            raise self._fail('expected terms between "(" and ")"', opened)
        out: list[Term | bool] = []
        at = 0
        while at < len(found):
            end = at + 1
            while end < len(found) and joined[end]:
                end += 1
            if end == at + 1:
                out += found[at][1]
            else:
                self._sure(found, at, end)
                out.append(Either(tuple(self._alternative(start, terms) for start, terms, _ in found[at:end])))
            at = end
        return out

    def _sure(self, found: list[tuple[int, list[Term | bool], bool]], first: int, end: int) -> None:
        """Refuse *golden retriever OR cat*: do both words belong to it, or one?"""
        for inner, outer in ((first, first - 1), (end - 1, end)):
            if not 0 <= outer < len(found):
                continue
            pair = [found[i] for i in sorted((inner, outer))]
            if all(isinstance(t[0], Word) and not t[0].negative and not bracket for _, t, bracket in pair):
                a, b = (" ".join(map(str, terms)) for _, terms, _ in pair)
                both = f"({a} {b}) OR ..." if inner > outer else f"... OR ({a} {b})"
                one = f"{a} ({b} OR ...)" if inner > outer else f"(... OR {a}) {b}"
                raise self._fail(f"does OR take both words, {a} {b}? Type {both} or {one}", pair[0][0])

    def _alternative(self, start: int, terms: list[Term | bool]) -> tuple[Term, ...]:
        made: list[Term] = []
        for term in terms:
            if isinstance(term, bool):
                raise self._fail("duplicates: holds for the whole query; type it apart from OR", start)
            if getattr(term, "weight", 1.0) != 1:
                raise self._fail(f"alternatives carry no weight; remove it from {term}", start)
            made.append(term)
        return tuple(made)

    def _skip_spaces(self) -> None:
        while self.at < len(self.text) and self.text[self.at].isspace():
            self.at += 1

    def _operator(self, name: str) -> bool:
        """Whether the word in capitals stands here; it is read if it does."""
        start = self.at
        if self.text.startswith(name, start):
            self.at += len(name)
            if self._ended():
                return True
        self.at = start
        return False

    def _fail(self, message: str, at: int | None = None) -> UsageError:
        return UsageError(f"query, position {(self.at if at is None else at) + 1}: {message}")

    def _term(self) -> Term | bool:
        start = self.at
        if self._operator("NOT"):
            negative = True
            self._skip_spaces()
            if self._ended():
                raise self._fail('expected a term after NOT; type NOT indoor, or "NOT" in quotes for the word', start)
        else:
            negative = self.text[self.at] == "-"
            self.at += negative
        if negative and self.groups and self.text[self.at : self.at + 1] == "(":
            raise self._fail("a group is not negated; type NOT before each term of it: NOT dog NOT cat")
        if self._ended() or self.text[self.at] == "-":
            after = "another '-'" if not self._ended() else "a space or the end"
            raise self._fail(f"expected a word after '-', found {after}; type -indoor, or \"-\" for the sign itself")
        if self.text[self.at] in _OPENING:
            phrase = self._quoted_text()
            if not self._ended():
                raise self._fail('exact words are there or not and carry no weight; type a space after the closing "')
            return Phrase(phrase, negative)
        named = _FIELD.match(self.text, self.at)
        if named:
            name = named[1].lower()
            if name not in FIELDS:
                bare = self.text[self.at :].split(maxsplit=1)[0]
                raise self._fail(
                    f"expected one of {', '.join(f + ':' for f in FIELDS)}, found {named[0]!r}{closest(name, FIELDS)}; "
                    f"for the text itself type {quoted(re.sub(f'[{_OPENING}]', ' ', bare).strip())}"
                )
            self.at = named.end()
            return self._field(name, negative, start)
        return self._word(negative)

    def _word(self, negative: bool) -> Word:
        start, raw = self.at, self._bare()
        if not self._ended():
            raise self._fail('found a quote in the middle of a word; type a space before "')
        weight = _WEIGHT.search(raw)
        text = raw[: weight.start()] if weight else raw
        if not self.groups and (inner := _BRACKETED.fullmatch(text)):
            text = next(filter(None, inner.groups()))
        if not text:
            raise self._fail("expected a word before '^'; type dog^2, without a space", start)
        if "^" in text:
            raise self._fail(
                f"expected one weight between 0 and {HEAVIEST:g} at the end of {raw!r}; type dog^2 or dog^0.5, "
                'or "quotes" around the text itself',
                start + text.index("^"),
            )
        return Word(text, self._weight_of(weight, start), negative)

    def _field(self, name: str, negative: bool, start: int) -> Term | bool:
        at = self.at
        hint = _HINTS[name].format(name)
        if self._ended():
            raise self._fail(f"expected {hint} (no space after the colon)")
        quoted = self.text[self.at] in _OPENING
        value = self._quoted_text() if quoted else self._bare()
        tail = self._bare() if quoted else value
        if not self._ended():
            raise self._fail('found a quote in the middle of a value; put quotes around all of it, or escape it as \\"')
        tail_at = self.at - len(tail)
        weight = _WEIGHT.search(tail)
        tail = tail[: weight.start()] if weight else tail
        if name in _EXAMPLES:
            region = _REGION.search(tail)
            tail = tail[: region.start()] if region else tail
            file = value if quoted else tail
            if (quoted and tail) or not file:
                raise self._fail(f"expected {hint}, found {self.text[at : self.at]!r}", at)
            if "\0" in file:
                raise self._fail("no file name holds a NUL character; remove it", at)
            part = self._region_of(region, tail_at)
            return Example(file, part, self._weight_of(weight, tail_at), negative != (name == "unlike"))
        if weight or (quoted and tail):
            raise self._fail(f"{name}: is a filter, which holds or not and carries no weight; expected {hint}", tail_at)
        if name == "duplicates":
            if value.lower() not in ("yes", "no"):
                raise self._fail(f"expected {hint}, found {value!r}", at)
            return (value.lower() == "yes") != negative
        if name in _TEXTS:
            if not value.strip():
                raise self._fail(f"expected {hint}, found only spaces", at)
            return Filter(name, value.strip(), negative)
        if name == "has":
            if value.lower() not in HAS:
                raise self._fail(f"expected {hint}, found {value[:40]!r}{closest(value.lower(), HAS)}", at)
            return Filter(name, value.lower(), negative)
        if name == "near":
            return Filter(name, self._near_of(value, hint, at), negative)
        moment = self._moment_of(value, hint, at)
        if negative and name != "taken":
            other = "before" if name == "after" else "after"
            raise self._fail(f"a date is not negated; type {other}:{moment} instead of -{name}:{moment}", start)
        return Filter(name, moment, negative)

    def _bare(self) -> str:
        start = self.at
        while not self._ended() and self.text[self.at] not in _OPENING:
            self.at += 1
        return self.text[start : self.at]

    def _ended(self) -> bool:
        if self.at == len(self.text) or self.text[self.at].isspace():
            return True
        return self.depth > 0 and self.text[self.at] == ")"

    def _quoted_text(self) -> str:
        start, closing, out = self.at, _CLOSING[self.text[self.at]], []
        self.at += 1
        while self.at < len(self.text) and self.text[self.at] not in closing:
            if self.text[self.at] == "\\" and self.text[self.at + 1 : self.at + 2] in ("\\", *_OPENING):
                self.at += 1
            out.append(self.text[self.at])
            self.at += 1
        if self.at == len(self.text):
            raise self._fail('expected a closing " for this one; type "exact words"', start)
        self.at += 1
        text = "".join(out)
        if not text.strip():
            raise self._fail('expected words between the quotes; type "exact words"', start)
        return text

    def _weight_of(self, match: re.Match[str] | None, at: int) -> float:
        if match is None:
            return 1.0
        value = float(match[1])
        if not 0 < value <= HEAVIEST:
            raise self._fail(
                f"expected a weight above 0 and at most {HEAVIEST:g}, found {match[1][:20]}; type ^2 to count twice, "
                "or - in front for the opposite",
                at + match.start(),
            )
        return value

    def _region_of(self, match: re.Match[str] | None, at: int) -> Region | None:
        if match is None:
            return None
        try:
            x0, y0, x1, y1 = (float(v) for v in match[1].split(","))
            good = 0 <= x0 < x1 < math.inf and 0 <= y0 < y1 < math.inf
        except ValueError:
            good = False
        if not good:
            raise self._fail(
                f"expected a part of the picture as @x0,y0,x1,y1 with x0 < x1 and y0 < y1, found {match[0][:60]!r}; "
                "type @10,20,200,180 (pixels) or @0,0,0.5,1 (the left half)",
                at + match.start(),
            )
        return Region(x0 + 0.0, y0 + 0.0, x1, y1)  # + 0.0: turns -0.0 into 0.0

    def _near_of(self, value: str, hint: str, at: int) -> Near:
        match = _NEAR.match(value)
        place = None
        if match is not None:
            place = Near(float(match[1]) + 0.0, float(match[2]) + 0.0)
            if match[3] is not None:
                place = replace(place, metres=float(match[3]) * _METRES[match[4]])
        if place is None or abs(place.latitude) > 90 or abs(place.longitude) > 180 or not 0 < place.metres < math.inf:
            raise self._fail(f"expected {hint}, found {value[:40]!r}", at)
        return place

    def _moment_of(self, value: str, hint: str, at: int) -> Moment:
        match = _MOMENT.match(value)
        try:
            if match is None:
                raise ValueError
            moment = Moment(*(None if v is None else int(v) for v in match.groups()))  # type: ignore[arg-type]
            _ = moment.start
        except ValueError:
            raise self._fail(f"expected {hint}, found {value[:40]!r}", at) from None
        return moment
