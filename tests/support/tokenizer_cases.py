"""Tokenisers and texts that several test files share."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
from hypothesis import strategies as st

from unrolled.engine.tokenizers.characters import CharTokenizer
from unrolled.engine.tokenizers.registry import tokenizer_from_dict
from unrolled.engine.tokenizers.vocabulary import UNK
from unrolled.engine.tokenizers.words import WordTokenizer

ANY_TEXT = st.text(st.characters(), max_size=60)  # surrogates included
WORDY = st.text(st.sampled_from("abcAB12_é ’'.,;:!?()[]{}-\t\n\u00a0😀"), max_size=60)
CHAR = CharTokenizer("abc")
WORD = WordTokenizer([UNK, "the", "cat"])


def ids(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


def through_json(tokenizer: CharTokenizer | WordTokenizer) -> Any:
    """Return the tokeniser that its description gives after a trip through JSON."""
    return tokenizer_from_dict(json.loads(json.dumps(tokenizer.to_dict())))
