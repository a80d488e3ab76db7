"""The query language: what is understood, what is refused and where, and that nothing else can happen."""

from __future__ import annotations

from datetime import datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from neocog.errors import UsageError
from neocog.library.query import (
    FIELDS,
    HAS,
    LONGEST,
    Either,
    Example,
    Filter,
    Moment,
    Near,
    Phrase,
    Query,
    Region,
    Word,
    parse,
)


@pytest.mark.parametrize(
    ("text", "terms"),
    [
        ("dog", (Word("dog"),)),
        ("Dog  on\tgrass", (Word("Dog"), Word("on"), Word("grass"))),
        ("dog^2 -indoor^0.5", (Word("dog", 2.0), Word("indoor", 0.5, True))),
        ('"exact words" -"not these"', (Phrase("exact words"), Phrase("not these", True))),
        ("“curly quotes”", (Phrase("curly quotes"),)),
        ('"a \\"b\\" c"', (Phrase('a "b" c'),)),
        ("like:a.jpg", (Example("a.jpg"),)),
        ('like:"my cat.jpg"^3', (Example("my cat.jpg", None, 3.0),)),
        ("unlike:a.jpg", (Example("a.jpg", negative=True),)),
        ("-like:a.jpg", (Example("a.jpg", negative=True),)),
        ("-unlike:a.jpg", (Example("a.jpg"),)),
        ("like:a.jpg@10,20,200,180^2", (Example("a.jpg", Region(10, 20, 200, 180), 2.0),)),
        ('like:"a b.jpg"@0,0,0.5,1', (Example("a b.jpg", Region(0, 0, 0.5, 1)),)),
        ("like:me@home.jpg", (Example("me@home.jpg"),)),
        (r"like:C:\x\a.jpg", (Example(r"C:\x\a.jpg"),)),
        ("tag:holiday -label:cat", (Filter("tag", "holiday"), Filter("label", "cat", True))),
        ('FOLDER:"our italy"', (Filter("folder", "our italy"),)),
        ("dog OR cat", (Either(((Word("dog"),), (Word("cat"),))),)),
        ("dog OR cat OR tag:x y", (Either(((Word("dog"),), (Word("cat"),), (Filter("tag", "x"),))), Word("y"))),
        ("dog OR cat OR tag:x folder:y", (Either(((Word("dog"),), (Word("cat"),), (Filter("tag", "x"),))),
                                          Filter("folder", "y"))),
        ("(golden retriever) OR cat", (Either(((Word("golden"), Word("retriever")), (Word("cat"),))),)),
        ("beach (dog OR -cat)", (Word("beach"), Either(((Word("dog"),), (Word("cat", negative=True),))))),
        ("NOT dog NOT tag:x", (Word("dog", negative=True), Filter("tag", "x", True))),
        ("dog or not NOTHING ORDER", tuple(Word(w) for w in ("dog", "or", "not", "NOTHING", "ORDER"))),
        ('"a OR b" IMG (1).jpg', (Phrase("a OR b"), Word("IMG"), Word("(1).jpg"))),
        ("(dog ((cat)) (big)^2 :) (", (*map(Word, ("dog", "cat")), Word("big", 2.0), Word(":)"), Word("("))),
        ("near:48.85,2.35", (Filter("near", Near(48.85, 2.35, 10_000)),)),
        ("near:-33.9,+151,500m", (Filter("near", Near(-33.9, 151, 500)),)),
        ("has:GPS -place:paris", (Filter("has", "gps"), Filter("place", "paris", True))),
        ("folder:/home/anna/italy", (Filter("folder", "/home/anna/italy"),)),
        ("after:2023", (Filter("after", Moment(2023)),)),
        ("before:2023-09", (Filter("before", Moment(2023, 9)),)),
        ("-taken:2022/05/17T12:30", (Filter("taken", Moment(2022, 5, 17, 12, 30), True),)),
        ("after:2023 before:2022", (Filter("after", Moment(2023)), Filter("before", Moment(2022)))),
        ("naïve 犬 100% c++ a-b", tuple(Word(w) for w in ("naïve", "犬", "100%", "c++", "a-b"))),
    ],
)  # fmt: skip
def test_what_is_understood(text: str, terms: tuple) -> None:
    assert parse(text).terms == terms


