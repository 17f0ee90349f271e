"""Checks of the files that a verb writes: only ``--overwrite`` replaces an existing output, and nothing replaces an input."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from unrolled.engine.errors import ConfigError
from unrolled.engine.storage.json_text import to_json

OPTION = "--overwrite"


def check_output(
    path: str | Path, overwrite: bool, sources: Iterable[str | Path] = (), is_folder: bool = False
) -> None:
    """Check, before any work is done, that a verb may write ``path``.

    Args:
        path: file or folder that the verb writes.
        overwrite: an earlier output may be replaced.
        sources: files that the verb reads.
        is_folder: ``path`` is a folder that is written as a whole; it may exist if it is empty.

    Raises:
        ConfigError: the path is one of ``sources``, is a folder instead of a file or the reverse, or exists while
            ``overwrite`` is not set.
    """
    path = Path(path)
    if is_folder and path.is_dir() and not any(path.iterdir()):
        return
    if path.exists() and path.is_dir() != is_folder and not _is_stream(path):
        found, wanted = ("folder", "file name") if path.is_dir() else ("file", "folder")
        raise ConfigError(f"{path}: is a {found}, a {wanted} was expected")
    for source in map(Path, sources):
        if _is_same(path, source):
            raise ConfigError(f"{path}: is read and cannot be written at once; name another output")
    if os.path.lexists(path) and not overwrite and not _is_stream(path):
        raise ConfigError(f"{path}: exists; name another output, or say {OPTION} to replace it")


def check_append(path: Path) -> None:
    """Check, before any work is done, that lines can be appended to a file, which may exist.

    Raises:
        ConfigError: the path is a folder, or its folder does not exist.
    """
    if path.is_dir():
        raise ConfigError(f"{path}: is a folder, a file name was expected")
    if not path.parent.is_dir():
        raise ConfigError(f"{path.parent}: no such folder")


def append_line(path: Path | None, values: dict[str, Any]) -> None:
    """Append values as a JSON line to a file; do nothing without a path."""
    if path is not None:
        with path.open("a", encoding="utf-8") as stream:
            stream.write(to_json(values) + "\n")


def _is_same(path: Path, source: Path) -> bool:
    try:
        return path.samefile(source) and not _is_stream(path)
    except OSError:  # one of the files does not exist
        return False


def _is_stream(path: Path) -> bool:
    """Return whether a path is a pipe or a device, such as /dev/null; writing to it replaces nothing."""
    return path.exists() and not path.is_file() and not path.is_dir()
