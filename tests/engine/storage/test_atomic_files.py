"""Atomic replacement: permissions by the umask, an unused temporary name, and errors that name the requested file."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from unrolled.engine.errors import ConfigError
from unrolled.engine.storage import atomic_files
from unrolled.engine.storage.atomic_files import replacing, write_atomically


@pytest.mark.skipif(os.name == "nt", reason="Windows has no umask")
@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664)])
def test_a_file_has_the_permissions_that_the_umask_of_the_moment_allows(tmp_path: Path, umask: int, mode: int) -> None:
    before = os.umask(umask)
    try:
        write_atomically(tmp_path / "a", b"new")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == mode


def test_a_name_that_is_taken_is_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / ".a.00.tmp").write_bytes(b"of another process")
    numbers = iter(["00", "01"])
    monkeypatch.setattr(atomic_files.secrets, "token_hex", lambda size: next(numbers))
    with replacing(tmp_path / "a") as file:
        file.write(b"new")
        assert sorted(os.listdir(tmp_path)) == [".a.00.tmp", ".a.01.tmp"]
    assert (tmp_path / "a").read_bytes() == b"new"
    assert (tmp_path / ".a.00.tmp").read_bytes() == b"of another process"
    assert not (tmp_path / ".a.01.tmp").exists()


def test_an_interrupted_writing_leaves_what_was_there(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"old")

    def interrupted() -> None:
        with replacing(tmp_path / "a") as file:
            file.write(b"half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert (os.listdir(tmp_path), (tmp_path / "a").read_bytes()) == (["a"], b"old")


def test_errors_name_the_file_that_was_asked_for(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is a folder, a file name was expected"):
        write_atomically(tmp_path, b"")
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(ConfigError, match="the folder cannot be made"):
        write_atomically(tmp_path / "file" / "a", b"")
    name = "n" * 250  # a temporary name is longer than a file system takes
    with pytest.raises(OSError, match="File name too long") as caught:
        write_atomically(tmp_path / name, b"")
    assert caught.value.filename == str(tmp_path / name)
