"""Files of results that grow by whole lines, and that a later process can go on with.

Beside a file OUT that is not finished lies OUT.job (``JobFile``), which says what is being written. Each line is written
at once, so that a process that is killed leaves whole lines and at most one that is cut; that one is taken off before the
file goes on.
"""

from __future__ import annotations

import io
import os
import sys
from pathlib import Path
from typing import Any, BinaryIO, Protocol

from unrolled.engine.errors import JobError
from unrolled.engine.jsontext import parse_json, to_json
from unrolled.engine.lock import try_lock
from unrolled.runtime.job_file import JobFile

STDOUT = "-"


class Results(Protocol):
    """Where lines go."""

    @property
    def blocks(self) -> int | None:
        """How many blocks an earlier process is known to have finished; None: nobody knows, and all lines may be kept."""
        ...

    def kept_line(self) -> bytes | None:
        """The next line of an earlier process, or None behind the last."""
        ...

    def mark(self) -> None:
        """Remember the place before the next kept line."""
        ...

    def rewind(self) -> None:
        """Back to the mark: what is written from here on has to be what was kept, as far as that goes."""
        ...

    def write(self, line: bytes) -> None: ...
    def end_block(self, digest: str) -> bool:
        """The next block is over, its rows have this digest; False: an earlier process read others there."""
        ...

    def finish(self) -> None:
        """All lines are written."""
        ...

    def close(self) -> None: ...


class ResultStream:
    """Standard output, a pipe or a device: nothing is kept, and what is written is gone."""

    blocks = 0

    def __init__(self, file: BinaryIO, name: str) -> None:
        self._file, self._name = file, name

    def kept_line(self) -> None:
        return None

    def mark(self) -> None: ...
    def rewind(self) -> None: ...

    def write(self, line: bytes) -> None:
        try:
            _write_whole(self._file, line)
            self._file.flush()
        except OSError as error:
            raise JobError(f"{self._name}: cannot be written ({error.strerror})") from error

    def end_block(self, digest: str) -> bool:
        return True

    def finish(self) -> None: ...

    def close(self) -> None:
        if self._file is not sys.stdout.buffer:
            self._file.close()


class ResultFile:
    """A regular file of results, locked against a second process.

    Args:
        path: of the file.
        about: all that decides what is written, as JSON values; a file that is gone on with must have the same.
        resume: go on where an earlier process stopped; begin where there is nothing.
        overwrite: begin anew, whatever is there.

    Raises:
        JobError: the file exists and neither is said, is being written by another process, was begun with other settings,
            or cannot be written.
    """

    def __init__(self, path: Path, about: dict[str, Any], resume: bool = False, overwrite: bool = False) -> None:
        self.path, self._job = path, JobFile(path)
        self._over = 0  # blocks
        if path.is_dir():
            raise JobError(f"{path}: is a folder, a file name was expected")
        if path.exists() and not resume and not overwrite:
            unfinished = ", and is not finished: --resume goes on with it" if self._job.path.exists() else ""
            raise JobError(f"{path}: exists{unfinished}; --overwrite begins anew")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = _open_both_ways(path)
        except OSError as error:
            raise JobError(f"{path}: cannot be written ({error.strerror})") from error
        try:
            if not try_lock(self._file.fileno()):
                raise JobError(f"{path}: another process is writing it")
            self._begin(about, resume and not overwrite)
            self._reader = path.open("rb")
        except BaseException:
            self._file.close()
            raise

    def _begin(self, about: dict[str, Any], resume: bool) -> None:
        """Find whole lines to keep, or leave none and say what will be written."""
        about = parse_json(to_json(about), "about")  # as it will be read: tuples are lists
        self._size = self._kept = self._mark = self._read = 0  # bytes: of the file, of it kept, and of those read again
        self.complete = False  # whether it was finished by the process before
        if resume and self._job.path.exists():
            self._check_about(about)
        elif resume and self._file.seek(0, os.SEEK_END) > 0:
            self.complete = True
        else:
            self._file.truncate(0)
            self._write_about(about)
            return
        self._size = self._kept = _end_of_lines(self._file)
        if self.complete and self._size < self._file.seek(0, os.SEEK_END):
            raise JobError(f"{self.path}: ends inside a line, and no {self._job.path.name} says what it is")
        self._file.truncate(self._size)

    def _write_about(self, about: dict[str, Any]) -> None:
        try:
            self._job.begin(about)
        except OSError as error:
            self.path.unlink()
            raise JobError(f"{self._job.path}: cannot be written ({error.strerror})") from error

    def _check_about(self, about: dict[str, Any]) -> None:
        """The job is the one that was begun."""
        if differences := _differences(self._job.read(), about):
            raise JobError(
                f"{self.path}: was begun with {', '.join(differences)}; go on with the same, or begin anew with --overwrite"
            )

    @property
    def blocks(self) -> int | None:
        return self._job.blocks

    def kept_line(self) -> bytes | None:
        if self._read >= self._kept:
            return None
        self._reader.seek(self._read)
        line = self._reader.readline()
        self._read += len(line)
        return line

    def mark(self) -> None:
        self._mark = self._read

    def rewind(self) -> None:
        self._read = self._mark

    def write(self, line: bytes) -> None:
        """Add a line, or see that it is the one that is there."""
        kept = self.kept_line()
        if kept is None:
            self._append(line)
        elif kept != line:
            raise JobError(
                f"{self.path}: {_shown(kept)} stands where {_shown(line)} comes out now; "
                "it was changed, or written on another machine; --overwrite begins anew"
            )

    def _append(self, line: bytes) -> None:
        try:
            self._file.seek(self._size)
            _write_whole(self._file, line)
        except OSError as error:
            self._file.truncate(self._size)  # which needs no room
            raise self._no_room(self.path, error) from error
        self._size += len(line)

    def _no_room(self, path: Path, error: OSError) -> JobError:
        return JobError(
            f"{path}: cannot be written ({error.strerror}); "
            f"{self._size:,} bytes of whole lines are kept: make room and go on with --resume"
        )

    def end_block(self, digest: str) -> bool:
        self._over += 1
        if self._job.blocks is None:
            return True
        if self._over <= self._job.blocks:
            return self._job.digest(self._over - 1) == digest
        try:
            self._job.add(digest)
        except OSError as error:
            raise self._no_room(self._job.path, error) from error
        return True

    def finish(self) -> None:
        if self._read < self._kept:
            raise JobError(f"{self.path}: holds more lines than the input has rows; --overwrite begins anew")
        os.fsync(self._file.fileno())
        self._job.remove()

    def close(self) -> None:
        self._reader.close()
        self._file.close()


