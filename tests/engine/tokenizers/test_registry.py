"""Descriptions of tokenisers: JSON round trips, and a named error for invalid ones."""

from __future__ import annotations

from typing import Any

import pytest
from tokenizer_cases import CHAR, WORD, through_json

from unrolled.engine.errors import ConfigError, ModelFileError, UnknownTokenError
from unrolled.engine.tokenizers.characters import CharTokenizer
from unrolled.engine.tokenizers.registry import tokenizer_from_dict
from unrolled.engine.tokenizers.vocabulary import BOS, EOS, UNK
from unrolled.engine.tokenizers.words import WordTokenizer


def test_to_dict_contains_everything() -> None:
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
