"""One process at a time in a folder or a file: a lock that the system drops when its process ends, however it ends."""

from __future__ import annotations

import contextlib
import os
import sys
from pathlib import Path

from unrolled.engine.errors import ConfigError

LOCK_FILE = ".lock"
_LOCKED_BYTE = 1 << 40  # the byte that Windows locks: nobody else may read it, and what the file holds is in front

if sys.platform == "win32":
    import msvcrt

    def _lock(handle: int) -> None:
        os.lseek(handle, _LOCKED_BYTE, os.SEEK_SET)
        msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)
else:
    import fcntl

    def _lock(handle: int) -> None:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)


def try_lock(handle: int) -> bool:
    """Hold an open file alone until it is closed; False where another process does.

    On a drive without locks, as some in a network are, everybody gets it.
    """
    try:
        _lock(handle)
    except (BlockingIOError, PermissionError):  # the second on Windows
        return False
    except OSError:
        return True
    return True


class FolderLock:
    """Holds a folder until ``release``.

    The file names the process for people; whether it still runs is the system's to know, so that a file left by a
    killed process stops nobody, even if another process has its number by now.

    Raises:
        ConfigError: another process holds the folder.
        OSError: the folder cannot be written.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / LOCK_FILE
        while True:
            self._handle = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o666)
            if not try_lock(self._handle):
                holder = os.pread(self._handle, 20, 0) if hasattr(os, "pread") else b""
                os.close(self._handle)
                process = f"process {holder.decode()}" if holder.isdigit() else "another process"
                raise ConfigError(f"{folder}: {process} is at work in this folder; wait for it, or name another folder")
            if self._is_current():
                break
            os.close(self._handle)  # its holder removed it between our opening and our locking
        os.ftruncate(self._handle, 0)
        os.lseek(self._handle, 0, os.SEEK_SET)
        os.write(self._handle, str(os.getpid()).encode())

    def _is_current(self) -> bool:
        try:
            return os.path.samestat(os.fstat(self._handle), os.stat(self.path))
        except FileNotFoundError:
            return False

    def release(self) -> None:
        with contextlib.suppress(OSError):  # Windows keeps the name of an open file; left behind, it stops nobody
            self.path.unlink()
        os.close(self._handle)
