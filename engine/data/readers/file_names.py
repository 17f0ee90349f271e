"""Names of sources: as they are printed, and what they tell of a file's format."""

from __future__ import annotations

import os
from pathlib import Path

from unrolled.engine.errors import encodable

STDIN = "-"
GZIP, ZSTD = "gzip", "zstd"
COMPRESSED_SUFFIXES = {".gz": GZIP, ".zst": ZSTD}


def printable_name(path: str | os.PathLike[str]) -> str:
    r"""Return a file's name as text that can be encoded: a byte that is not UTF-8 becomes \xNN.

    The file itself is opened by its true name, in which Python keeps such a byte as a lone surrogate.
    """
    return encodable(os.fspath(path))


def format_suffix(path: str | os.PathLike[str]) -> str:
    """Return the lower-case ending that says what a file holds: ".csv" of a.csv and of a.csv.gz."""
    suffixes = [suffix.lower() for suffix in Path(path).suffixes]
    if suffixes and suffixes[-1] in COMPRESSED_SUFFIXES:
        suffixes.pop()
    return suffixes[-1] if suffixes else ""


def is_unnamed(path: str | os.PathLike[str]) -> bool:
    """Return whether a source has no name that could tell its format: standard input, a pipe, a file descriptor."""
    name = os.fspath(path)
    return name == STDIN or name.startswith(("/dev/", "/proc/")) or (os.path.exists(name) and not os.path.isfile(name))


def short_name(path: str) -> str:
    """Return what a source is called in results: the name of its file without the folder."""
    if path == STDIN:
        return "standard input"
    return printable_name(path if path.startswith(("/dev/", "/proc/")) else Path(path).name)
