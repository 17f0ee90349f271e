"""Text encodings: codecs by any of their names, and detection from the bytes."""

from __future__ import annotations

import codecs

from unrolled.engine.errors import CorpusError

# UTF-32 comes before UTF-16, because its little-endian mark starts with that of UTF-16.
BYTE_ORDER_MARKS = {
    codecs.BOM_UTF8: "utf-8",
    codecs.BOM_UTF32_LE: "utf-32-le",
    codecs.BOM_UTF32_BE: "utf-32-be",
    codecs.BOM_UTF16_LE: "utf-16-le",
    codecs.BOM_UTF16_BE: "utf-16-be",
}
UNICODE_CODECS = frozenset(BYTE_ORDER_MARKS.values())  # they refuse most bytes of any other encoding
SURROGATE_FREE_CODECS = UNICODE_CODECS | {"ascii", "iso8859-1"}  # they never decode to a lone surrogate


def probable_encoding(sample: bytes) -> str | None:
    """Return the encoding of ``sample`` by its byte order mark or by the small high bytes of UTF-16 and UTF-32, else None."""
    for mark, name in BYTE_ORDER_MARKS.items():
        if sample.startswith(mark):
            return name
    if len(sample) < 4:
        return None
    n = len(sample) // 4 * 4
    first, second, third, fourth = (sample[place:n:4] for place in range(4))
    if n >= 8 and not any(fourth) and max(third) <= 0x10:
        return "utf-32-le"
    if n >= 8 and not any(first) and max(second) <= 0x10:
        return "utf-32-be"
    for name, high, low in (("utf-16-le", sample[1::2], sample[::2]), ("utf-16-be", sample[::2], sample[1::2])):
        if _are_high_bytes(high, low):
            return name
    return None


def _are_high_bytes(high: bytes, low: bytes) -> bool:
    """Return whether most of ``high`` is below 8, as are the high bytes of Latin, Greek, Cyrillic, Hebrew and Arabic."""
    counts = [high.count(byte) for byte in range(8)]
    small = sum(counts)
    if 2 * small < len(high) or 4 * sum(low.count(byte) for byte in range(8)) > small:
        return False
    # Without spaces and line ends, require a single script, and more than one repeated control character.
    return counts[0] > 0 or (max(counts) >= max(8, 0.8 * small) and len(set(low)) > 3)


def probable_utf16(sample: bytes) -> str | None:
    """Return the UTF-16 whose only zero bytes are those of line ends and digits, as in Chinese text, else None."""
    even, odd = sample[::2].count(0), sample[1::2].count(0)
    if min(even, odd) > 0 or max(even, odd) < 2:
        return None
    return "utf-16-le" if odd else "utf-16-be"


def find_codec(encoding: str) -> str:
    """Return Python's canonical name of a text encoding; utf-8-sig becomes utf-8, since the mark is always removed.

    Raises:
        CorpusError: Python has no such encoding, or it does not decode bytes to text.
    """
    try:
        name = codecs.lookup(encoding).name
        "a".encode(name)  # rot13, base64 and other non-text codecs fail here
        codecs.getincrementaldecoder(name)
    except (LookupError, ValueError, TypeError) as error:
        raise CorpusError(f"--encoding: {encoding!r} is not an encoding that Python knows") from error
    return "utf-8" if name == "utf-8-sig" else name
