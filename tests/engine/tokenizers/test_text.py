"""Tokenisers: ids, vocabularies, policies, JSON round trips, and that pieces give what the whole text gives."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unrolled.engine.errors import ConfigError, ModelFileError, UnknownTokenError
from unrolled.engine.tokenizers import pieces as pieces_module
from unrolled.engine.tokenizers.characters import CharTokenizer
from unrolled.engine.tokenizers.pieces import split_pieces
from unrolled.engine.tokenizers.registry import tokenizer_from_dict
from unrolled.engine.tokenizers.vocabulary import BOS, EOS, UNK, smallest_unsigned
from unrolled.engine.tokenizers.words import WordTokenizer

PROPERTY = settings(derandomize=True, max_examples=80, deadline=None)
ANY_TEXT = st.text(st.characters(), max_size=60)  # surrogates included
WORDY = st.text(st.sampled_from("abcAB12_é ’'.,;:!?()[]{}-\t\n\u00a0😀"), max_size=60)

CHAR = CharTokenizer("abc")
WORD = WordTokenizer([UNK, "the", "cat"])


def ids(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


def through_json(tokenizer: CharTokenizer | WordTokenizer) -> Any:
    return tokenizer_from_dict(json.loads(json.dumps(tokenizer.to_dict())))


# characters


def test_char_encode_gives_int64_ids_in_vocabulary_order() -> None:
    np.testing.assert_array_equal(CharTokenizer("cab").encode("abcab"), ids(1, 2, 0, 1, 2), strict=True)


def test_char_encode_of_empty_text_is_empty_int64() -> None:
    np.testing.assert_array_equal(CHAR.encode(""), ids(), strict=True)


def test_char_decode_inverts_encode() -> None:
    assert CHAR.decode([2, 0, 0, 1]) == "caab"
    assert CHAR.decode(np.array([2, 0], np.uint8)) == "ca"
    assert CHAR.decode([]) == ""


def test_char_fit_orders_by_code_point_behind_specials() -> None:
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


# words


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


# ids one by one


def pieces_of(tokenizer: CharTokenizer | WordTokenizer, numbers: list[int]) -> list[str]:
    streamer = tokenizer.streamer()
    return [*map(streamer.feed, numbers), streamer.flush()]


def test_streamer_gives_what_each_id_adds() -> None:
    tokenizer = CharTokenizer([BOS, "a", "😀", EOS, "é"])
    assert pieces_of(tokenizer, [0, 2, 1, 4, 3]) == ["", "😀", "a", "é", "", ""]
    words = WordTokenizer([UNK, BOS, "a", "(", ".", "b"], punctuation=True)
    assert pieces_of(words, [1, 2, 3, 5, 4, 0, 2]) == ["", "a", " (", "b", ".", " <unk>", " a", ""]


def test_streamers_of_one_tokenizer_do_not_share_where_they_are() -> None:
    tokenizer = WordTokenizer(["a", "b"], unknown="error")
    first, second = tokenizer.streamer(), tokenizer.streamer()
    assert [first.feed(0), second.feed(0), first.feed(1), second.feed(1)] == ["a", "a", " b", " b"]


@PROPERTY
@given(WORDY, st.randoms(use_true_random=False), st.booleans())
def test_streamed_pieces_join_to_the_decoded_text(text: str, random: Any, punctuation: bool) -> None:
    specials = (UNK, BOS, EOS)
    for tokenizer in (
        CharTokenizer.fit(text, specials=specials, unknown="replace"),
        WordTokenizer.fit(text, specials=specials, punctuation=punctuation),
    ):
        numbers = random.choices(range(len(tokenizer.vocabulary)), k=20)
        assert "".join(pieces_of(tokenizer, numbers)) == tokenizer.decode(numbers)


# ids and pieces


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
    boundary = WordTokenizer.boundary
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
    """str.lower turns Σ into σ or ς by what stands next to it, which a cut would change."""
    text = "ΟΔΟΣ ΣΑΣΑΣ"
    tokenizer = CharTokenizer.fit(text, lowercase=True)
    whole = tokenizer.encode(text)
    for size in range(1, len(text)):
        monkeypatch.setattr(pieces_module, "PIECE_CHARS", size)
        np.testing.assert_array_equal(tokenizer.encode(text), whole, strict=True)


def test_lowercase_text_that_was_fitted_can_be_encoded_in_parts() -> None:
    """A split cuts a corpus anywhere; no part may hold a character that the whole has not."""
    tokenizer = CharTokenizer.fit("ΣΑΣΑ", lowercase=True)
    assert len(tokenizer.encode("ΣΑΣ")) == 3


# dictionaries and errors


def test_to_dict_says_everything() -> None:
    assert CharTokenizer("ab", "skip", True).to_dict() == {
        "level": "char",
        "vocabulary": ["a", "b"],
        "unknown": "skip",
        "lowercase": True,
    }
    assert WordTokenizer(["a"], "error", False, True).to_dict() == {
        "level": "word",
        "vocabulary": ["a"],
        "unknown": "error",
        "lowercase": False,
        "punctuation": True,
    }


@pytest.mark.parametrize(
    "tokenizer",
    [
        CharTokenizer("ab", "skip", True),
        CharTokenizer([UNK, BOS, EOS, "é", "😀", "\ud800", '"', "\\", "\n"], "replace"),
        WordTokenizer(["don't", "naïve"], "error", False, True),
        WordTokenizer([UNK, BOS, EOS, "a"]),
    ],
)
def test_json_round_trip(tokenizer: CharTokenizer | WordTokenizer) -> None:
    again = through_json(tokenizer)
    assert type(again) is type(tokenizer)
    assert again == tokenizer
    assert hash(again) == hash(tokenizer)
    assert again.to_dict() == tokenizer.to_dict()


@pytest.mark.parametrize(
    "other",
    [
        CharTokenizer("ba"),
        CharTokenizer("abc"),
        CharTokenizer("ab", "skip"),
        CharTokenizer("ab", lowercase=True),
        WordTokenizer("ab", "error", False),
        "ab",
    ],
)
def test_tokenizers_that_differ_are_not_equal(other: object) -> None:
    assert CharTokenizer("ab") != other


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"level": "char"},
        {"vocabulary": ["a"]},
        {"level": "byte", "vocabulary": ["a"]},
        {"level": None, "vocabulary": ["a"]},
        {"level": ["char"], "vocabulary": ["a"]},
        {"level": "char", "vocabulary": None},
        {"level": "char", "vocabulary": 3},
        {"level": "char", "vocabulary": []},
        {"level": "char", "vocabulary": "abc"},
        {"level": "char", "vocabulary": ["a", 1]},
        {"level": "char", "vocabulary": [["a"]]},
        {"level": "char", "vocabulary": ["a", "a"]},
        {"level": "char", "vocabulary": ["ab"]},
        {"level": "char", "vocabulary": ["a"], "unknown": "guess"},
        {"level": "char", "vocabulary": ["a"], "unknown": "replace"},
        {"level": "char", "vocabulary": ["a"], "punctuation": True},
        {"level": "char", "vocabulary": ["a"], "lowercase": "no"},
        {"level": "word", "vocabulary": ["a"], "unknown": "error", "extra": 1},
        {"level": "word", "vocabulary": ["a"]},
        None,
        3,
        [],
        ["level"],
        "char",
    ],
    ids=repr,
)
def test_malformed_descriptions_are_model_file_errors(values: Any) -> None:
    with pytest.raises(ModelFileError, match="tokenizer: not a valid description"):
        tokenizer_from_dict(values)


@pytest.mark.parametrize("kind", [CharTokenizer, WordTokenizer])
def test_vocabularies_that_are_refused(kind: type[CharTokenizer] | type[WordTokenizer]) -> None:
    refused: list[tuple[Any, str]] = [
        ([], "needs at least one token"),
        (["a", ""], "not empty"),
        ([1], "not empty"),
        (["a", "b", "a"], "'a' stands there more than once"),
    ]
    for vocabulary, message in refused:
        with pytest.raises(ConfigError, match=message):
            kind(vocabulary, unknown="error")
    with pytest.raises(ConfigError, match="'guess', choose one of error, replace, skip"):
        kind(["a"], unknown="guess")
    with pytest.raises(ConfigError, match="'replace' needs <unk>"):
        kind(["a"], unknown="replace")


def test_char_vocabulary_takes_single_characters_only() -> None:
    with pytest.raises(ConfigError, match="'ab' is not a single character"):
        CharTokenizer(["a", "ab"])


def test_fit_of_no_text_is_refused_where_nothing_remains() -> None:
    with pytest.raises(ConfigError, match="needs at least one token"):
        CharTokenizer.fit("")
    with pytest.raises(ConfigError, match="needs at least one token"):
        WordTokenizer.fit("...", unknown="error")
    assert WordTokenizer.fit("...").vocabulary == (UNK,)


@pytest.mark.parametrize("tokenizer", [CHAR, WORD])
@pytest.mark.parametrize("index", [3, -1, 10**9])
def test_decode_out_of_range(tokenizer: CharTokenizer | WordTokenizer, index: int) -> None:
    with pytest.raises(UnknownTokenError, match=rf"id {index} is outside the vocabulary's 0 … 2"):
        tokenizer.decode([0, index])


def test_len_is_the_size_of_the_vocabulary() -> None:
    assert (len(CHAR), len(CharTokenizer([UNK, "a"], "replace"))) == (3, 2)
