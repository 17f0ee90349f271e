"""Incremental decoding: the pieces of text join to the decoded text."""

from __future__ import annotations

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizer_cases import WORDY

from unrolled.engine.tokenizers.characters import CharTokenizer
from unrolled.engine.tokenizers.vocabulary import BOS, EOS, UNK
from unrolled.engine.tokenizers.words import WordTokenizer

PROPERTY = settings(derandomize=True, max_examples=80, deadline=None)


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
