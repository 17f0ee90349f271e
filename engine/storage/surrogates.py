"""Checks for lone surrogates, which Python strings can contain and UTF-8 cannot encode."""

from __future__ import annotations

from unrolled.engine.errors import CorpusError, UnrolledError


def find_surrogate(text: str) -> int | None:
    """Return the index of the first lone surrogate in ``text``, None if there is none."""
    if text.isascii():
        return None
    try:
        text.encode()  # many times faster than a regular expression
    except UnicodeEncodeError as error:
        return error.start
    return None


def check_characters(text: str, where: str, error: type[UnrolledError] = CorpusError) -> str:
    r"""Return ``text`` after checking that it contains no lone surrogate, which JSON can write as \ud83d.

    Raises:
        UnrolledError: the text contains one; the class of the error is ``error``.
    """
    place = find_surrogate(text)
    if place is not None:
        raise error(
            f"{where}: \\u{ord(text[place]):04x} after {place:,} characters is half of a surrogate pair, and no character; "
            "write the whole pair (an emoji is \\ud83d\\ude00), or take it out"
        )
    return text
