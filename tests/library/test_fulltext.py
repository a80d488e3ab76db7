"""Full text: whatever is typed as it stands is found, BM25 as the formula says, exact words, paths."""

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
from neocog.library.fulltext import FIELDS, K1, B, FullText, common_folder, forms, same_name, spelled, words_of
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
_known = st.characters(exclude_categories=("Cs", "Cn", "Co", "Cc"), max_codepoint=0x1FFFF)


@given(st.lists(st.text(_known, max_size=12) | st.text("a1'’-_.:é東京 ", max_size=12), max_size=3))
def test_whatever_stands_in_a_text_is_found_as_it_stands(captions: list[str]) -> None:
    some = text({}, {"captions": captions})
    for piece in " ".join(captions).split():
        if not _only_marks(piece):
            assert some.score([piece])[1] > 0, piece
            assert some.score([piece])[0] == 0
            assert some.phrase(piece).tolist() == [False, True]
            assert some.where([piece], 1) == ("caption",)


def _only_marks(piece: str) -> bool:
    left = unicodedata.normalize("NFKD", piece)
    return all(unicodedata.category(c) in ("Mn", "Me", "Cf", "Zs") for c in left)


@pytest.mark.parametrize(
    ("typed", "stands"),
    [
        ("merry-go-round", "a child on a merry-go-round"),
        ("merry-go-rounds", "a child on a merry-go-round"),
        ("check-in", "check-in at O'Hare"),
        ("O'Hare", "check-in at O'Hare"),
        ("O’Hare", "check-in at O'Hare"),
        ("ohare", "check-in at O'Hare"),
        ("O'Hare", "OHare airport"),
        ("dog", "the dog's bowl"),
        ("dont", "don’t walk"),
        ("été", "un jour d'été"),
        ("ÉTÉ", "un jour d’été"),
        ("d'été", "un jour d'été"),
        ("12:30", "lunch at 12:30"),
        ("New-York", "in New York"),
        ("z_z", "z_z"),
        ("v1.2", "release v1.2 party"),
        ("Lodz", "Łódź"),
        ("Strasse", "Hauptstraße, Straße 5"),
        ("東京", "東京タワーの夜"),
        ("タワー", "東京タワーの夜"),
        ("東", "東京タワー"),
        ("고양이", "고양이가 자다"),
        ("हिन्दी", "हिन्दी में"),
        ("แมว", "ที่แมวนอน"),
        ("❤️", "love ❤️"),
        ("❤", "love❤️"),
        ("caf\udce9", "caf\x10e9"),
    ],
)  # fmt: skip
def test_compound_words_signs_and_scripts_without_spaces(typed: str, stands: str) -> None:
    for field in ("captions", "labels", "tags"):
        some = text({field: ["other"]}, {field: ["x", stands]}, {})
        assert some.score([typed])[1] > 0
        assert some.score([typed])[[0, 2]].tolist() == [0, 0]


@pytest.mark.parametrize("typed", ["IMG_0002", "IMG_0002.jpg", "img_0002.JPG", "0002", "trip/IMG_0002.jpg", "0002.jpg"])
def test_file_names_with_and_without_their_ending(typed: str) -> None:
    some = text({"paths": ["trip/IMG_0002.jpg"]}, {"paths": ["trip/IMG_0020.jpg"]}, {"paths": ["IMG/x_0002.png"]})
    assert some.score([typed])[0] > 0 and some.score([typed])[1] == 0
    assert (some.score([typed])[2] > 0) == (typed == "0002")


def test_the_parts_of_a_compound_word_apart_are_another_thing() -> None:
    some = text({"captions": ["a round of golf, merry people go", "merry go"]}, {"captions": ["merry go", "round"]})
    assert some.score(["merry-go-round"]).tolist() == [0, 0]
    assert not some.phrase("東京").any()


def test_a_compound_word_counts_as_a_word_does() -> None:
    some = text({"labels": ["New York"]}, {"captions": ["New York"]}, {"captions": ["York, New"]})
    scores = some.score(["new-york"])
    assert scores[0] > scores[1] > scores[2] == 0
    assert some.where(["new-york"], 0) == ("label",)


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
    assert not some.phrase("???").any() and some.phrase("!").tolist() == [True, False, False, False, False]
    assert some.phrase("ball on").tolist() == [False] * 5


def test_folders_that_all_share_say_nothing() -> None:
    paths = ["/home/anna/x/1.jpg", "/home/anna/y/2.jpg", None]
    assert common_folder(pa.array(paths)) == len("/home/anna/")
    assert common_folder(pa.array(["only/one.jpg"])) == len("only/")
    assert common_folder(pa.array(["ab/1.jpg", "ac/1.jpg"])) == 0
    some = text({"paths": [paths[0]]}, {"paths": [paths[1]]})
    assert not some.knows("anna") and not some.knows("anna/x") and some.knows("x") and some.knows("y/2.jpg")


@pytest.mark.parametrize("count", [0, 1])
def test_pictures_without_any_text(count: int) -> None:
    some = text(*[{}] * count)
    assert some.score(["dog"]).tolist() == [0] * count
    assert some.phrase("dog").tolist() == [False] * count
    assert some.words == []


def test_words_that_were_kept_answer_as_words_that_are_split_anew(tmp_path: Path) -> None:
    none = {name: pa.array([[]] * 3, TEXTS) for name in FIELDS}
    rows = pa.table(
        {
            **none,
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
def test_characters_are_split_the_same_way_alone_and_in_a_column() -> None:
    known = [chr(c) for c in range(1, 0x30000, 11) if unicodedata.category(chr(c)) not in ("Cs", "Cn", "Co")]
    column = spelled(pa.array([f"a{c}b {c}" for c in known])).to_pylist()
    assert [c for c, words in zip(known, column, strict=True) if " ".join(words_of(f"a{c}b {c}")) != words] == []
