"""Tokenisation by white space: the tokens that the literature counts, special tokens in the text, and lines given back."""

from __future__ import annotations

import itertools
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unrolled.engine.errors import ConfigError, ModelFileError, UnknownTokenError
from unrolled.engine.tokenizers.byte_pairs import SPACE
from unrolled.engine.tokenizers.registry import tokenizer_from_dict
from unrolled.engine.tokenizers.vocabulary import BOS, EOS, UNK
from unrolled.engine.tokenizers.whitespace import WhitespaceTokenizer

PROPERTY = settings(derandomize=True, max_examples=100, deadline=None)
LINES = st.text(st.sampled_from("ab<unk> \n\t\u00a0\u2028.\r"), max_size=60)
PREPARED = " no it was n't black monday \n but while the <unk> stock exchange did n't fall <unk> \n\n N % \n"


def test_a_text_has_the_tokens_that_the_literature_counts() -> None:
    """Words separated by white space and an <eos> for each line end, as prepared corpora are read everywhere."""
    tokenizer = WhitespaceTokenizer.fit(PREPARED)
    expected = PREPARED.replace("\n", f" {EOS} ").split()
    assert (
        len(tokenizer.encode(PREPARED)) == len(expected) == sum(len(line.split()) + 1 for line in PREPARED.splitlines())
    )
    assert [tokenizer.vocabulary[i] for i in tokenizer.encode(PREPARED)] == expected
    assert set(tokenizer.vocabulary) == set(expected)


def test_vocabulary_is_special_tokens_then_words_by_frequency() -> None:
    assert WhitespaceTokenizer.fit("b a b . <eos> <bos>\n").vocabulary == (UNK, EOS, "b", ".", "a")
    assert WhitespaceTokenizer.fit("b a b . c", vocab_size=4).vocabulary == (UNK, EOS, "b", ".")
    assert WhitespaceTokenizer.fit("b a", unknown="error").vocabulary == (EOS, "a", "b")
    assert WhitespaceTokenizer.fit("b <unk> a", unknown="skip").vocabulary == (UNK, EOS, "a", "b")
    assert WhitespaceTokenizer.fit("b\na", specials=(BOS, EOS)).vocabulary == (UNK, BOS, EOS, "a", "b")
    assert WhitespaceTokenizer.fit("b B B", lowercase=True).vocabulary == (UNK, EOS, "b")
    with pytest.raises(ConfigError, match="vocab_size: 2 leaves no room for words behind <unk>, <eos>"):
        WhitespaceTokenizer.fit("a", vocab_size=2)


def test_unknown_policies() -> None:
    vocabulary = [UNK, EOS, "a", "b"]
    assert WhitespaceTokenizer(vocabulary).encode("a zebra b").tolist() == [2, 0, 3]
    assert WhitespaceTokenizer(vocabulary, "skip").encode("a zebra\nb").tolist() == [2, 1, 3]
    with pytest.raises(UnknownTokenError, match=r"no word 'zebra' \(word 4 of the text\)"):
        WhitespaceTokenizer(vocabulary, "error").encode("a <unk>\nzebra")
    assert WhitespaceTokenizer(vocabulary, "error").encode("a <unk>").tolist() == [2, 0]


def test_what_ends_a_text_depends_on_bos() -> None:
    stream, records = WhitespaceTokenizer([UNK, EOS, "a"]), WhitespaceTokenizer([UNK, BOS, EOS, "a"])
    assert (stream.eos_id, stream.end_id, stream.start_prompt()) == (1, None, "\n")
    assert (records.eos_id, records.end_id, records.start_prompt()) == (2, 2, "")
    assert records.encode("a\na").tolist() == [3, 3]
    assert records.decode([1, 3, 3, 2]) == "a a"
    assert WhitespaceTokenizer([UNK, "a"]).encode("a\na").tolist() == [1, 1]


