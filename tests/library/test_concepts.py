"""From words to concepts: WordNet as published, plurals, typing errors, and nets with classes of their own."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from neocog.library import concepts
from neocog.library.concepts import Spelling, Vocabulary, damerau, is_english, normalise, singulars, vocabulary

IMAGENET = vocabulary("imagenet")


def found(text: str, words: Vocabulary = IMAGENET) -> list[str]:
    match = words.find(text)
    return [] if match is None else [words.classes[i] for i in match.concepts]


def test_dog_finds_the_118_breeds() -> None:
    match = IMAGENET.find("dog")
    assert match is not None
    assert (len(match.concepts), match.how) == (118, "broader")
    assert str(match).startswith("'dog': 118 concepts (Chihuahua, Japanese spaniel, Maltese dog, ...)")


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("golden retriever", ["golden retriever"]),
        ("Golden  RETRIEVERS", ["golden retriever"]),
        ("labrador", ["Labrador retriever"]),
        ("motorcycle", ["moped"]),  # what WordNet has below it
        ("hotdog", ["hotdog"]),
        ("hot dog", ["hotdog"]),
        ("lap-top", ["laptop"]),
        ("wolves", ["timber wolf", "white wolf", "red wolf", "coyote"]),
        ("kitten", ["tabby", "tiger cat", "Persian cat", "Siamese cat", "Egyptian cat"]),
        ("zebras", ["zebra"]),
    ],
)
def test_names_synonyms_and_plurals(text: str, names: list[str]) -> None:
    assert found(text) == names


@pytest.mark.parametrize(
    ("typed", "meant"),
    [("labradr", "labrador"), ("dgo", "dog"), ("elefant", "elephant"), ("zebar", "zebra"),
     ("giant pnada", "giant panda"), ("accordian", "accordion"), ("motorcycel", "motorcycle")],
)  # fmt: skip
def test_typing_errors_are_corrected_and_told(typed: str, meant: str) -> None:
    match = IMAGENET.find(typed)
    assert match is not None
    assert match.how == "typo"
    assert found(typed) == found(meant)
    assert meant in str(match)
    assert "is not known" in str(match)
    assert IMAGENET.find(typed, typos=False) is None


@pytest.mark.parametrize("text", ["", "  ", "zxqwv", "-", "???", "grass", "beach", "flying", "x" * 4000, "ab"])
def test_what_is_no_concept_is_not_guessed(text: str) -> None:
    assert IMAGENET.find(text) is None


def test_english_words_are_not_taken_for_mistyped_ones() -> None:
    for word in "after stop trick beach grass flying dressed trail something stopped cities women".split():
        assert is_english(normalise(word)), word
        match = IMAGENET.find(word)
        assert match is None or match.how != "typo", word
    assert not is_english("labradr")
    assert not is_english("")


def test_every_class_finds_itself_and_every_broader_term_covers_it() -> None:
    for i, name in enumerate(IMAGENET.classes):
        match = IMAGENET.find(name)
        assert match is not None
        assert i in match.concepts
        for term in IMAGENET.broader(i):
            wider = IMAGENET.find(term)
            assert wider is not None
            assert i in wider.concepts, (name, term)


def test_the_compact_file_says_what_wordnet_says(facts_folder: Path) -> None:
    facts = json.loads((facts_folder / "imagenet_wordnet.json").read_text("utf-8"))
    assert len(facts["classes"]) == len(IMAGENET) == 1000
    below: dict[str, set[int]] = {}
    for one in facts["classes"]:
        for name in one["names"]:
            below.setdefault(normalise(name), set()).add(one["index"])
        for term in one["broader"]:
            for name in facts["broader"][term]["names"]:
                below.setdefault(normalise(name), set()).add(one["index"])
    for name, expected in below.items():
        match = IMAGENET.find(name, typos=False)
        assert match is not None, name
        assert set(match.concepts) == expected, name


@pytest.mark.parametrize(
    ("name", "owner"), [("wordnet", "2006 by Princeton"), ("english", "2000-2011 by Kevin Atkinson")]
)
def test_notices_are_shipped_in_the_data_and_beside_it(name: str, owner: str) -> None:
    folder = Path(concepts.__file__).parent
    notice = (folder / f"{name}.LICENSE.txt").read_text("utf-8")
    assert f"Copyright {owner}" in notice
    assert json.loads((folder / f"{name}.json").read_text("utf-8"))["notice"].strip() == notice.strip()


def test_classes_of_ones_own_get_wordnets_broader_terms() -> None:
    own = Vocabulary(["tabby", "horse cart", "our garden", "n02084071", "zebra"])
    assert found("animal", own) == ["tabby", "zebra"]
    assert found("cat", own) == ["tabby"]
    assert found("our garden", own) == ["our garden"]
    assert found("garden", own) == ["our garden"]
    assert found("submarine", own) == []
    assert Vocabulary([]).find("dog") is None


def test_other_spellings_of_the_thousand_classes_are_the_same_vocabulary() -> None:
    renamed = [f"{name}, and more" for name in IMAGENET.classes]
    assert vocabulary(renamed).classes == IMAGENET.classes
    assert vocabulary(["cat", "dog"]).classes == ("cat", "dog")


def test_a_summary_names_what_probabilities_amount_to() -> None:
    p = np.zeros(1000)
    dogs = IMAGENET.find("spaniel")
    assert dogs is not None
    p[list(dogs.concepts)] = 0.9 / len(dogs.concepts)
    names = [name for name, _ in IMAGENET.summary(p)]
    assert names[0] == "spaniel"
    assert IMAGENET.summary(np.zeros(1000)) == []


def slow_distance(a: str, b: str) -> int:
    """Optimal string alignment, cell by cell."""
    d = [[0] * (len(b) + 1) for _ in range(len(a) + 1)]
    for i in range(len(a) + 1):
        d[i][0] = i
    for j in range(len(b) + 1):
        d[0][j] = j
    for i in range(1, len(a) + 1):
        for j in range(1, len(b) + 1):
            d[i][j] = min(d[i - 1][j] + 1, d[i][j - 1] + 1, d[i - 1][j - 1] + (a[i - 1] != b[j - 1]))
            if i > 1 and j > 1 and a[i - 1] == b[j - 2] and a[i - 2] == b[j - 1]:
                d[i][j] = min(d[i][j], d[i - 2][j - 2] + 1)
    return d[-1][-1]


_short = st.text("abcé犬", min_size=1, max_size=7)


@given(_short, st.lists(_short, min_size=1, max_size=6))
def test_distances_are_those_of_the_textbook(word: str, names: list[str]) -> None:
    width = max(map(len, names))
    letters = np.array([[ord(c) for c in n.ljust(width, "\0")] for n in names], np.uint32)
    expected = [slow_distance(word, n) for n in names]
    assert damerau(word, letters, np.array([len(n) for n in names])).tolist() == expected


@given(st.text(max_size=50))
def test_any_text_can_be_looked_up(text: str) -> None:
    IMAGENET.find(text)
    assert Spelling(["some", "names"]).nearest(normalise(text)) is not None
    assert normalise(normalise(text)) == normalise(text)
    assert all(one != normalise(text) for one in singulars(normalise(text)))


def test_in_short_words_only_a_swap_is_an_error() -> None:
    spelling = Spelling(["dog", "cat", "cot", "bird"])
    assert spelling.nearest("dgo") == ("dog",)
    assert spelling.nearest("brid") == ("bird",)
    assert spelling.nearest("cut") == ()
    assert spelling.nearest("bard") == ()
    assert Spelling([]).nearest("anything") == ()


def test_a_class_of_what_is_not_there_answers_to_its_whole_name_only() -> None:
    words = Vocabulary(["wet dog", "not wet dog", "room without windows"])
    assert found("dog", words) == ["wet dog"]
    assert found("not wet dog", words) == ["not wet dog"]
    assert words.find("windows", typos=False) is None
