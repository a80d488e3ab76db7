"""Full text: the same words however they are split, BM25 as the formula says, exact words, paths."""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from neocog.library.concepts import normalise
from neocog.library.fulltext import FIELDS, K1, B, FullText, _texts, forms, same_name, without_common
from neocog.library.mirror import mapped_table

TEXTS = pa.list_(pa.string())


def text(*pictures: dict[str, object]) -> FullText:
    columns = {name: [one.get(name, [] if name != "camera" else None) for one in pictures] for name in FIELDS}
    return FullText(pa.table({n: pa.array(v, pa.string() if n == "camera" else TEXTS) for n, v in columns.items()}))


def slow_score(pictures: Sequence[dict[str, list[str]]], word: str) -> list[float]:
    """BM25F from its formula, for one word, divided by the most that can be reached."""
    counts, lengths = [], []
    for one in pictures:
        words = [(w, FIELDS[f]) for f, texts in one.items() for t in texts for w in normalise(t).split()]
        counts.append(sum(weight for w, weight in words if w in forms(word)))
        lengths.append(sum(weight for _, weight in words))
    mean, df, n = np.mean(lengths), sum(c > 0 for c in counts), len(pictures)
    rarity = math.log(1 + (n - df + 0.5) / (df + 0.5))
    scores = []
    for count, length in zip(counts, lengths, strict=True):
        norm = K1 * (1 - B + B * length / max(mean, 1e-9))
        scores.append(rarity * count * (K1 + 1) / (count + norm) / (rarity * (K1 + 1)))
    return scores


_words = st.lists(st.sampled_from("dog dogs cat red grass city cities".split()), max_size=6).map(" ".join)


_rows = st.fixed_dictionaries({"captions": st.lists(_words, max_size=3), "labels": st.lists(_words, max_size=2)})


@given(st.lists(_rows, min_size=1, max_size=6), st.sampled_from("dog cat city zebra".split()))
def test_scores_are_those_of_the_formula(pictures: list[dict[str, list[str]]], word: str) -> None:
    np.testing.assert_allclose(text(*pictures).score([word]), slow_score(pictures, word), rtol=1e-4, atol=1e-6)


# Arrow and Python need not know the same version of Unicode: no characters that one of them has yet to learn.
_known = st.characters(exclude_categories=("Cs", "Cn", "Co"), max_codepoint=0xFFFF)


@given(st.lists(st.text(_known, max_size=20), max_size=5))
def test_columns_are_split_into_the_same_words_as_single_texts(captions: list[str]) -> None:
    table = pa.table({"captions": pa.array([captions], TEXTS)})
    owners, texts = _texts(table, "captions")
    expected = [normalise(one) for one in captions if normalise(one)]
    assert texts.to_pylist() == expected
    assert len(owners) == len(expected)


def test_singular_and_plural_are_one_word_and_labels_count_more() -> None:
    some = text({"captions": ["two dogs run"]}, {"labels": ["Dog"]}, {"captions": ["a cat"]})
    scores = some.score(["dog"])
    assert scores[1] > scores[0] > scores[2] == 0
    assert some.knows("DOGS") and not some.knows("zebra")
    assert some.where(["dog"], 0) == ("caption",)
    assert some.where(["dog"], 1) == ("label",)


def test_exact_words_are_side_by_side_in_one_text() -> None:
    some = text(
        {"captions": ["A red ball!", "on grass"]}, {"captions": ["ball red"]}, {"captions": ["a red", "ball"]},
        {"captions": ["the redball"]}, {"paths": ["x/red_ball.jpg"]},
    )  # fmt: skip
    assert some.phrase("Red  ball").tolist() == [True, False, False, False, True]
    assert not some.phrase("???").any()
    assert some.phrase("ball on").tolist() == [False] * 5


def test_folders_that_all_share_say_nothing() -> None:
    paths = pa.array(["/home/anna/x/1.jpg", "/home/anna/y/2.jpg", None])
    assert without_common(paths).to_pylist() == ["x/1.jpg", "y/2.jpg", None]
    assert without_common(pa.array(["only/one.jpg"])).to_pylist() == ["one.jpg"]
    assert without_common(pa.array(["ab/1.jpg", "ac/1.jpg"])).to_pylist() == ["ab/1.jpg", "ac/1.jpg"]


@pytest.mark.parametrize("count", [0, 1])
def test_pictures_without_any_text(count: int) -> None:
    some = text(*[{}] * count)
    assert some.score(["dog"]).tolist() == [0] * count
    assert some.phrase("dog").tolist() == [False] * count
    assert some.words == []


def test_words_that_were_kept_answer_as_words_that_are_split_anew(tmp_path: Path) -> None:
    rows = pa.table(
        {
            "labels": pa.array([["Hund"], [], []], TEXTS),
            "tags": pa.array([[], ["dog"], []], TEXTS),
            "captions": pa.array([["a dog, a dog"], [], ["cats"]], TEXTS),
            "paths": pa.array([["p/a.jpg"], ["p/b.jpg"], ["p/dog.jpg", "p/c.jpg"]], TEXTS),
            "camera": pa.array(["Canon", None, None], pa.string()),
        }
    )
    made: list[str] = []

    def keep(name: str, make: Callable[[], pa.Table]) -> pa.Table:
        def noted() -> pa.Table:
            made.append(name)
            return make()

        return mapped_table(tmp_path, name, "key", noted)

    fresh, first, second = FullText(rows), FullText(rows, keep), FullText(rows, keep)
    assert len(made) == len(set(made)) == 2  # made for the first, read by the second
    for some in (first, second):
        assert some.words == fresh.words
        for word in ("dog", "cat", "hund", "canon", "zebra"):
            np.testing.assert_array_equal(some.score([word]), fresh.score([word]))
            assert [some.where([word], i) for i in range(3)] == [fresh.where([word], i) for i in range(3)]
        np.testing.assert_array_equal(some.phrase("a dog"), fresh.phrase("a dog"))


def test_names_but_for_case_and_signs() -> None:
    assert same_name(pa.array(["Our Holiday", "our_holiday", "ours", None]), "OUR holiday") == [
        "Our Holiday",
        "our_holiday",
    ]
    assert same_name(["++", "+"], "++") == ["++"]


@pytest.mark.slow
def test_every_character_is_split_the_same_way() -> None:
    known = [chr(c) for c in range(1, 0x30000) if unicodedata.category(chr(c)) not in ("Cs", "Cn", "Co")]
    table = pa.table({"captions": pa.array([[f"a{c}b {c}"] for c in known], TEXTS)})
    owners, texts = _texts(table, "captions")
    found = dict(zip(owners.tolist(), texts.to_pylist(), strict=True))
    assert [c for i, c in enumerate(known) if found.get(i, "") != normalise(f"a{c}b {c}")] == []
