"""Write unicode_tables.h, the data of Unicode that C++ does not have: python make_unicode_tables.py > unicode_tables.h

The tables are those of the Python that runs this, whose Unicode version is recorded in the file.
"""

from __future__ import annotations

import re
import textwrap
import unicodedata
from collections.abc import Callable, Iterable, Iterator
from itertools import chain, pairwise

CODE_POINTS = 0x110000
HANGUL = range(0xAC00, 0xD7A4)  # syllables, which are composed and decomposed by arithmetic
JOINERS = "\u200c\u200d"

Entry = tuple[int, ...]  # a code point, then its data


def edges(contains: Callable[[str], bool]) -> list[Entry]:
    """Return the code points at which membership changes; the first is the first member."""
    found: list[Entry] = []
    inside = False
    for code in range(CODE_POINTS):
        if contains(chr(code)) != inside:
            found.append((code,))
            inside = not inside
    return [*found, (CODE_POINTS,)] if inside else found


def combining_classes() -> list[Entry]:
    """Return the code points at which the canonical combining class changes, each with the class from there on."""
    classes = [unicodedata.combining(chr(code)) for code in range(CODE_POINTS)]
    return [(code + 1, new) for code, (old, new) in enumerate(pairwise(classes)) if new != old]


def _decompositions() -> Iterator[tuple[int, bool, list[int]]]:
    """Yield the code points that decompose: whether only in forms K, and the code points of one decomposition."""
    for code in range(CODE_POINTS):
        tag, points = unicodedata.decomposition(chr(code)).rpartition("> ")[::2]
        if points and code not in HANGUL:
            yield code, tag != "", [int(point, 16) for point in points.split()]


def canonical() -> list[Entry]:
    """Return the code points that decompose in every form, each with two code points; the second is 0 if there is one."""
    return [(code, points[0], *(points[1:] or [0])) for code, only_k, points in _decompositions() if not only_k]


def compatible() -> list[Entry]:
    """Return the code points that decompose in forms K alone, each with the number of its code points and these."""
    return [(code, len(points), *points) for code, only_k, points in _decompositions() if only_k]


def uncomposed() -> list[Entry]:
    """Return the code points whose two code points are not composed to them."""
    return [
        entry[:1] for entry in canonical() if entry[2] and unicodedata.normalize("NFC", chr(entry[0])) != chr(entry[0])
    ]


def numbers(entries: Iterable[Entry]) -> list[int]:
    """Return entries as one list, each code point as its distance from the previous entry's."""
    listed = list(entries)
    before = [(0,), *listed]
    return list(chain.from_iterable((new[0] - old[0], *new[1:]) for old, new in zip(before, listed, strict=False)))


def is_word(character: str) -> bool:
    return re.match(r"\w", character) is not None


def is_continuation(character: str) -> bool:
    return unicodedata.category(character)[0] == "M" or character in JOINERS


TABLES: dict[str, tuple[str, Callable[[], list[Entry]]]] = {
    "WORD_EDGES": (
        "Where membership changes: letters, numbers and the underscore (\\w of Python's regular expressions).",
        lambda: edges(is_word),
    ),
    "CONTINUATION_EDGES": (
        "Where membership changes: combining marks and the joiners U+200C and U+200D.",
        lambda: edges(is_continuation),
    ),
    "COMBINING_CLASSES": (
        "Where the canonical combining class changes, and the class from there on.",
        combining_classes,
    ),
    "CANONICAL": (
        "A code point and the two that it decomposes to in every form; the second is 0 if there is one.",
        canonical,
    ),
    "COMPATIBLE": (
        "A code point that decomposes in forms NFKC and NFKD alone, the number of its code points, and these.",
        compatible,
    ),
    "UNCOMPOSED": ("A code point that forms NFC and NFKC do not compose.", uncomposed),
}


def header() -> str:
    """Return the text of unicode_tables.h."""
    parts = [
        "// Tables of Unicode. Written by make_unicode_tables.py; do not edit.\n"
        "// Each entry of a table begins with a code point, as the distance from that of the previous entry.\n\n"
        "#pragma once\n\n#include <cstdint>\n\n"
        f'inline constexpr const char* UNICODE_VERSION = "{unicodedata.unidata_version}";\n'
    ]
    for name, (comment, make) in TABLES.items():
        rows = textwrap.fill(", ".join(map(str, numbers(make()))), 116, initial_indent="    ", subsequent_indent="    ")
        parts.append(f"\n// {comment}\ninline constexpr std::uint32_t {name}[] = {{\n{rows}}};\n")
    return "".join(parts)


if __name__ == "__main__":
    print(header(), end="")
