"""Exclusive locks of folders and files; the system releases them when the process ends, even if it is killed."""

from __future__ import annotations

import contextlib
import os
import sys
from pathlib import Path

from unrolled.engine.errors import ConfigError

LOCK_FILE = ".lock"
_LOCKED_BYTE = 1 << 40  # Windows denies reading a locked byte, so lock one beyond the content

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
    """Lock an open file until it is closed; return False if another process holds the lock.

    On a drive without locks, such as some network drives, every process succeeds.
    """
    try:
        _lock(handle)
    except (BlockingIOError, PermissionError):  # Windows raises the second
        return False
    except OSError:
        return True
    return True


class FolderLock:
    """A lock of a folder, held until ``release``.

    The lock file contains the process id for the error message only. The system's lock decides, so the file of a killed
    process blocks no other, even if the id is in use again.

    Raises:
        ConfigError: another process holds the folder.
        OSError: the folder is not writable.
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
            os.close(self._handle)  # the holder removed the file between open and lock
        os.ftruncate(self._handle, 0)
        os.lseek(self._handle, 0, os.SEEK_SET)
        os.write(self._handle, str(os.getpid()).encode())

    def _is_current(self) -> bool:
        try:
            return os.path.samestat(os.fstat(self._handle), os.stat(self.path))
        except FileNotFoundError:
            return False

    def release(self) -> None:
        """Remove the lock file and release the lock."""
        with contextlib.suppress(OSError):  # Windows cannot remove an open file; the file alone blocks no process
            self.path.unlink()
        os.close(self._handle)