def open_results(output: str, about: dict[str, Any], resume: bool, overwrite: bool) -> ResultStream | ResultFile:
    """Standard output for "-", a stream for what is no regular file, else a file.

    Raises:
        JobError: as of ``ResultFile``; or there is nothing to go on with in a stream.
    """
    path = Path(output)
    stream = output == STDOUT or (path.exists() and not path.is_file() and not path.is_dir())
    if stream and resume:
        raise JobError(f"output: {output!r} is a stream, and cannot be resumed; name a file")
    if not stream:
        return ResultFile(path, about, resume, overwrite)
    if output == STDOUT:
        return ResultStream(sys.stdout.buffer, output)
    try:
        return ResultStream(path.open("wb", buffering=0), output)
    except OSError as error:
        raise JobError(f"{path}: cannot be written ({error.strerror})") from error


def _write_whole(file: BinaryIO | io.FileIO, line: bytes) -> None:
    """A file without a buffer writes as much as goes in, and says how much that was."""
    view = memoryview(line)
    while view:
        view = view[file.write(view) :]


def _open_both_ways(path: Path) -> io.FileIO:
    """A file to be read and written without a buffer, made where there is none, with what it holds."""
    return io.FileIO(os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_BINARY", 0), 0o666), "r+")


def _end_of_lines(file: io.FileIO) -> int:
    """Bytes up to and with the last line end."""
    end = file.seek(0, os.SEEK_END)
    while end > 0:
        begin = max(end - (1 << 16), 0)
        file.seek(begin)
        found = file.read(end - begin).rfind(b"\n")
        if found >= 0:
            return begin + found + 1
        end = begin
    return 0


def _differences(begun: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """What differs, in words, a level deep."""
    found = []
    for key in sorted({*begun, *now}):
        before, after = begun.get(key), now.get(key)
        if isinstance(before, dict) and isinstance(after, dict):
            found += _differences(before, after)
        elif before != after:
            found.append(f"{key} {to_json(before)[:60]}, not {to_json(after)[:60]}")
    return found


def _shown(line: bytes) -> str:
    text = line.decode(errors="replace").rstrip("\n")
    return text if len(text) <= 80 else text[:80] + "…"
