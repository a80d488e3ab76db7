"""Where sentences end, and what their words are."""

from __future__ import annotations

import pytest

from neocog.text.sentences import cased_words, sentence_spans, split_sentences


@pytest.mark.parametrize(
    ("text", "sentences"),
    [
        ("Mr. Smith left. He was 3.5 years old.", ["Mr. Smith left.", "He was 3.5 years old."]),
        ('"Really?" she asked. Yes!', ['"Really?" she asked.', "Yes!"]),
        ("J. R. Tolkien wrote. So what...\nNobody knows", ["J. R. Tolkien wrote.", "So what...", "Nobody knows"]),
        ("A title\n\nand a text", ["A title", "and a text"]),
        ("good . but long . ", ["good .", "but long ."]),
        ("今日は。元気！", ["今日は。", "元気！"]),
        (" \n ", []),
    ],
)
def test_sentences(text: str, sentences: list[str]) -> None:
    assert split_sentences(text) == sentences
    assert [text[a:b] for a, b in sentence_spans(text)] == sentences


def test_words_as_the_treebank_has_them() -> None:
    said = "He didn't pay $3,000.50 to Mr. Bell's U.S. well-known firm..."
    assert " ".join(cased_words(said)) == "He did n't pay $ 3,000.50 to Mr. Bell 's U.S. well-known firm ..."
