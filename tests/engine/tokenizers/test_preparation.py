"""Normalisation and lower case: the same for texts that Unicode considers equal, and for a text in pieces."""

from __future__ import annotations

import re
import unicodedata

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unrolled.engine.errors import ConfigError
from unrolled.engine.tokenizers import pieces as pieces_module
from unrolled.engine.tokenizers.byte_pairs import BYTE_SIGNS, BpeTokenizer
from unrolled.engine.tokenizers.characters import CharTokenizer
from unrolled.engine.tokenizers.contract import Tokenizer
from unrolled.engine.tokenizers.pieces import split_pieces, whole_words
from unrolled.engine.tokenizers.preparation import (
    NORMALIZATIONS,
    STABLE_BOUNDARY,
    TextPreparation,
    word_continuations,
)
from unrolled.engine.tokenizers.vocabulary import UNK
from unrolled.engine.tokenizers.whitespace import WhitespaceTokenizer
from unrolled.engine.tokenizers.words import WordTokenizer

PROPERTY = settings(derandomize=True, max_examples=60, deadline=None)
# Letters with and without marks, marks of several classes, Hangul letters and syllables, compatibility characters, white space.
LETTERS = "aAeiIİΣσςé\u00c5\u212b\u1100\u1161\u11a8가각ﬁ①\u00a8\uff76\uff9e😀"
MARKED = st.text(st.sampled_from(LETTERS + "\u0301\u0308\u0323\u0307\u0345\u200d_' \t\n\u00a0\u3000.,"), max_size=40)
ALL = [(form, lowercase) for form in NORMALIZATIONS for lowercase in (False, True)]


def tokenizers(text: str, form: str, lowercase: bool) -> list[Tokenizer]:
    """Return a tokeniser of each level, fitted to a text."""
    return [
        CharTokenizer.fit("a" + text, unknown="skip", lowercase=lowercase, normalize=form),
        WordTokenizer.fit(text, lowercase=lowercase, punctuation=True, normalize=form),
        WhitespaceTokenizer.fit(text, lowercase=lowercase, normalize=form),
        BpeTokenizer(BYTE_SIGNS, [], lowercase, normalize=form),
    ]


@pytest.mark.parametrize(("form", "lowercase"), ALL)
def test_a_text_in_pieces_has_the_ids_of_the_whole(form: str, lowercase: bool) -> None:
    @PROPERTY
    @given(MARKED, st.integers(1, 7))
    def check(text: str, size: int) -> None:
        whole = tokenizers(text, form, lowercase)
        expected = [tokenizer.encode(text) for tokenizer in whole]
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(pieces_module, "PIECE_CHARS", size)
            assert [t.to_dict() for t in tokenizers(text, form, lowercase)] == [t.to_dict() for t in whole]
            for tokenizer, ids in zip(whole, expected, strict=True):
                np.testing.assert_array_equal(tokenizer.encode(text), ids, strict=True)
                chunks = [
                    text[first : first + size] for first in range(0, len(text), size)
                ]  # cut anywhere, as files are read
                read = [*tokenizer.encode_pieces(whole_words(chunks, tokenizer.boundary))]
                np.testing.assert_array_equal(np.concatenate([*read, []]), ids)

    check()


@PROPERTY
@given(MARKED)
def test_equal_texts_have_equal_ids(text: str) -> None:
    """NFD of a text is another text of the same characters, which all forms but "none" read alike."""
    other = unicodedata.normalize("NFD", text)
    for form, lowercase in ALL[2:]:
        for tokenizer in tokenizers(text, form, lowercase):
            np.testing.assert_array_equal(tokenizer.encode(other), tokenizer.encode(text), strict=True)


@PROPERTY
@given(MARKED, st.sampled_from(ALL))
def test_prepared_text_is_in_the_form_and_stays_as_it_is(text: str, how: tuple[str, bool]) -> None:
    form, lowercase = how
    prepare = TextPreparation(form, lowercase)
    prepared = prepare(text)
    assert form == "none" or unicodedata.is_normalized(form, prepared)  # type: ignore[arg-type]
    assert prepare(prepared) == prepared


def test_an_unknown_form_is_a_named_error() -> None:
    for kind in (CharTokenizer, WordTokenizer, WhitespaceTokenizer):
        with pytest.raises(ConfigError, match="normalize: got 'nfc', choose one of none, NFC, NFD, NFKC, NFKD"):
            kind([UNK, "a"], normalize="nfc")


def test_a_text_is_stable_before_every_character_of_the_boundary() -> None:
    """Such a character is no mark in any form or case, and the second of no two that are composed."""
    seconds = {*map(chr, range(0x1161, 0x1176)), *map(chr, range(0x11A8, 0x11C3))}
    for code in range(0x110000):
        mapping = unicodedata.decomposition(chr(code)).split()
        if len(mapping) == 2 and not mapping[0].startswith("<"):
            seconds.add(chr(int(mapping[1], 16)))
    found = [chr(code) for code in range(0x110000) if STABLE_BOUNDARY.fullmatch(chr(code))]
    assert len(found) > 30_000
    for form, lowercase in ALL[2:]:
        prepare = TextPreparation(form, lowercase)
        firsts = {unicodedata.normalize("NFKD" if "K" in form else "NFD", prepare(one))[0] for one in found}
        assert not [first for first in firsts if unicodedata.combining(first) or first in seconds]


def test_white_space_stays_where_it_is() -> None:
    """Levels of words and byte pairs are split before white space: none of it moves, or combines with the text before."""
    spaces = [chr(code) for code in range(0x110000) if chr(code).isspace()]
    assert len(spaces) == 29
    others = "\0".join(chr(code) for code in range(1, 0x110000) if not chr(code).isspace())
    for form, lowercase in ALL[2:]:
        prepare = TextPreparation(form, lowercase)
        assert all(prepare("a" + space + "b").split() == ["a", "b"] for space in spaces)
        prepared = prepare(others).split("\0")
        assert len(prepared) == 0x110000 - 1 - len(spaces)
        assert not [one for one in prepared if one[-1].isspace()]


def test_text_is_not_cut_between_a_letter_and_its_marks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pieces_module, "PIECE_CHARS", 2)
    text = "ae\u0301\u0308b\u1112\u1161\u11abc"
    pieces = list(split_pieces(text, CharTokenizer.boundary_of("NFC")))
    assert pieces == ["ae\u0301\u0308", "b\u1112\u1161\u11ab", "c"]
    assert list(split_pieces(text, CharTokenizer.boundary_of("none")))[:2] == ["ae", "\u0301\u0308"]


def test_word_continuations_are_marks_and_joiners() -> None:
    pattern = re.compile(word_continuations())
    for code in range(0x110000):
        expected = unicodedata.category(chr(code))[0] == "M" or code in (0x200C, 0x200D)
        assert (pattern.fullmatch(chr(code)) is not None) == expected
