"""Registry of tokenisers by level, and their JSON round-trip.

A tokeniser is an immutable vocabulary with a few rules. ``to_dict`` describes it in JSON, and ``tokenizer_from_dict`` is the
inverse; the JSON contains everything that a host in another language needs to encode and decode.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from unrolled.engine.canonical import completed
from unrolled.engine.errors import ModelFileError
from unrolled.engine.tokenizers.byte_pairs import BpeTokenizer
from unrolled.engine.tokenizers.characters import CharTokenizer
from unrolled.engine.tokenizers.contract import Tokenizer
from unrolled.engine.tokenizers.whitespace import WhitespaceTokenizer
from unrolled.engine.tokenizers.words import WordTokenizer

TOKENIZERS: dict[str, type[CharTokenizer] | type[WordTokenizer] | type[WhitespaceTokenizer] | type[BpeTokenizer]] = {
    tokenizer.level: tokenizer for tokenizer in (CharTokenizer, WordTokenizer, WhitespaceTokenizer, BpeTokenizer)
}


def tokenizer_from_dict(values: Mapping[str, Any]) -> Tokenizer:
    """Return the tokeniser of a description; the inverse of ``to_dict``.

    Raises:
        ModelFileError: the description is invalid.
    """
    try:
        settings = dict(values)
        for part in ("vocabulary", "merges"):
            if not isinstance(settings.get(part, []), list | tuple):
                raise TypeError(f"{part} is no list")
        for flag in ("lowercase", "punctuation"):
            if not isinstance(settings.get(flag, False), bool):
                raise TypeError(f"{flag} is neither true nor false")
        kind = TOKENIZERS[settings.pop("level")]
        return kind(**completed(kind, settings))
    except (KeyError, TypeError, ValueError) as error:
        raise ModelFileError(f"tokenizer: not a valid description ({type(error).__name__}: {error})") from error
