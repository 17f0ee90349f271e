"""The character tokeniser: ids, vocabularies, policies, and round trips of any text."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from tokenizer_cases import ANY_TEXT, CHAR, ids, through_json

from unrolled.engine.errors import UnknownTokenError
from unrolled.engine.tokenizers.characters import CharTokenizer
from unrolled.engine.tokenizers.vocabulary import BOS, EOS, UNK
from unrolled.engine.tokenizers.words import WordTokenizer

PROPERTY = settings(derandomize=True, max_examples=80, deadline=None)


def test_char_encode_gives_int64_ids_in_vocabulary_order() -> None:
    np.testing.assert_array_equal(CharTokenizer("cab").encode("abcab"), ids(1, 2, 0, 1, 2), strict=True)


def test_char_encode_of_empty_text_is_empty_int64() -> None:
    np.testing.assert_array_equal(CHAR.encode(""), ids(), strict=True)


def test_char_decode_inverts_encode() -> None:
    assert CHAR.decode([2, 0, 0, 1]) == "caab"
    assert CHAR.decode(np.array([2, 0], np.uint8)) == "ca"
    assert CHAR.decode([]) == ""


def test_char_fit_orders_by_code_point_after_specials() -> None:
    tokenizer = CharTokenizer.fit("bé😀aB\n", specials=(BOS, EOS))
    assert tokenizer.vocabulary == (BOS, EOS, "\n", "B", "a", "b", "é", "😀")
    assert (tokenizer.bos_id, tokenizer.eos_id, tokenizer.unk_id) == (0, 1, None)


def test_char_fit_with_replace_puts_unk_first() -> None:
    tokenizer = CharTokenizer.fit("ba", specials=(BOS, EOS), unknown="replace")
    assert tokenizer.vocabulary == (UNK, BOS, EOS, "a", "b")
    assert tokenizer.unk_id == 0


def test_fit_takes_unk_once_where_the_caller_names_it() -> None:
    assert CharTokenizer.fit("a", specials=(BOS, UNK), unknown="replace").vocabulary == (BOS, UNK, "a")
    assert WordTokenizer.fit("a", specials=(BOS, UNK)).vocabulary == (BOS, UNK, "a")


def test_char_code_points_beyond_the_bmp_are_one_id_each() -> None:
    tokenizer = CharTokenizer.fit("a😀\U0010ffff")
    encoded = tokenizer.encode("😀a\U0010ffff")
    np.testing.assert_array_equal(encoded, ids(1, 0, 2), strict=True)
    assert tokenizer.decode(encoded) == "😀a\U0010ffff"


def test_char_lone_surrogates_stay_two_code_points() -> None:
    text = "\ud83d\ude00\ud800"
    tokenizer = CharTokenizer.fit(text)
    assert tokenizer.vocabulary == ("\ud800", "\ud83d", "\ude00")
    np.testing.assert_array_equal(tokenizer.encode(text), ids(1, 2, 0), strict=True)
    assert tokenizer.decode([1, 2, 0]) == text
    assert through_json(tokenizer) == tokenizer


def test_char_nul_is_a_character_like_any_other() -> None:
    np.testing.assert_array_equal(CharTokenizer.fit("\0a").encode("a\0"), ids(1, 0), strict=True)
    with pytest.raises(UnknownTokenError, match=r"U\+0000"):
        CharTokenizer([BOS, EOS]).encode("\0")


def test_char_keeps_case_unless_lowercase() -> None:
    assert CharTokenizer.fit("aA").vocabulary == ("A", "a")
    tokenizer = CharTokenizer.fit("aAB", lowercase=True)
    assert tokenizer.vocabulary == ("a", "b")
    np.testing.assert_array_equal(tokenizer.encode("BaA"), ids(1, 0, 0), strict=True)


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("abz", ["'z'", "U+007A", "LATIN SMALL LETTER Z"]),
        ("é", ["'é'", "U+00E9"]),
        ("a😀", ["'😀'", "U+1F600", "GRINNING FACE"]),
        ("\ud800", [r"'\ud800'", "U+D800"]),
        ("\x07", [r"'\x07'", "U+0007", "unnamed"]),
        ("`", ["'`'", "U+0060"]),
        ("d", ["'d'", "U+0064"]),
    ],
)
def test_char_unknown_error_names_the_first_one(text: str, names: list[str]) -> None:
    with pytest.raises(UnknownTokenError) as caught:
        CHAR.encode(text)
    message = str(caught.value)
    assert [name for name in [*names, "Known: a b c"] if name not in message] == []


def test_char_unknown_error_lists_at_most_sixty_known() -> None:
    vocabulary = [chr(0x4E00 + i) for i in range(61)]
    with pytest.raises(UnknownTokenError) as caught:
        CharTokenizer(vocabulary).encode("a")
    assert str(caught.value).endswith(" ".join(vocabulary[:60]) + " …")


def test_char_unknown_replace_and_skip() -> None:
    replace = CharTokenizer(["a", UNK, "c"], unknown="replace")
    np.testing.assert_array_equal(replace.encode("abc😀"), ids(0, 1, 2, 1), strict=True)
    assert replace.decode([0, 1, 2]) == "a<unk>c"
    skip = CharTokenizer("ac", unknown="skip")
    np.testing.assert_array_equal(skip.encode("abc😀a"), ids(0, 1, 0), strict=True)
    np.testing.assert_array_equal(skip.encode("xyz"), ids(), strict=True)


def test_char_special_tokens_are_not_found_in_text() -> None:
    tokenizer = CharTokenizer.fit("<bos>", specials=(BOS, EOS))
    assert tokenizer.decode(tokenizer.encode("<bos>")) == "<bos>"
    assert BOS not in {tokenizer.vocabulary[i] for i in tokenizer.encode("<bos>")}


@PROPERTY
@given(ANY_TEXT.filter(len))
def test_char_round_trip_of_any_text(text: str) -> None:
    tokenizer = CharTokenizer.fit(text)
    assert tokenizer.vocabulary == tuple(sorted(set(text)))
    encoded = tokenizer.encode(text)
    assert [tokenizer.vocabulary[i] for i in encoded] == list(text)
    assert tokenizer.decode(encoded) == text
    assert through_json(tokenizer) == tokenizer
    np.testing.assert_array_equal(through_json(tokenizer).encode(text), encoded, strict=True)


@PROPERTY
@given(ANY_TEXT.filter(len), ANY_TEXT)
def test_char_policies_agree_with_a_loop(known: str, text: str) -> None:
    skip = CharTokenizer.fit(known, unknown="skip")
    assert skip.decode(skip.encode(text)) == "".join(c for c in text if c in known)
    replace = CharTokenizer.fit(known, unknown="replace")
    assert replace.decode(replace.encode(text)) == "".join(c if c in known else UNK for c in text)
