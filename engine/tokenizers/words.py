"""The word tokeniser: one token per word, and optionally per punctuation mark."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import partial
from itertools import repeat
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from unrolled.engine.errors import ConfigError, SettingName, UnknownTokenError
from unrolled.engine.tokenizers.pieces import TextOrPieces, pieces_of
from unrolled.engine.tokenizers.streamers import StatefulTextStreamer, TextStreamer
from unrolled.engine.tokenizers.vocabulary import UNK, Vocabulary, lower, smallest_unsigned, specials_for


class _WordStreamer(StatefulTextStreamer):
    """A decoder that joins words by spaces, except before closing and after opening marks."""

    _NO_SPACE_BEFORE = frozenset(",.;:!?)]}")
    _NO_SPACE_AFTER = frozenset("([{")
    _glue = True  # the next word follows without a space

    def feed(self, token: int) -> str:
        word = super().feed(token)
        if not word:
            return ""
        space = "" if self._glue or word in self._NO_SPACE_BEFORE else " "
        self._glue = word in self._NO_SPACE_AFTER
        return space + word


class WordTokenizer(Vocabulary):
    """A tokeniser with one token per word; by default it lower-cases the text and drops punctuation.

    A word is a run of letters, digits and underscores, possibly with apostrophes inside ("don't"). If punctuation is kept,
    each mark is a word. White space is not kept: ``decode`` joins words with single spaces, except before , . ; : ! ? ) ] }
    and after ( [ {.

    Args:
        vocabulary: the special tokens, then the words, most frequent first.
        unknown: policy for a word outside the vocabulary: "error", "replace" (by <unk>) or "skip".
        lowercase: lower-case the text first.
        punctuation: keep punctuation marks as words.
    """

    level: ClassVar[str] = "word"
    settings: ClassVar[tuple[str, ...]] = ("lowercase", "punctuation", "vocab_size", "unknown")
    _WORDS = re.compile(r"\w+(?:['’]\w+)*")
    _WORDS_AND_MARKS = re.compile(r"\w+(?:['’]\w+)*|[^\w\s]")
    boundary: ClassVar[re.Pattern[str] | None] = re.compile(r"\s")

    def __init__(
        self,
        vocabulary: Sequence[str],
        unknown: str = "replace",
        lowercase: bool = True,
        punctuation: bool = False,
    ) -> None:
        super().__init__(vocabulary, unknown)
        self.lowercase = lowercase
        self.punctuation = punctuation

    @classmethod
    def fit(
        cls,
        text: TextOrPieces,
        *,
        specials: Sequence[str] = (),
        unknown: str = "replace",
        lowercase: bool = True,
        punctuation: bool = False,
        vocab_size: int | None = None,
    ) -> WordTokenizer:
        """Return a tokeniser of the most frequent words of ``text`` (ties alphabetically), at most ``vocab_size`` tokens."""
        probe = cls([UNK], "replace", lowercase, punctuation)
        counts: Counter[str] = Counter()
        for words in probe._word_pieces(text):
            counts.update(words)
        wanted = specials_for(unknown, specials)
        room = None if vocab_size is None else vocab_size - len(wanted)
        if room is not None and room < 1:
            raise ConfigError(
                SettingName("vocab_size"),
                f": {vocab_size} leaves no room for words behind {', '.join(wanted) or 'nothing'}",
            )
        ranked = sorted(counts, key=lambda word: (-counts[word], word))[:room]
        return cls([*wanted, *ranked], unknown, lowercase, punctuation)

    def _settings(self) -> dict[str, Any]:
        return {**super()._settings(), "lowercase": self.lowercase, "punctuation": self.punctuation}

    def _word_pieces(self, text: TextOrPieces) -> Iterator[list[str]]:
        pattern = self._WORDS_AND_MARKS if self.punctuation else self._WORDS
        for piece in pieces_of(text, self.boundary):
            yield pattern.findall(lower(piece) if self.lowercase else piece)

    def encode_pieces(self, text: TextOrPieces) -> Iterator[NDArray]:
        """Yield the ids of ``text`` piece by piece, in the smallest unsigned dtype."""
        dtype = smallest_unsigned(len(self.vocabulary))
        missing = len(self.vocabulary)
        done = 0
        for words in self._word_pieces(text):
            found = map(self._ids.get, words, repeat(missing))
            ids = np.fromiter(found, np.min_scalar_type(missing), len(words))
            unknown = ids == missing
            if unknown.any():
                ids = self._apply_policy(ids, unknown, partial(self._unknown_word, words, done))
            done += len(words)
            yield ids.astype(dtype, copy=False)

    def _unknown_word(self, words: Sequence[str], done: int, first: int) -> UnknownTokenError:
        return self._unknown_error("word", words[first], f"word {done + first + 1} of the text")

    def streamer(self) -> TextStreamer:
        """Return a new incremental decoder, which yields each word with the space before it, if any."""
        return _WordStreamer(self._texts)