def test_duplicates_belong_to_the_query() -> None:
    assert parse("dog").duplicates is None
    assert parse("dog duplicates:yes").duplicates is True
    assert parse("-duplicates:yes dog").duplicates is False
    with pytest.raises(UsageError, match="both duplicates:yes and duplicates:no"):
        parse("duplicates:yes duplicates:no")


@pytest.mark.parametrize(
    ("text", "position", "said"),
    [
        ("dog -", 5 + 1, "expected a word after '-', found a space or the end"),
        ("dog --cat", 6, "found another '-'"),
        ('dog "open', 5, 'expected a closing "'),
        ('dog ""', 5, "expected words between the quotes"),
        ('"a"b', 4, "a space after the closing"),
        ('a"b"', 2, "quote in the middle of a word"),
        ("dog ^2", 5, "expected a word before '\\^'"),
        ("dog^1e9", 4, "expected one weight"),
        ("dog^0", 4, "expected a weight above 0"),
        ("dog^101", 4, "at most 100"),
        ("dgo:cat", 1, "expected one of .*found 'dgo:'"),
        ("tags:x", 1, "did you mean 'tag'"),
        ("dog like:", 10, "expected a picture file"),
        ("like: a.jpg", 6, "no space after the colon"),
        ("like:a.jpg@1,2,3", 11, "expected a part of the picture"),
        ("like:a.jpg@5,5,1,9", 11, "x0 < x1"),
        ("tag:x^2", 5, "is a filter.*carries no weight"),
        ("after:23", 7, "expected a date"),
        ("after:2023-13", 7, "expected a date"),
        ("taken:2023-02-30", 7, "expected a date"),
        ("-after:2023", 1, "type before:2023 instead"),
        ("duplicates:maybe", 12, "expected yes or no"),
        ("OR dog", 1, "a term before OR"),
        ("dog OR", 5, "a term after OR"),
        ("dog OR OR cat", 8, "a term before OR"),
        (
            "golden retriever OR cat",
            1,
            r"does OR take both words.*\(golden retriever\) OR ... or golden \(retriever OR",
        ),
        ("dog OR cat beach", 8, r"Type ... OR \(cat beach\) or \(... OR cat\) beach"),
        ("(dog OR cat", 1, r'expected a "\)"'),
        ("() OR cat", 1, "expected terms between"),
        ("(1).jpg OR cat", 4, "expected a space after"),
        ("NOT (dog OR cat)", 5, "NOT dog NOT cat"),
        ("dog NOT", 5, "a term after NOT"),
        ("NOT -dog", 5, "another '-'"),
        ("dog^2 OR cat", 1, "carry no weight"),
        ("dog OR duplicates:no", 8, "for the whole query"),
        ("near:91,0", 6, "a latitude and a longitude"),
        ("near:paris", 6, "a latitude and a longitude"),
        ("near:1,2,0km", 6, "greatest distance"),
        ("has:gsp", 5, "did you mean 'gps'"),
    ],
)
def test_errors_say_where_and_what_to_type(text: str, position: int, said: str) -> None:
    with pytest.raises(UsageError, match=f"position {position}: .*{said}"):
        parse(text)


def test_an_empty_query_is_refused() -> None:
    for text in ("", "   ", "\n"):
        with pytest.raises(UsageError, match="empty; type what you look for"):
            parse(text)


