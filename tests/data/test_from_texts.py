"""Tags from the texts that people wrote about pictures."""

from __future__ import annotations

import numpy as np
import pytest

from neocog.data.from_texts import with_tags
from neocog.data.kinds import TextLists
from neocog.data.source import Arrays
from neocog.errors import DataError, UsageError

TEXTS = [
    ("Two dogs are running on the grass.", "A dog's toy"),
    ("A dog and 3 PEOPLE with glasses",),
    (),
    ("The person wears shorts; a fire behind the dogs!",),
    ("a short man in shorts",),
]


def pictures(texts: list[tuple[str, ...]]) -> Arrays:
    return Arrays(np.zeros((len(texts), 4, 4), np.uint8), columns={"captions": TextLists(texts)})


def tags(source: Arrays, i: int) -> set[str] | None:
    column = source.columns["tags"]
    row = column[i]
    return None if row is None else {column.names[k] for k in np.flatnonzero(row)}


def test_the_words_that_say_something_are_the_tags():
    source = pictures(TEXTS)
    found = with_tags(source, "1")
    assert tags(found, 0) == {"dog", "running", "grass", "toy"}  # two, are, on, the say nothing
    assert tags(found, 1) == {"dog", "person", "glasses"}  # no glass is seen; a number is no word
    assert tags(found, 2) is None  # nobody said anything, which is not that nothing is there
    assert tags(found, 3) == {"person", "wears", "shorts", "fire", "dog"}
    assert tags(found, 4) == {"short", "man", "shorts"}  # trousers are not a length
    assert "tags" not in source.columns  # the source is as it was


def test_rare_words_are_left_out_and_it_is_said_how_many():
    found = with_tags(pictures(TEXTS), "2")
    assert found.columns["tags"].names == ("dog", "person", "shorts")
    assert found.notes[0].startswith("3 tags from texts, the words of at least 2 of 4 pictures (dog 3, ")
    assert found.notes[0].endswith("8 rarer words are left out")
    many = with_tags(pictures(TEXTS[:2] * 600), "auto")
    assert "at least 6 of 1,200 pictures" in many.notes[0]  # half a per cent


def test_other_pictures_get_the_tags_that_are_known():
    other = with_tags(pictures([("Cats and dogs",), ("a cat",)]), "1", ("dog", "running"))
    assert other.columns["tags"].names == ("dog", "running") and not other.notes
    assert [tags(other, i) for i in (0, 1)] == [{"dog"}, set()]


def test_a_view_of_it_has_its_tags_and_other_texts_are_another_source():
    found = with_tags(pictures(TEXTS), "2")
    assert tags(found.select([4, 0]), 1) == {"dog"}
    changed = with_tags(pictures([*TEXTS[:4], ("a dog",)]), "2")
    assert found.fingerprint() != changed.fingerprint()
    assert found.fingerprint() == with_tags(pictures(TEXTS), "2").fingerprint()


def test_without_texts_or_common_words_it_is_said_what_to_type():
    with pytest.raises(DataError, match=r"no texts beside its pictures to take tags from.* --column caption=NAME"):
        with_tags(Arrays(np.zeros((2, 4, 4), np.uint8)))
    with pytest.raises(DataError, match="no word that could be a tag is in the texts of 5 pictures of arrays"):
        with_tags(pictures(TEXTS))
    with pytest.raises(UsageError, match="from_text= is auto or how many pictures must have a word, not 'many'"):
        with_tags(pictures(TEXTS), "many")
