"""Long texts in pieces: the same ids as for the whole text, in the smallest dtype."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizer_cases import ANY_TEXT, WORDY, ids

from unrolled.engine.tokenizers import pieces as pieces_module
from unrolled.engine.tokenizers.characters import CharTokenizer
from unrolled.engine.tokenizers.pieces import split_pieces
from unrolled.engine.tokenizers.vocabulary import UNK, smallest_unsigned
from unrolled.engine.tokenizers.words import WordTokenizer

PROPERTY = settings(derandomize=True, max_examples=80, deadline=None)


@pytest.mark.parametrize(
    ("size", "dtype"),
    [(0, "uint8"), (1, "uint8"), (256, "uint8"), (257, "uint16"), (65536, "uint16"), (65537, "uint32")],
)
def test_smallest_unsigned(size: int, dtype: str) -> None:
    assert smallest_unsigned(size) == np.dtype(dtype)


@pytest.mark.parametrize(("size", "dtype"), [(255, "uint8"), (256, "uint8"), (257, "uint16")])
def test_encode_pieces_uses_the_smallest_unsigned_dtype(size: int, dtype: str) -> None:
    characters = CharTokenizer([chr(0x4E00 + i) for i in range(size)])
    words = WordTokenizer([f"w{i}" for i in range(size)], unknown="error")
    for tokenizer in (characters, words):
        text = " ".join(tokenizer.vocabulary) if tokenizer is words else "".join(tokenizer.vocabulary)
        (piece,) = tokenizer.encode_pieces(text)
        np.testing.assert_array_equal(piece, np.arange(size).astype(dtype), strict=True)


@pytest.mark.parametrize("size", [254, 255, 256, 257])
def test_policies_hold_where_the_dtype_changes(size: int) -> None:
    """The marker of a missing token is one more than the largest id, and must not wrap round to id 0."""
    characters = [UNK, *(chr(0x4E00 + i) for i in range(size - 1))]
    np.testing.assert_array_equal(
        CharTokenizer(characters, unknown="replace").encode(characters[1] + "a" + characters[-1]),
        ids(1, 0, size - 1),
        strict=True,
    )
    np.testing.assert_array_equal(
        CharTokenizer(characters, unknown="skip").encode(characters[1] + "a" + characters[-1]),
        ids(1, size - 1),
        strict=True,
    )
    words = [UNK, *(f"w{i}" for i in range(size - 1))]
    np.testing.assert_array_equal(WordTokenizer(words).encode(f"w0 zz w{size - 2}"), ids(1, 0, size - 1), strict=True)


@pytest.mark.parametrize("tokenizer", [CharTokenizer("abcdefgh "), WordTokenizer([UNK, "ab", "cd"])])
def test_encode_pieces_really_cuts(tokenizer: CharTokenizer | WordTokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pieces_module, "PIECE_CHARS", 3)
    assert len(list(tokenizer.encode_pieces("ab cd ab cd ab"))) > 2


def test_split_pieces_without_a_boundary_is_by_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pieces_module, "PIECE_CHARS", 3)
    assert list(split_pieces("abcdefgh")) == ["abc", "def", "gh"]
    assert list(split_pieces("abc")) == ["abc"]
    assert list(split_pieces("")) == []


def test_split_pieces_cuts_no_word_in_two(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pieces_module, "PIECE_CHARS", 3)
    boundary = WordTokenizer.word_boundary
    assert list(split_pieces("a word of letters", boundary)) == ["a word", " of", " letters"]
    assert list(split_pieces("unbroken", boundary)) == ["unbroken"]


@PROPERTY
@given(ANY_TEXT, st.integers(1, 7))
def test_char_pieces_equal_the_whole(text: str, size: int) -> None:
    tokenizer = CharTokenizer.fit("ab" + text, unknown="skip")
    whole = tokenizer.encode(text)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pieces_module, "PIECE_CHARS", size)
        np.testing.assert_array_equal(tokenizer.encode(text), whole, strict=True)
        assert CharTokenizer.fit("ab" + text, unknown="skip") == tokenizer


@PROPERTY
@given(WORDY, st.integers(1, 7), st.booleans(), st.booleans())
def test_word_pieces_equal_the_whole(text: str, size: int, lowercase: bool, punctuation: bool) -> None:
    tokenizer = WordTokenizer.fit(text, lowercase=lowercase, punctuation=punctuation, vocab_size=4)
    whole = tokenizer.encode(text)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pieces_module, "PIECE_CHARS", size)
        np.testing.assert_array_equal(tokenizer.encode(text), whole, strict=True)
        refitted = WordTokenizer.fit(text, lowercase=lowercase, punctuation=punctuation, vocab_size=4)
        assert refitted == tokenizer


def test_lowercase_does_not_depend_on_where_a_piece_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    """str.lower maps Σ to σ or ς depending on its neighbours, which a split would change."""
    text = "ΟΔΟΣ ΣΑΣΑΣ"
    tokenizer = CharTokenizer.fit(text, lowercase=True)
    whole = tokenizer.encode(text)
    for size in range(1, len(text)):
        monkeypatch.setattr(pieces_module, "PIECE_CHARS", size)
        np.testing.assert_array_equal(tokenizer.encode(text), whole, strict=True)


def test_lowercase_text_that_was_fitted_can_be_encoded_in_parts() -> None:
    """A corpus is split anywhere; no part may contain a character that the whole lacks."""
    tokenizer = CharTokenizer.fit("ΣΑΣΑ", lowercase=True)
    assert len(tokenizer.encode("ΣΑΣ")) == 3
