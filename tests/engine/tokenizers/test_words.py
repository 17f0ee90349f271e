"""The word tokeniser: ids, vocabularies, policies, and the spaces of decoded text."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizer_cases import WORD, WORDY, ids, through_json

from unrolled.engine.errors import ConfigError, UnknownTokenError
from unrolled.engine.tokenizers import pieces as pieces_module
from unrolled.engine.tokenizers.vocabulary import BOS, EOS, UNK
from unrolled.engine.tokenizers.words import WordTokenizer

PROPERTY = settings(derandomize=True, max_examples=80, deadline=None)


def test_word_encode_and_decode() -> None:
    np.testing.assert_array_equal(WORD.encode("The cat, the dog!"), ids(1, 2, 1, 0), strict=True)
    assert WORD.decode([1, 2, 1, 0]) == "the cat the <unk>"
    np.testing.assert_array_equal(WORD.encode(" .\n"), ids(), strict=True)
    assert WORD.decode([]) == ""


def test_word_fit_orders_by_frequency_then_alphabet() -> None:
    text = "b a c b c b d"
    assert WordTokenizer.fit(text).vocabulary == (UNK, "b", "c", "a", "d")
    assert WordTokenizer.fit(text, specials=(BOS, EOS)).vocabulary == (UNK, BOS, EOS, "b", "c", "a", "d")
    assert WordTokenizer.fit(text, unknown="error").vocabulary == ("b", "c", "a", "d")


@pytest.mark.parametrize(
    ("size", "expected"),
    [(4, (UNK, BOS, EOS, "b")), (5, (UNK, BOS, EOS, "b", "c")), (99, (UNK, BOS, EOS, "b", "c", "a", "d"))],
)
def test_word_vocab_size_counts_the_specials(size: int, expected: tuple[str, ...]) -> None:
    assert WordTokenizer.fit("b a c b c b d", specials=(BOS, EOS), vocab_size=size).vocabulary == expected


def test_word_vocab_size_without_room_is_refused() -> None:
    with pytest.raises(ConfigError, match="vocab_size: 3 leaves no room for words behind <unk>, <bos>, <eos>"):
        WordTokenizer.fit("a b", specials=(BOS, EOS), vocab_size=3)
    with pytest.raises(ConfigError, match="vocab_size: 0 leaves no room"):
        WordTokenizer.fit("a b", unknown="skip", vocab_size=0)


def test_word_lowercase_by_default_and_case_on_request() -> None:
    assert WordTokenizer.fit("Cat cat CAT").vocabulary == (UNK, "cat")
    assert WordTokenizer.fit("Cat cat CAT", lowercase=False).vocabulary == (UNK, "CAT", "Cat", "cat")


@pytest.mark.parametrize(
    ("text", "words", "with_marks"),
    [
        ("Stop! (now).", ["stop", "now"], ["stop", "!", "(", "now", ")", "."]),
        ("don't rock ’n’ it’s", ["don't", "rock", "n", "it’s"], ["don't", "rock", "’", "n", "’", "it’s"]),
        ("'quoted' dogs'", ["quoted", "dogs"], ["'", "quoted", "'", "dogs", "'"]),
        ("a''b", ["a", "b"], ["a", "'", "'", "b"]),
        ("x_1 3.5 a-b", ["x_1", "3", "5", "a", "b"], ["x_1", "3", ".", "5", "a", "-", "b"]),
        ("naïve Straße 東京", ["naïve", "straße", "東京"], ["naïve", "straße", "東京"]),
        ("hi 😀…", ["hi"], ["hi", "😀", "…"]),
        ("a\u00a0b\tc\r\nd", ["a", "b", "c", "d"], ["a", "b", "c", "d"]),
    ],
)
def test_words_of_a_text(text: str, words: list[str], with_marks: list[str]) -> None:
    for punctuation, expected in ((False, words), (True, with_marks)):
        tokenizer = WordTokenizer.fit(text, punctuation=punctuation)
        assert [tokenizer.vocabulary[i] for i in tokenizer.encode(text)] == expected


@pytest.mark.parametrize(
    ("tokens", "expected"),
    [
        (["a", ",", "b", "."], "a, b."),
        (["(", "a", ")", "[", "b", "]", "{", "c", "}"], "(a) [b] {c}"),
        (["why", "?", "!", ":", ";", "so"], "why?!:; so"),
        (["(", "(", "a", ")", ")"], "((a))"),
        ([".", "a"], ". a"),
        (["a", "-", "b", "’", "c"], "a - b ’ c"),
        ([BOS, "a", EOS, BOS, "b", EOS], "a b"),
        (["(", BOS, "a", EOS, ")"], "(a)"),
    ],
)
def test_word_decode_spacing(tokens: list[str], expected: str) -> None:
    vocabulary = [UNK, *dict.fromkeys(tokens)]
    assert WordTokenizer(vocabulary, punctuation=True).decode(vocabulary.index(t) for t in tokens) == expected


def test_word_unknown_policies() -> None:
    np.testing.assert_array_equal(WordTokenizer(["a", UNK]).encode("a b a"), ids(0, 1, 0), strict=True)
    skip = WordTokenizer(["a", "c"], unknown="skip")
    np.testing.assert_array_equal(skip.encode("a b c"), ids(0, 1), strict=True)
    with pytest.raises(UnknownTokenError, match=r"no word 'bee' \(word 3 of the text\)"):
        WordTokenizer(["a"], unknown="error").encode("a a bee a")


def test_word_unknown_error_counts_words_over_all_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pieces_module, "PIECE_CHARS", 2)
    with pytest.raises(UnknownTokenError, match=r"no word 'bee' \(word 5 of the text\)"):
        WordTokenizer(["a"], unknown="error").encode("a a a a bee a")


@PROPERTY
@given(WORDY, st.booleans(), st.booleans())
def test_word_decode_then_encode_keeps_the_ids(text: str, lowercase: bool, punctuation: bool) -> None:
    tokenizer = WordTokenizer.fit(text, lowercase=lowercase, punctuation=punctuation)
    encoded = tokenizer.encode(text)
    np.testing.assert_array_equal(tokenizer.encode(tokenizer.decode(encoded)), encoded, strict=True)
    assert through_json(tokenizer) == tokenizer
    np.testing.assert_array_equal(through_json(tokenizer).encode(text), encoded, strict=True)


@PROPERTY
@given(st.lists(st.sampled_from("abcdef"), min_size=1, max_size=40), st.integers(2, 8))
def test_word_vocabulary_is_the_most_frequent(words: list[str], size: int) -> None:
    tokenizer = WordTokenizer.fit(" ".join(words), vocab_size=size)
    counts = Counter(words)
    assert list(tokenizer.vocabulary[1:]) == sorted(counts, key=lambda w: (-counts[w], w))[: size - 1]
