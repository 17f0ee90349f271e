"""Tokenisers: text to ids and back, by characters, by words or by byte pairs.

A tokeniser is an immutable vocabulary with a few rules; ``to_dict`` and ``tokenizer_from_dict`` are its JSON round-trip,
and everything a host in another language needs to encode and decode.
"""

from __future__ import annotations

import re
import sys
import unicodedata
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import repeat
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from unrolled.engine.canonical import completed
from unrolled.engine.errors import ConfigError, ModelFileError
from unrolled.engine.tokenizers.byte_pairs import BpeTokenizer
from unrolled.engine.tokenizers.vocabulary import (
    BOS,
    EOS,
    SPECIALS,
    UNK,
    UNKNOWN_POLICIES,
    Streamer,
    Text,
    Tokenizer,
    Vocabulary,
    join_ids,
    lower,
    pieces_of,
    smallest_unsigned,
    split_pieces,
)

__all__ = [
    "BOS",
    "EOS",
    "LEVELS",
    "SPECIALS",
    "UNK",
    "UNKNOWN_POLICIES",
    "BpeTokenizer",
    "CharTokenizer",
    "Streamer",
    "Tokenizer",
    "WordTokenizer",
    "smallest_unsigned",
    "split_pieces",
    "tokenizer_from_dict",
]


def _code_points(text: str) -> NDArray:
    """Code points (n,) of ``text``, of bytes where it is ASCII; a lone surrogate is one too, though no valid UTF-32."""
    if text.isascii():
        return np.frombuffer(text.encode(), np.uint8)
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32)


class CharTokenizer(Vocabulary):
    """One token per Unicode code point, case kept.

    Args:
        vocabulary: single code points, and the special tokens among them.
        unknown: what happens to a code point outside it: "error", "replace" (by <unk>) or "skip".
        lowercase: lower-case the text first.
    """

    level: ClassVar[str] = "char"
    settings: ClassVar[tuple[str, ...]] = ("lowercase", "unknown")

    def __init__(self, vocabulary: Sequence[str], unknown: str = "error", lowercase: bool = False) -> None:
        super().__init__(vocabulary, unknown)
        self.lowercase = lowercase
        characters = [token for token in self.vocabulary if token not in SPECIALS]
        if bad := [token for token in characters if len(token) != 1]:
            raise ConfigError(f"vocabulary: {bad[0]!r} is not a single character")
        # One entry a code point; the last one stands for all above the largest known.
        top = max(map(ord, characters), default=0)
        self._missing = len(self.vocabulary)
        self._table = np.full(top + 2, self._missing, np.min_scalar_type(self._missing))
        for token in characters:
            self._table[ord(token)] = self._ids[token]

    @classmethod
    def fit(
        cls, text: Text, *, specials: Sequence[str] = (), unknown: str = "error", lowercase: bool = False
    ) -> CharTokenizer:
        """Every code point of ``text``, in code-point order, behind the special tokens."""
        seen = np.zeros(sys.maxunicode + 1, np.bool_)
        for piece in pieces_of(text):
            seen[_code_points(lower(piece) if lowercase else piece)] = True
        wanted = ((UNK,) if unknown == "replace" and UNK not in specials else ()) + tuple(specials)
        return cls([*wanted, *map(chr, np.flatnonzero(seen))], unknown, lowercase)

    def _settings(self) -> dict[str, Any]:
        return {**super()._settings(), "lowercase": self.lowercase}

    def encode_pieces(self, text: Text) -> Iterator[NDArray]:
        """Ids of ``text`` piece by piece, in the smallest unsigned dtype."""
        dtype = smallest_unsigned(len(self.vocabulary))
        for piece in pieces_of(text):
            piece = lower(piece) if self.lowercase else piece
            ids = self._table.take(_code_points(piece), mode="clip")  # above the largest known: the last entry
            missing = ids == self._missing
            if missing.any():
                ids = self._resolve(piece, ids, missing)
            yield ids.astype(dtype, copy=False)

    def _resolve(self, piece: str, ids: NDArray, missing: NDArray) -> NDArray:
        if self.unknown == "skip":
            return ids[~missing]
        if self.unknown == "replace":
            return np.where(missing, np.asarray(self.unk_id, ids.dtype), ids)
        first = int(missing.argmax())
        name = unicodedata.name(piece[first], "unnamed")
        raise self._unknown_error("character", piece[first], f"U+{ord(piece[first]):04X} {name}")

    def encode(self, text: str) -> NDArray[np.int64]:
        """Ids (n,) of ``text``; UnknownTokenError under the policy "error"."""
        return join_ids(self.encode_pieces(text))


