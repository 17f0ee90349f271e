"""Atomic replacement: a file is written completely or not at all."""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from unrolled.engine.errors import ConfigError


def _open_temporary(path: Path) -> tuple[int, str]:
    """Create a file with an unused name next to ``path``; the system applies the umask to its permissions."""
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)
    while True:
        temporary = str(path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp"))
        with contextlib.suppress(FileExistsError):
            return os.open(temporary, flags, 0o666), temporary


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[IO[bytes]]:
    """Yield a file to write; afterwards ``path`` contains either all of the new content or the previous content.

    The temporary file is in the same folder, is flushed to the disk and then renamed to ``path``.

    Raises:
        ConfigError: ``path`` is a folder, or its folder cannot be created.
        OSError: the disk is full, or the folder is not writable; its file name is ``path``.
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
        error.filename = str(path)  # the user does not know the temporary name
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
        # The errors of writing and flushing name no file.
        if isinstance(error, OSError) and error.filename in (None, temporary):
            error.filename, error.filename2 = str(path), None
        raise


def write_atomically(path: Path, data: bytes) -> None:
    """Replace ``path`` by ``data`` atomically, with the errors of ``replacing``."""
    with replacing(path) as file:
        file.write(data)
