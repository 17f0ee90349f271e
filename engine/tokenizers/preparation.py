"""Preparation of a text before it is matched with a vocabulary: Unicode normalisation and lower case.

Unicode writes many characters in several ways: "é" as U+00E9, or as "e" and the combining mark U+0301. Normalisation gives
them one form (Unicode Standard Annex 15, "Unicode Normalization Forms").
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from functools import cache

from unrolled.engine.checks import check_choice

NO_NORMALIZATION = "none"
NORMALIZATIONS = (NO_NORMALIZATION, "NFC", "NFD", "NFKC", "NFKD")

# A text may be split before these characters and normalised in pieces, because none of them combines with the text before it,
# in any form or in lower case. White space, punctuation and Latin letters up to U+02FF suffice for most scripts; Hebrew, Thai,
# kana, Chinese and Hangul are listed too, since a long text in some of them may have little white space.
STABLE_BOUNDARY = re.compile(
    "[\0-\u02ff\u05d0-\u05ea\u0e01-\u0e2e\u2000-\u200a\u2028\u2029\u3000\u3041-\u3096\u30a1-\u30fa\u4e00-\u9fff\uac00-\ud7a3]"
)

# The joiners: format characters that join letters within a word, such as U+200C in Persian.
_JOINERS = "\u200c\u200d"
# Planes 0 and 1 and the variation selectors of plane 14; the other planes contain ideographs and private use.
_PLANES_OF_MARKS = (range(0x20000), range(0xE0000, 0xE1000))


@dataclass(frozen=True)
class TextPreparation:
    """The preparation of all texts of a tokeniser: normalise, lower-case, and normalise the lower case.

    Normalising first gives texts that Unicode considers equivalent the same lower case. Lower case is normalised again because
    it can leave the form: "J̌" has no composed form, and its lower case has one.

    Args:
        normalize: one of ``NORMALIZATIONS``.
        lowercase: lower-case the text.
    """

    normalize: str = NO_NORMALIZATION
    lowercase: bool = False

    def __post_init__(self) -> None:
        check_choice("normalize", self.normalize, NORMALIZATIONS)

    def __call__(self, text: str) -> str:
        text = self._normalized(text)
        return self._normalized(lower(text)) if self.lowercase else text

    def _normalized(self, text: str) -> str:
        if self.normalize == NO_NORMALIZATION:
            return text
        return unicodedata.normalize(self.normalize, text)  # type: ignore[arg-type]


def lower(text: str) -> str:
    """Return ``text`` in lower case, independent of context: str.lower maps a final Σ to ς."""
    return text.replace("Σ", "σ").lower()


@cache
def word_continuations() -> str:
    """Return a regular expression of one combining mark or joiner, which continue a word.

    The look-ahead rules out most characters by one comparison: splitting English and Greek into words takes the time that it
    takes without marks, and not 1.6 times that.
    """
    ranges: list[list[int]] = []
    for plane in _PLANES_OF_MARKS:
        for code in plane:
            if unicodedata.category(chr(code))[0] != "M" and chr(code) not in _JOINERS:
                continue
            if ranges and ranges[-1][1] == code - 1:
                ranges[-1][1] = code
            else:
                ranges.append([code, code])
    characters = "".join(f"{chr(first)}-{chr(last)}" for first, last in ranges)
    return f"(?:(?=[^\0-\u02ff])[{characters}])"