@pytest.mark.parametrize(
    ("prompt", "text", "separator"),
    [
        ("a", "b", " "),
        ("a ", "b", ""),
        ("a\u3000", "b", ""),
        ("a\n", "b", ""),
        ("a", "\nb", ""),
        ("", "b", ""),
        ("a", "", ""),
    ],
)
def test_prompt_and_text_are_joined_as_words_are(prompt: str, text: str, separator: str) -> None:
    assert WhitespaceTokenizer([UNK, EOS, "a"]).separator(prompt, text) == separator


def test_streamed_pieces() -> None:
    tokenizer = WhitespaceTokenizer([UNK, EOS, "a", "b"])
    streamer = tokenizer.streamer()
    assert [streamer.feed(i) for i in (1, 2, 3, 1, 1, 0, 2)] == ["\n", "a", " b", "\n", "\n", "<unk>", " a"]
    assert streamer.flush() == ""
    with pytest.raises(UnknownTokenError, match="id 4 is outside"):
        streamer.feed(4)


@PROPERTY
@given(LINES)
def test_decoded_text_has_the_ids_that_it_came_from(text: str) -> None:
    tokenizer = WhitespaceTokenizer.fit(text)
    ids = tokenizer.encode(text)
    decoded = tokenizer.decode(ids)
    np.testing.assert_array_equal(tokenizer.encode(decoded), ids, strict=True)
    assert decoded.count("\n") == text.count("\n")
    streamer = tokenizer.streamer()
    assert "".join([*map(streamer.feed, ids.tolist()), streamer.flush()]) == decoded


@PROPERTY
@given(LINES, LINES)
def test_a_line_end_separates_texts(first: str, second: str) -> None:
    tokenizer = WhitespaceTokenizer.fit(first + "\n" + second)
    joined = itertools.chain(tokenizer.encode(first + "\n"), tokenizer.encode(second))
    assert tokenizer.encode(first + "\n" + second).tolist() == [*joined]


@PROPERTY
@given(st.lists(st.sampled_from("abcdef"), min_size=1, max_size=40), st.integers(3, 8))
def test_vocabulary_is_the_most_frequent(words: list[str], size: int) -> None:
    counts = Counter(words)
    tokenizer = WhitespaceTokenizer.fit(" ".join(words), vocab_size=size)
    assert list(tokenizer.vocabulary[2:]) == sorted(counts, key=lambda word: (-counts[word], word))[: size - 2]


def test_white_space_is_the_list_of_the_format() -> None:
    listed = {chr(code) for first, last in _ranges(SPACE) for code in range(first, last + 1)}
    assert listed == {chr(code) for code in range(0x110000) if not chr(code).split()}


def _ranges(characters: str) -> list[tuple[int, int]]:
    """Return the ranges of a character class, ends included."""
    found: list[tuple[int, int]] = []
    for index, character in enumerate(characters):
        if character == "-":
            found[-1] = (found[-1][0], ord(characters[index + 1]))
        elif not index or characters[index - 1] != "-":
            found.append((ord(character), ord(character)))
    return found


def test_a_vocabulary_with_white_space_is_refused() -> None:
    for token in ("a b", " ", "a\n", "\u3000a"):
        with pytest.raises(ConfigError, match="holds white space, which separates words"):
            WhitespaceTokenizer([UNK, EOS, token])
    with pytest.raises(ModelFileError, match="not a valid description"):
        tokenizer_from_dict({"level": "whitespace", "vocabulary": ["a b"], "unknown": "error"})


def test_descriptions() -> None:
    tokenizer = WhitespaceTokenizer([UNK, EOS, "a"], "skip", True, "NFKC")
    values = tokenizer.to_dict()
    assert values == {
        "level": "whitespace",
        "vocabulary": [UNK, EOS, "a"],
        "unknown": "skip",
        "lowercase": True,
        "normalize": "NFKC",
    }
    assert tokenizer_from_dict(values) == tokenizer
    assert (tokenizer.format_version, WhitespaceTokenizer([UNK]).format_version) == (2, 2)
