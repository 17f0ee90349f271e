"""Split long texts into pieces without splitting a word."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

LONGEST_SEARCH = 1 << 12  # characters at the end of a piece that are searched for a boundary
PIECE_CHARS = 1 << 22  # approximate size of a piece: bounds the memory for the tokens of a large corpus

TextOrPieces = str | Iterable[str]  # a whole text, or pieces of it that split no word


def split_pieces(text: str, is_boundary: re.Pattern[str] | None = None) -> Iterator[str]:
    """Yield pieces of a long text, split only before a match of ``is_boundary`` if it is given."""
    start = 0
    while start < len(text):
        end = start + PIECE_CHARS
        if is_boundary is not None and end < len(text):
            match = is_boundary.search(text, end)
            end = match.start() if match else len(text)
        yield text[start:end]
        start = end


def pieces_of(text: TextOrPieces, is_boundary: re.Pattern[str] | None = None) -> Iterator[str]:
    """Return the pieces of a text; a text that is given in pieces keeps them."""
    return split_pieces(text, is_boundary) if isinstance(text, str) else iter(text)


def whole_words(chunks: Iterable[str], is_boundary: re.Pattern[str] | None) -> Iterator[str]:
    """Yield the text of ``chunks``, which may split words, in pieces that do not."""
    rest = ""
    for chunk in chunks:
        rest += chunk
        end = len(rest)
        if is_boundary is not None:
            near = is_boundary.finditer(rest, max(end - LONGEST_SEARCH, 0))
            end = max((match.start() for match in near), default=0)
        if end > 0:
            yield rest[:end]
        rest = rest[end:]
    if rest:
        yield rest