class _WordStreamer(Streamer):
    """Words joined by spaces, none before and behind certain marks."""

    _NO_SPACE_BEFORE = frozenset(",.;:!?)]}")
    _NO_SPACE_AFTER = frozenset("([{")
    _glue = True  # whether the next word follows without a space

    def feed(self, token: int) -> str:
        word = super().feed(token)
        if not word:
            return ""
        space = "" if self._glue or word in self._NO_SPACE_BEFORE else " "
        self._glue = word in self._NO_SPACE_AFTER
        return space + word


class WordTokenizer(Vocabulary):
    """One token per word, lower-cased and without punctuation unless told otherwise.

    A word is a run of letters, digits and underscores, with apostrophes inside ("don't"); where punctuation is kept, each
    mark is a word of its own. White space is not kept: ``decode`` joins with single spaces, none before , . ; : ! ? ) ] }
    and none behind ( [ {.

    Args:
        vocabulary: the words, most frequent first, behind the special tokens.
        unknown: what happens to a word outside it: "error", "replace" (by <unk>) or "skip".
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
        text: Text,
        *,
        specials: Sequence[str] = (),
        unknown: str = "replace",
        lowercase: bool = True,
        punctuation: bool = False,
        vocab_size: int | None = None,
    ) -> WordTokenizer:
        """The words of ``text``, most frequent first (ties in alphabetical order), cut at ``vocab_size`` in all."""
        probe = cls([UNK], "replace", lowercase, punctuation)
        counts: Counter[str] = Counter()
        for words in probe._word_pieces(text):
            counts.update(words)
        wanted = ((UNK,) if unknown == "replace" and UNK not in specials else ()) + tuple(specials)
        room = None if vocab_size is None else vocab_size - len(wanted)
        if room is not None and room < 1:
            raise ConfigError(
                f"vocab_size: {vocab_size} leaves no room for words behind {', '.join(wanted) or 'nothing'}"
            )
        ranked = sorted(counts, key=lambda word: (-counts[word], word))[:room]
        return cls([*wanted, *ranked], unknown, lowercase, punctuation)

    def _settings(self) -> dict[str, Any]:
        return {**super()._settings(), "lowercase": self.lowercase, "punctuation": self.punctuation}

    def _word_pieces(self, text: Text) -> Iterator[list[str]]:
        pattern = self._WORDS_AND_MARKS if self.punctuation else self._WORDS
        for piece in pieces_of(text, self.boundary):
            yield pattern.findall(lower(piece) if self.lowercase else piece)

    def encode_pieces(self, text: Text) -> Iterator[NDArray]:
        """Ids of ``text`` piece by piece, in the smallest unsigned dtype."""
        dtype = smallest_unsigned(len(self.vocabulary))
        missing = len(self.vocabulary)
        done = 0
        for words in self._word_pieces(text):
            found = map(self._ids.get, words, repeat(missing))
            ids = np.fromiter(found, np.min_scalar_type(missing), len(words))
            unknown = ids == missing
            if unknown.any():
                if self.unknown == "skip":
                    ids = ids[~unknown]
                elif self.unknown == "replace":
                    ids = np.where(unknown, np.asarray(self.unk_id, ids.dtype), ids)
                else:
                    first = int(unknown.argmax())
                    raise self._unknown_error("word", words[first], f"word {done + first + 1} of the text")
            done += len(words)
            yield ids.astype(dtype, copy=False)

    def encode(self, text: str) -> NDArray[np.int64]:
        """Ids (n,) of ``text``; UnknownTokenError under the policy "error"."""
        return join_ids(self.encode_pieces(text))

    def streamer(self) -> Streamer:
        """A fresh decoder of ids that come one by one: each word with the space before it, where there is one."""
        return _WordStreamer(self._texts)


LEVELS: dict[str, type[CharTokenizer] | type[WordTokenizer] | type[BpeTokenizer]] = {
    tokenizer.level: tokenizer for tokenizer in (CharTokenizer, WordTokenizer, BpeTokenizer)
}


def tokenizer_from_dict(values: Mapping[str, Any]) -> Tokenizer:
    """The inverse of ``to_dict``.

    Raises:
        ModelFileError: the description is not one of a tokeniser.
    """
    try:
        settings = dict(values)
        for part in ("vocabulary", "merges"):
            if not isinstance(settings.get(part, []), list | tuple):
                raise TypeError(f"{part} is no list")
        for flag in ("lowercase", "punctuation"):
            if not isinstance(settings.get(flag, False), bool):
                raise TypeError(f"{flag} is neither true nor false")
        kind = LEVELS[settings.pop("level")]
        return kind(**completed(kind, settings))
    except (KeyError, TypeError, ValueError) as error:
        raise ModelFileError(f"tokenizer: not a valid description ({type(error).__name__}: {error})") from error
