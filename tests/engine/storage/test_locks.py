"""Locks of folders: one holder at a time, an old lock file blocks no process, and drives without locks."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from unrolled.engine.errors import ConfigError
from unrolled.engine.storage import locks
from unrolled.engine.storage.locks import LOCK_FILE, FolderLock, try_lock


def test_a_folder_has_one_holder_at_a_time(tmp_path: Path) -> None:
    held = FolderLock(tmp_path)
    assert (tmp_path / LOCK_FILE).read_text() == str(os.getpid())
    with pytest.raises(ConfigError, match=f"process {os.getpid()} is at work in this folder"):
        FolderLock(tmp_path)
    held.release()
    assert list(tmp_path.iterdir()) == []


def test_the_file_of_a_killed_process_blocks_nobody(tmp_path: Path) -> None:
    (tmp_path / LOCK_FILE).write_text("1" * 20)
    held = FolderLock(tmp_path)
    assert held.path.read_text() == str(os.getpid())
    held.release()


def test_an_open_file_is_locked_until_it_is_closed(tmp_path: Path) -> None:
    with (tmp_path / "a").open("wb") as first, (tmp_path / "a").open("wb") as second:
        assert [try_lock(file.fileno()) for file in (first, second)] == [True, False]
        first.close()
        assert try_lock(second.fileno())


def test_a_drive_without_locks_stops_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_locks(handle: int) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(locks, "_lock", no_locks)
    held = FolderLock(tmp_path)
    held.release()
    assert list(tmp_path.iterdir()) == []
