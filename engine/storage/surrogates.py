"""Halves of surrogate pairs, which Python holds in texts and UTF-8 has not."""

from __future__ import annotations

from unrolled.engine.errors import CorpusError, UnrolledError


def find_surrogate(text: str) -> int | None:
    """Return where half of a surrogate pair stands in ``text``, which is no character and has no place in UTF-8."""
    if text.isascii():
        return None
    try:
        text.encode()  # many times as fast as a search
    except UnicodeEncodeError as error:
        return error.start
    return None


def check_characters(text: str, where: str, error: type[UnrolledError] = CorpusError) -> str:
    r"""Return ``text``, if all of it is characters.

    Raises:
        UnrolledError: of the class ``error``; there is half of a surrogate pair in it, which JSON can write as \ud83d.
    """
    place = find_surrogate(text)
    if place is not None:
        raise error(
            f"{where}: \\u{ord(text[place]):04x} after {place:,} characters is half of a surrogate pair, and no character; "
            "write the whole pair (an emoji is \\ud83d\\ude00), or take it out"
        )
    return text
