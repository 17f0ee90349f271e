"""What a verb may write: an existing output is replaced only where ``--overwrite`` says so, and an input never."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from unrolled.engine.errors import ConfigError

OPTION = "--overwrite"


def check_output(path: str | Path, overwrite: bool, sources: Iterable[str | Path] = ()) -> None:
    """Check, before any work is done, that a verb may write ``path``.

    Args:
        path: a file, or a folder that is written as a whole.
        overwrite: whether an earlier one may be replaced.
        sources: files that the verb reads.

    Raises:
        ConfigError: it is one of ``sources``, or is there already and ``overwrite`` is not set.
    """
    path = Path(path)
    for source in map(Path, sources):
        if _is_same(path, source):
            raise ConfigError(f"{path}: is read and cannot be written at once; name another output")
    if os.path.lexists(path) and not overwrite and not _is_stream(path):
        raise ConfigError(f"{path}: exists; name another output, or say {OPTION} to replace it")


def _is_same(path: Path, source: Path) -> bool:
    try:
        return path.samefile(source) and not _is_stream(path)
    except OSError:  # one of them is not there
        return False


def _is_stream(path: Path) -> bool:
    """Return whether a path is a pipe or a device, such as /dev/null, which nothing is lost by writing to."""
    return path.exists() and not path.is_file() and not path.is_dir()
