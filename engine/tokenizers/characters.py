"""The character tokeniser: one token per Unicode code point."""

from __future__ import annotations

import sys
import unicodedata
from collections.abc import Iterator, Sequence
from functools import partial
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from unrolled.engine.errors import ConfigError, UnknownTokenError
from unrolled.engine.tokenizers.pieces import TextOrPieces, pieces_of
from unrolled.engine.tokenizers.preparation import NO_NORMALIZATION, TextPreparation
from unrolled.engine.tokenizers.vocabulary import SPECIALS, Vocabulary, smallest_unsigned, specials_for


def _code_points(text: str) -> NDArray:
    """Return the code points (n,) of ``text``, uint8 for ASCII; a lone surrogate counts, although it is no valid UTF-32."""
    if text.isascii():
        return np.frombuffer(text.encode(), np.uint8)
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32)


class CharTokenizer(Vocabulary):
    """A tokeniser with one token per Unicode code point; by default it changes neither the case nor the form of a text.

    Args:
        vocabulary: single code points and special tokens.
        unknown: policy for a code point outside the vocabulary: "error", "replace" (by <unk>) or "skip".
        lowercase: lower-case the text first.
        normalize: one of ``NORMALIZATIONS``, applied to the text first.
    """

    level: ClassVar[str] = "char"
    settings: ClassVar[tuple[str, ...]] = ("lowercase", "normalize", "unknown")

    def __init__(
        self,
        vocabulary: Sequence[str],
        unknown: str = "error",
        lowercase: bool = False,
        normalize: str = NO_NORMALIZATION,
    ) -> None:
        super().__init__(vocabulary, unknown, lowercase, normalize)
        characters = [token for token in self.vocabulary if token not in SPECIALS]
        if bad := [token for token in characters if len(token) != 1]:
            raise ConfigError(f"vocabulary: {bad[0]!r} is not a single character")
        # One entry per code point; the last entry stands for all code points above the largest known one.
        top = max(map(ord, characters), default=0)
        self._missing = len(self.vocabulary)
        self._table = np.full(top + 2, self._missing, np.min_scalar_type(self._missing))
        for token in characters:
            self._table[ord(token)] = self._ids[token]

    @classmethod
    def fit(
        cls,
        text: TextOrPieces,
        *,
        specials: Sequence[str] = (),
        unknown: str = "error",
        lowercase: bool = False,
        normalize: str = NO_NORMALIZATION,
    ) -> CharTokenizer:
        """Return a tokeniser of all code points of ``text``: the special tokens, then code points in ascending order."""
        prepare = TextPreparation(normalize, lowercase)
        seen = np.zeros(sys.maxunicode + 1, np.bool_)
        for piece in pieces_of(text, cls.boundary_of(normalize)):
            seen[_code_points(prepare(piece))] = True
        vocabulary = [*specials_for(unknown, specials), *map(chr, np.flatnonzero(seen))]
        return cls(vocabulary, unknown, lowercase, normalize)

    def encode_pieces(self, text: TextOrPieces) -> Iterator[NDArray]:
        """Yield the ids of ``text`` piece by piece, in the smallest unsigned dtype."""
        dtype = smallest_unsigned(len(self.vocabulary))
        for piece in pieces_of(text, self.boundary):
            piece = self._prepare(piece)
            ids = self._table.take(_code_points(piece), mode="clip")  # above the largest known one: the last entry
            missing = ids == self._missing
            if missing.any():
                ids = self._apply_policy(ids, missing, partial(self._unknown_character, piece))
            yield ids.astype(dtype, copy=False)

    def _unknown_character(self, piece: str, first: int) -> UnknownTokenError:
        name = unicodedata.name(piece[first], "unnamed")
        return self._unknown_error("character", piece[first], f"U+{ord(piece[first]):04X} {name}")
