"""What a query is made of: words, phrases, examples, filters and alternatives; each prints as it is typed."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

from neocog.errors import UsageError

_SAFE = re.compile(r"[\w./~+-]+\Z")  # what needs no quotes after a colon


@dataclass(frozen=True, slots=True)
class Region:
    """A part of a picture: corners (x0, y0) and (x1, y1) in pixels, or as fractions of width and height."""

    x0: float
    y0: float
    x1: float
    y1: float

    @property
    def fractions(self) -> bool:
        """Whether the numbers are fractions of width and height: none is above 1."""
        return max(self.x1, self.y1) <= 1

    def pixels(self, width: int, height: int) -> tuple[int, int, int, int]:
        """Return (left, top, right, bottom) for a picture of that size, at least one pixel.

        Raises: UsageError: the part lies outside the picture.
        """
        across, down = (width, height) if self.fractions else (1, 1)
        left, top = math.floor(self.x0 * across), math.floor(self.y0 * down)
        right, bottom = min(width, math.ceil(self.x1 * across)), min(height, math.ceil(self.y1 * down))
        if left >= width or top >= height:
            raise UsageError(f"the part {self} lies outside the picture, which is {width} x {height} pixels")
        return left, top, max(right, left + 1), max(bottom, top + 1)

    def __str__(self) -> str:
        return "@" + ",".join(plain(v) for v in (self.x0, self.y0, self.x1, self.y1))


@dataclass(frozen=True, slots=True)
class Moment:
    """A year, or a month, day or minute of it: a stretch of time, as a camera writes it (local time)."""

    year: int
    month: int | None = None
    day: int | None = None
    hour: int | None = None
    minute: int | None = None

    @property
    def start(self) -> datetime:
        """The first instant."""
        return datetime(self.year, self.month or 1, self.day or 1, self.hour or 0, self.minute or 0)

    @property
    def end(self) -> datetime:
        """The first instant after it."""
        try:
            if self.month is None:
                return datetime(self.year + 1, 1, 1)
            if self.day is None:
                return datetime(self.year + self.month // 12, self.month % 12 + 1, 1)
            return self.start + (timedelta(days=1) if self.hour is None else timedelta(minutes=1))
        except (ValueError, OverflowError):  # the end of the year 9999
            return datetime.max

    def __str__(self) -> str:
        text = f"{self.year:04d}"
        for value in (self.month, self.day):
            text += "" if value is None else f"-{value:02d}"
        return text if self.hour is None else f"{text}T{self.hour:02d}:{self.minute or 0:02d}"


@dataclass(frozen=True, slots=True)
class Near:
    """A point on Earth, in degrees (north and east are positive), and how far from it, in metres."""

    latitude: float
    longitude: float
    metres: float = 10_000.0

    def __str__(self) -> str:
        kilometres = self.metres / 1000
        # not every number of metres comes back exactly from kilometres
        far = f"{plain(kilometres)}km" if kilometres * 1000 == self.metres else f"{plain(self.metres)}m"
        return f"{plain(self.latitude)},{plain(self.longitude)},{far}"


@dataclass(frozen=True, slots=True)
class Word:
    """One word to rank by."""

    text: str
    weight: float = 1.0
    negative: bool = False

    def __str__(self) -> str:
        return f"{'-' * self.negative}{self.text}{_weight(self.weight)}"


@dataclass(frozen=True, slots=True)
class Phrase:
    """Words that a picture's text must have (or must not), side by side."""

    text: str
    negative: bool = False

    def __str__(self) -> str:
        return f"{'-' * self.negative}{quoted(self.text)}"


@dataclass(frozen=True, slots=True)
class Example:
    """A picture, a part of it, or a recording, that hits are like (or not). `data`: the bytes of one from outside."""

    file: str
    region: Region | None = None
    weight: float = 1.0
    negative: bool = False
    data: bytes | None = field(default=None, repr=False)

    def __str__(self) -> str:
        return f"{'un' * self.negative}like:{typed(self.file)}{self.region or ''}{_weight(self.weight)}"


@dataclass(frozen=True, slots=True)
class Filter:
    """What a picture must have (or must not): `field` is tag, label, folder, camera, place, has, near or a date's."""

    field: str
    value: str | Moment | Near
    negative: bool = False

    def __str__(self) -> str:
        value = typed(self.value) if isinstance(self.value, str) else str(self.value)
        return f"{'-' * self.negative}{self.field}:{value}"


@dataclass(frozen=True, slots=True)
class Either:
    """Alternatives, of which one must hold; all terms of an alternative belong together."""

    alternatives: tuple[tuple[Term, ...], ...]

    def __str__(self) -> str:
        shown = [str(terms[0]) if len(terms) == 1 else f"({' '.join(map(str, terms))})" for terms in self.alternatives]
        return f"({' OR '.join(shown)})"


Term = Word | Phrase | Example | Filter | Either


def _those(kind: type, doc: str) -> Any:
    return property(lambda self: tuple(term for term in self.terms if isinstance(term, kind)), doc=doc)


@dataclass(frozen=True, slots=True)
class Query:
    """A parsed query; ``str(query)`` is text that parses to the same query.

    `duplicates`: whether near duplicates of better hits are shown; None if the query does not say.
    """

    terms: tuple[Term, ...] = ()
    duplicates: bool | None = None
    source: str = field(default="", compare=False)

    words = _those(Word, "The words to rank by.")
    phrases = _those(Phrase, "The exact words that must be there, or must not.")
    examples = _those(Example, "The pictures to look like, or not.")
    filters = _those(Filter, "The filters.")
    choices = _those(Either, "The alternatives.")

    def __str__(self) -> str:
        shown = [str(t) for t in self.terms]
        if self.duplicates is not None:
            shown.append(f"duplicates:{'yes' if self.duplicates else 'no'}")
        return " ".join(shown)


def quoted(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def typed(text: str) -> str:
    """A text as it is typed after a colon."""
    return text if _SAFE.match(text) else quoted(text)


def _weight(value: float) -> str:
    return "" if value == 1 else f"^{plain(value)}"


def plain(value: float) -> str:
    """The shortest decimal number that reads back as `value`, never in powers of ten."""
    text = format(Decimal(repr(float(value))), "f")
    return text.removesuffix(".0")
