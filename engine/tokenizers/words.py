"""Word tokenisers: the base class of those that look whole words up, and the one that splits by letters and punctuation."""

from __future__ import annotations

import re
from abc import abstractmethod
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from functools import cache, partial
from itertools import repeat
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from unrolled.engine.errors import ConfigError, SettingName, UnknownTokenError
from unrolled.engine.tokenizers.pieces import TextOrPieces, pieces_of
from unrolled.engine.tokenizers.preparation import NO_NORMALIZATION, word_continuations
from unrolled.engine.tokenizers.streamers import StatefulTextStreamer, TextStreamer
from unrolled.engine.tokenizers.vocabulary import UNK, Vocabulary, smallest_unsigned, specials_for


class WordVocabulary(Vocabulary):
    """A vocabulary of whole words; derived classes split a text into words and join words to a text."""

    default_normalization: ClassVar[str] = "NFC"
    word_boundary: ClassVar[re.Pattern[str] | None] = re.compile(r"\s")

    @abstractmethod
    def _words(self, text: str) -> list[str]:
        """Return the words of a prepared text."""

    def _word_pieces(self, text: TextOrPieces) -> Iterator[list[str]]:
        for piece in pieces_of(text, self.boundary):
            yield self._words(self._prepare(piece))

    def _count(self, text: TextOrPieces) -> Counter[str]:
        """Return the number of occurrences of each word."""
        counts: Counter[str] = Counter()
        for words in self._word_pieces(text):
            counts.update(words)
        return counts

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


def most_frequent(counts: Counter[str], wanted: Iterable[str], vocab_size: int | None) -> list[str]:
    """Return the special tokens ``wanted``, then the most frequent words, ties alphabetically; ``vocab_size`` tokens at most.

    Raises:
        ConfigError: ``vocab_size`` leaves no room for a word.
    """
    specials = list(wanted)
    room = None if vocab_size is None else vocab_size - len(specials)
    if room is not None and room < 1:
        raise ConfigError(
            SettingName("vocab_size"),
            f": {vocab_size} leaves no room for words behind {', '.join(specials) or 'nothing'}",
        )
    return [*specials, *sorted(counts, key=lambda word: (-counts[word], word))[:room]]


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


@cache
def _word_pattern(punctuation: bool, continued: bool) -> re.Pattern[str]:
    """Return the pattern of a word, and of a punctuation mark if those are kept.

    Args:
        continued: combining marks and joiners continue a word or mark, instead of ending it.
    """
    more = word_continuations() if continued else ""
    letters = rf"\w+(?:{more}+\w*)*" if continued else r"\w+"
    word = f"{letters}(?:['’]{letters})*"
    mark = rf"[^\w\s]{more}*" if continued else r"[^\w\s]"
    return re.compile(f"{word}|{mark}" if punctuation else word)


class WordTokenizer(WordVocabulary):
    """A tokeniser with one token per word; by default it lower-cases the text and drops punctuation.

    A word is a run of letters, digits and underscores, possibly with apostrophes inside ("don't"). If punctuation is kept,
    each mark is a word. White space is not kept: ``decode`` joins words with single spaces, except before , . ; : ! ? ) ] }
    and after ( [ {. Combining marks and joiners continue a word or mark of a tokeniser that normalises, and end one in
    tokenisers that do not, as in release 0.1.0.

    Args:
        vocabulary: the special tokens, then the words, most frequent first.
        unknown: policy for a word outside the vocabulary: "error", "replace" (by <unk>) or "skip".
        lowercase: lower-case the text first.
        punctuation: keep punctuation marks as words.
        normalize: one of ``NORMALIZATIONS``, applied to the text first.
    """

    level: ClassVar[str] = "word"
    settings: ClassVar[tuple[str, ...]] = ("lowercase", "normalize", "punctuation", "vocab_size", "unknown")

    def __init__(
        self,
        vocabulary: Sequence[str],
        unknown: str = "replace",
        lowercase: bool = True,
        punctuation: bool = False,
        normalize: str = NO_NORMALIZATION,
    ) -> None:
        super().__init__(vocabulary, unknown, lowercase, normalize)
        self.punctuation = punctuation
        self._pattern = _word_pattern(punctuation, normalize != NO_NORMALIZATION)

    @classmethod
    def fit(
        cls,
        text: TextOrPieces,
        *,
        specials: Sequence[str] = (),
        unknown: str = "replace",
        lowercase: bool = True,
        punctuation: bool = False,
        normalize: str = "NFC",
        vocab_size: int | None = None,
    ) -> WordTokenizer:
        """Return a tokeniser of the most frequent words of ``text`` (ties alphabetically), at most ``vocab_size`` tokens."""
        counts = cls([UNK], "replace", lowercase, punctuation, normalize)._count(text)
        vocabulary = most_frequent(counts, specials_for(unknown, specials), vocab_size)
        return cls(vocabulary, unknown, lowercase, punctuation, normalize)

    def _settings(self) -> dict[str, Any]:
        return {**super()._settings(), "punctuation": self.punctuation}

    def _words(self, text: str) -> list[str]:
        return self._pattern.findall(text)

    def streamer(self) -> TextStreamer:
        """Return a new incremental decoder, which yields each word with the space before it, if any."""
        return _WordStreamer(self._texts)

    def separator(self, prompt: str, text: str) -> str:
        """Return the space between a prompt and the text generated after it, empty if one of them is."""
        return " " if prompt and text else ""
