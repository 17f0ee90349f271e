"""Names of sources: printable forms, and the format that a name implies."""

from __future__ import annotations

import os
from pathlib import Path

from unrolled.engine.errors import encodable

STDIN = "-"
GZIP, ZSTD = "gzip", "zstd"
COMPRESSED_SUFFIXES = {".gz": GZIP, ".zst": ZSTD}


def printable_name(path: str | os.PathLike[str]) -> str:
    r"""Return a file name as encodable text: a byte that is not UTF-8 becomes \xNN.

    The file itself is opened by its original name, in which Python stores such a byte as a lone surrogate.
    """
    return encodable(os.fspath(path))


def format_suffix(path: str | os.PathLike[str]) -> str:
    """Return the lower-case suffix that names the format of a file: ".csv" for a.csv and a.csv.gz."""
    suffixes = [suffix.lower() for suffix in Path(path).suffixes]
    if suffixes and suffixes[-1] in COMPRESSED_SUFFIXES:
        suffixes.pop()
    return suffixes[-1] if suffixes else ""


def is_unnamed(path: str | os.PathLike[str]) -> bool:
    """Return whether the name of a source implies no format: standard input, a pipe or a file descriptor."""
    name = os.fspath(path)
    return name == STDIN or name.startswith(("/dev/", "/proc/")) or (os.path.exists(name) and not os.path.isfile(name))


def short_name(path: str) -> str:
    """Return the name of a source in results: the name of its file without the folder."""
    if path == STDIN:
        return "standard input"
    return printable_name(path if path.startswith(("/dev/", "/proc/")) else Path(path).name)
