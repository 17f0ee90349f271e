"""Files that are written whole or not at all."""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from unrolled.engine.errors import ConfigError


def _open_temporary(path: Path) -> tuple[int, str]:
    """Create a file of a new name beside ``path``, for all whom the process's umask lets read it."""
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)
    while True:
        temporary = str(path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp"))
        with contextlib.suppress(FileExistsError):
            return os.open(temporary, flags, 0o666), temporary


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[IO[bytes]]:
    """A file to write, so that ``path`` holds either all of it or what it held before, whatever happens.

    It lies in the same folder, is flushed to the disk and then takes the name.

    Raises:
        ConfigError: ``path`` is a folder, or its folder cannot be made.
        OSError: the disk is full, or the folder cannot be written; its file name is ``path``.
    """
    if path.is_dir():
        raise ConfigError(f"{path}: is a folder, a file name was expected")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"{path.parent}: the folder cannot be made ({error.strerror})") from error
    try:
        handle, temporary = _open_temporary(path)
    except OSError as error:
        error.filename = str(path)  # which people know
        raise
    try:
        with os.fdopen(handle, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException as error:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        # no file is named where writing or flushing failed
        if isinstance(error, OSError) and error.filename in (None, temporary):
            error.filename, error.filename2 = str(path), None
        raise


def write_atomically(path: Path, data: bytes) -> None:
    """Write ``data`` as ``replacing`` does, with its errors."""
    with replacing(path) as file:
        file.write(data)