def test_4000_characters_are_read_and_one_more_is_refused() -> None:
    assert len(parse("ab " * (LONGEST // 3)).words) == LONGEST // 3
    with pytest.raises(UsageError, match="4,000 characters, this one has 4,001"):
        parse("a" * (LONGEST + 1))


# What can stand in a term without quotes, and what only with them.
_bare = st.text(st.characters(exclude_characters='"“”„^:\\', exclude_categories=("Z", "C")), min_size=1, max_size=12)
_words = _bare.filter(lambda t: not t.startswith("-") and not any(c.isspace() for c in t))
_any = st.text(st.characters(exclude_categories=("Cs",)), min_size=1, max_size=12).filter(
    lambda t: t.strip() and "\0" not in t
)
_weights = st.floats(0.01, 100, allow_nan=False).map(lambda w: round(w, 3)) | st.just(1.0)
_yes = st.booleans()


@st.composite
def _regions(draw: st.DrawFn) -> Region:
    x0, y0 = draw(st.integers(0, 500)), draw(st.integers(0, 500))
    return Region(x0, y0, x0 + draw(st.integers(1, 500)), y0 + draw(st.integers(1, 500)))


@st.composite
def _moments(draw: st.DrawFn) -> Moment:
    when, depth = draw(st.datetimes(datetime(1, 1, 1), datetime(9999, 12, 31))), draw(st.integers(1, 4))
    parts: list[int] = [when.year, when.month, when.day][: min(depth, 3)]
    return Moment(*parts, *([when.hour, when.minute] if depth == 4 else []))


_nears = st.builds(
    Near, st.floats(-90, 90).map(lambda v: round(v, 4) + 0.0), st.floats(-180, 180).map(lambda v: round(v, 4) + 0.0),
    st.integers(1, 10**7).map(float),
)  # fmt: skip
_terms = st.one_of(
    st.builds(Word, _words, _weights, _yes),
    st.builds(Phrase, _any, _yes),
    st.builds(Example, _any, st.none() | _regions(), _weights, _yes),
    st.builds(Filter, st.sampled_from(("tag", "label", "folder", "camera", "place")), _any.map(str.strip), _yes),
    st.builds(Filter, st.just("near"), _nears, _yes),
    st.builds(Filter, st.just("has"), st.sampled_from(HAS), _yes),
    st.builds(Filter, st.just("taken"), _moments(), _yes),
    st.builds(Filter, st.sampled_from(("after", "before")), _moments()),
)


@given(st.lists(_terms, min_size=1, max_size=8), st.none() | _yes)
def test_a_query_written_out_is_read_again(terms: list, duplicates: bool | None) -> None:
    query = Query(tuple(terms), duplicates)
    assert parse(str(query)) == query


# What can be an alternative: no weights, and no brackets in words.
_plain_words = st.builds(Word, st.sampled_from(["dog", "Cat", "tea-cup", "NOTE"]), st.just(1.0), _yes)
_choices = st.recursive(
    _plain_words | st.builds(Phrase, _any, _yes) | st.builds(Filter, st.just("tag"), _any.map(str.strip), _yes),
    lambda inner: st.builds(
        Either, st.lists(st.lists(inner, min_size=1, max_size=3).map(tuple), min_size=2, max_size=3).map(tuple)
    ),
    max_leaves=6,
)


@given(st.lists(_choices, min_size=1, max_size=4))
def test_alternatives_written_out_are_read_again(terms: list) -> None:
    query = Query(tuple(terms))
    assert parse(str(query)) == query


@given(st.text(max_size=60) | st.text('dog^-:"@,.12 \\like:tag:after“ORNT()', max_size=60))
def test_any_text_is_understood_or_refused_and_nothing_else(text: str) -> None:
    try:
        query = parse(text)
    except UsageError as error:
        assert "position" in str(error) or "query" in str(error)
        return
    assert parse(str(query)) == query
    assert all(isinstance(f.value, str | Moment | Near) and f.field in FIELDS for f in query.filters)


@given(_moments(), st.datetimes(datetime(1, 1, 1), datetime(9999, 12, 31)))
def test_a_moment_holds_what_it_names(moment: Moment, when: datetime) -> None:
    assert moment.start < moment.end
    named = (moment.year, moment.month, moment.day, moment.hour, moment.minute)
    true = (when.year, when.month, when.day, when.hour, when.minute)
    same = all(a in (None, b) for a, b in zip(named, true, strict=True))
    assert (moment.start <= when < moment.end) == same


def test_a_region_in_pixels_and_fractions() -> None:
    assert Region(0, 0, 0.5, 1).pixels(200, 100) == (0, 0, 100, 100)
    assert Region(10, 20, 500, 500).pixels(200, 100) == (10, 20, 200, 100)
    assert Region(0.999, 0.999, 1, 1).pixels(10, 10) == (9, 9, 10, 10)
    with pytest.raises(UsageError, match="lies outside the picture, which is 200 x 100"):
        Region(300, 0, 400, 10).pixels(200, 100)


@given(_regions(), st.integers(1, 600), st.integers(1, 600))
def test_a_region_never_leaves_its_picture(region: Region, width: int, height: int) -> None:
    try:
        left, top, right, bottom = region.pixels(width, height)
    except UsageError:
        return
    assert 0 <= left < right <= width
    assert 0 <= top < bottom <= height
