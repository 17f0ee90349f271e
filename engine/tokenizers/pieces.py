"""Long texts in pieces, cut where no word is cut in two."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

LONGEST_SEARCH = 1 << 12  # characters at the end of a piece that are searched for where to cut it
PIECE_CHARS = 1 << 22  # text is tokenised in pieces of about this size, so that a large corpus is never held as tokens

TextOrPieces = str | Iterable[str]  # whole, or in pieces that cut no word in two


def split_pieces(text: str, is_boundary: re.Pattern[str] | None = None) -> Iterator[str]:
    """Cut a long text into pieces, at a match of ``is_boundary`` where given, so that no word is cut in two."""
    start = 0
    while start < len(text):
        end = start + PIECE_CHARS
        if is_boundary is not None and end < len(text):
            match = is_boundary.search(text, end)
            end = match.start() if match else len(text)
        yield text[start:end]
        start = end


def pieces_of(text: TextOrPieces, is_boundary: re.Pattern[str] | None = None) -> Iterator[str]:
    """Pieces of a text, which may be in pieces already."""
    return split_pieces(text, is_boundary) if isinstance(text, str) else iter(text)


def whole_words(chunks: Iterable[str], is_boundary: re.Pattern[str] | None) -> Iterator[str]:
    """Pieces that cut no word in two, of chunks of a text that may."""
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
