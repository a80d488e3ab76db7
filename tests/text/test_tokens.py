"""Texts become integers: words, letter trigrams, subwords."""

from __future__ import annotations

import json
import subprocess
import sys
import unicodedata

import numpy as np
import pytest

from neocog.errors import DataError, MissingExtra, UsageError
from neocog.text import tokens
from neocog.text.tokens import (
    Characters,
    Pieces,
    Subwords,
    Tokenizer,
    Trigrams,
    Words,
    colliding,
    load_tokenizer,
    split_words,
    trigrams_of,
)
from neocog.text.vectors import mean_vectors, table_for, word_vectors

TEXTS = ["A black dog runs.", "a dog, a DOG!", "", "it isn't 'the' t-shirt"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("A black dog runs.", ["a", "black", "dog", "runs", "."]),
        ("it isn't 'the' t-shirt", ["it", "isn't", "'", "the", "'", "t", "-", "shirt"]),
        ("“Don’t”—she said…", ["“", "don't", "”", "—", "she", "said", "…"]),
        ("CAFÉ cafe\u0301", ["café", "café"]),
        ("हिन्दी में कुत्ता", ["हिन्दी", "में", "कुत्ता"]),  # vowel signs are no letters, and belong to their words
        ("两只狗 イヌ dog", ["两", "只", "狗", "イ", "ヌ", "dog"]),
        ("ÄRGER\u00a0Straße", ["ärger", "straße"]),
        ("''", ["'", "'"]),
        ("co\u00adop \t\n", ["coop"]),  # a soft hyphen is invisible
        ("", []),
    ],
)
def test_texts_are_split_as_people_read_them(text: str, words: list[str]) -> None:
    assert split_words([text, unicodedata.normalize("NFD", text)]) == [words, words]


def test_words_are_counted_and_joined_back() -> None:
    made = Words.learn(TEXTS, least=2)
    assert made.words == ("a", "dog", "'")
    assert made.counts.tolist() == [3, 3, 2]
    assert made.size == 7
    ids = made.encode(["a dog sleeps", "a"])
    assert ids.dtype == np.int32 and ids.tolist() == [[4, 5, 1], [4, 0, 0]]
    assert made.encode(["a dog sleeps"], longest=2).tolist() == [[4, 5]]
    assert made.encode(["a dog", ""], ends=True).tolist() == [[2, 4, 5, 3], [2, 3, 0, 0]]
    assert made.encode([""]).shape == (1, 1) and made.encode([]).shape == (0, 1)
    full = Words.learn(TEXTS)
    row = full.encode(["a dog , ( black ) runs ."], ends=True)[0]
    assert full.text(row) == "a dog, … black … runs."


def test_letter_trigrams_are_those_of_the_paper() -> None:
    assert trigrams_of("good") == ["#go", "goo", "ood", "od#"]
    assert trigrams_of("a") == ["#a#"]
    made = Trigrams.learn(["a good dog", "good"])
    ids = made.encode(["good a", "gooz"])
    assert ids.shape == (2, 2, 4)
    names = ["", "?", *made.trigrams]
    assert [names[k] for k in ids[0, 0]] == ["#go", "goo", "ood", "od#"]
    assert [names[k] for k in ids[0, 1]] == ["#a#", "", "", ""]
    assert [names[k] for k in ids[1, 0]] == ["#go", "goo", "?", "?"] and not ids[1, 1].any()
    assert made.words == 3 and made.collisions == 0


def test_words_with_the_same_trigrams_are_reported() -> None:
    words = ["abcabdab", "abdabcab", "dog"]
    assert colliding(words) == [["abcabdab", "abdabcab"]]
    assert Trigrams.learn([" ".join(words)]).collisions == 2


def test_subwords_are_those_of_the_tokenizer_moved_by_one() -> None:
    from tokenizers import Tokenizer as Whole

    made = Subwords()
    whole = Whole.from_file(str(tokens.package_file("tokenizers/l2_supercat_tokenizer_config.json")))
    texts = ["A skateboarder jumps, twice!", "ein Hund", "犬"]
    for text, row in zip(texts, made.encode(texts), strict=True):
        assert [k - 1 for k in row.tolist() if k] == whole.encode(text.lower(), add_special_tokens=False).ids
    assert made.tokens(made.encode(["two dogs"])[0]) == ["▁two", "▁dogs"]
    assert made.size == 32001 == len(table_for(made))


def test_words_as_their_pieces_and_characters() -> None:
    made = Pieces()
    ids = made.encode(["A melting dog.", "x"])
    assert ids.shape[:2] == (2, 4) and made.tokens(ids[0].tolist()) == ["a", "melting", "dog", "."]
    alone = Subwords().encode(["melting"])[0]
    assert ids[0, 1][: len(alone)].tolist() == alone.tolist() and not ids[1, 1:].any()
    assert load_tokenizer(json.loads(json.dumps(made.to_json()))).kind == "pieces"
    letters = Characters.learn(["ab  B"])
    assert letters.tokens(letters.encode(["b a?"])[0]) == ["b", " ", "a", "…"]


@pytest.mark.parametrize("kind", [Words, Trigrams])
def test_tokenizers_are_kept_as_json(kind: type[Words] | type[Trigrams]) -> None:
    made = kind.learn(TEXTS)
    again = load_tokenizer(json.loads(json.dumps(made.to_json())))
    assert np.array_equal(made.encode(TEXTS), again.encode(TEXTS)) and again.size == made.size
    assert again.to_json() == made.to_json()


def test_a_tokenizer_of_another_version_is_refused() -> None:
    made: Tokenizer = Subwords()
    assert load_tokenizer(made.to_json()).size == made.size
    with pytest.raises(DataError, match="another version of wordllama"):
        load_tokenizer({**made.to_json(), "sha256": "0"})
    with pytest.raises(DataError, match="expected one of words, characters, trigrams, subwords, pieces"):
        load_tokenizer({"kind": "letters"})


def test_word_vectors_know_what_is_near() -> None:
    table = word_vectors()
    assert table.shape == (32000, 256) and table.dtype == np.float16
    dog, puppy, wall, none = mean_vectors(["dog", "puppy", "wall", ""])
    assert dog @ puppy / np.linalg.norm(puppy) > 2 * (dog @ wall) / np.linalg.norm(wall)
    assert not none.any()
    words = Words.learn(["dog wall"])
    assert np.allclose(table_for(words)[4:], [dog, wall]) and not table_for(words)[:4].any()
    with pytest.raises(UsageError, match="no pretrained vectors of trigrams"):
        table_for(Trigrams.learn(["dog"]))


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    tokens.package_file.cache_clear()
    monkeypatch.setattr(tokens, "find_spec", lambda name: None)
    with pytest.raises(MissingExtra, match="pip install 'wordllama"):
        word_vectors()


def test_neither_torch_nor_wordllama_is_loaded() -> None:
    code = (
        "import sys; from neocog.text import tokens, vectors; tokens.Subwords().encode(['a dog']); "
        "vectors.mean_vectors(['a dog']); print([m for m in ('torch', 'wordllama') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
