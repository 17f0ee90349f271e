"""Files of results that grow by whole lines and can be resumed by a later process.

OUT.job (``JobFile``) beside a file OUT identifies the job. Each line is written at once, so that a killed process leaves
whole lines and at most one that is cut; the cut line is removed before the file is continued.
"""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from unrolled.engine.errors import JobError
from unrolled.engine.storage.json_text import parse_json, to_json
from unrolled.engine.storage.locks import try_lock
from unrolled.runtime.jobs.job_file import BlockPart, JobFile
from unrolled.runtime.jobs.records import same_result
from unrolled.runtime.jobs.result_streams import ResultStream, write_whole

STDOUT = "-"


class ResultFile:
    """A regular file of results, locked against a second process.

    Args:
        path: the file.
        about: everything that decides the results, as JSON values; a file can be resumed only with equal values.
        resume: continue where an earlier process stopped; start a new file if there is none.
        overwrite: start a new file even if there is one.

    Raises:
        JobError: the file exists and neither ``resume`` nor ``overwrite`` is set, another process is writing it, it was
            written with other settings, or it cannot be written.
    """

    def __init__(self, path: Path, about: dict[str, Any], resume: bool = False, overwrite: bool = False) -> None:
        self.path, self._job = path, JobFile(path)
        self._ended = 0  # blocks
        if path.is_dir():
            raise JobError(f"{path}: is a folder, a file name was expected")
        if path.exists() and not resume and not overwrite:
            raise JobError(f"{path}: exists{self._unfinished()}; --overwrite begins anew")
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
            self._job.close()
            self._file.close()
            raise

    def _unfinished(self) -> str:
        """Return advice for a message if an earlier process left the file unfinished, else an empty text."""
        if not self._job.path.exists():
            return ""
        try:
            self._job.read()
        finally:
            self._job.close()
        return "" if self.complete else ", and is not finished: --resume goes on with it"

    @property
    def complete(self) -> bool:
        """Return whether all results are written, by this process or an earlier one."""
        return self._job.complete

    def _begin(self, about: dict[str, Any], resume: bool) -> None:
        """Find the whole lines to keep, or empty the file and write the job file's header."""
        about = parse_json(to_json(about), "about")  # as it will be read back: tuples become lists
        # Bytes: size of the file, length of its kept lines, the mark, and how far kept lines have been read.
        self._size = self._kept = self._mark = self._read = 0
        size = self._file.seek(0, os.SEEK_END)
        if not resume or size == 0:
            self._file.truncate(0)
            self._write_about(about)
            return
        self._check_about(about)
        self._size = self._kept = _end_of_lines(self._file)
        if self._size < size:
            if self.complete:
                raise JobError(f"{self.path}: was complete, and now ends inside a line; --overwrite begins anew")
            self._file.truncate(self._size)

    def _write_about(self, about: dict[str, Any]) -> None:
        try:
            self._job.begin(about)
        except OSError as error:
            self.path.unlink()
            raise JobError(f"{self._job.path}: cannot be written ({error.strerror})") from error

    def _check_about(self, about: dict[str, Any]) -> None:
        """Raise a JobError unless the file belongs to this job."""
        if not self._job.path.exists():
            raise JobError(
                f"{self.path}: exists, and no {self._job.path.name} says of which model, settings and input it is "
                "(release 0.1.0 removed that file from a complete output); --overwrite begins anew"
            )
        if differences := _differences(self._job.read(), about):
            begun = "is complete, and was written" if self.complete else "was begun"
            raise JobError(
                f"{self.path}: {begun} with {', '.join(differences)}; go on with the same, or begin anew with --overwrite"
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

    def write(self, line: bytes) -> bytes:
        kept = self.kept_line()
        if kept is None:
            self._append(line)
            return line
        if not same_result(kept, line):
            raise JobError(
                f"{self.path}: {_shown(kept)} stands where {_shown(line)} comes out now; "
                "it was changed, or written on another machine; --overwrite begins anew"
            )
        return kept

    def _append(self, line: bytes) -> None:
        try:
            self._file.seek(self._size)
            write_whole(self._file, line)
        except OSError as error:
            self._file.truncate(self._size)  # needs no free space
            raise self._no_room(self.path, error) from error
        self._size += len(line)

    def _no_room(self, path: Path, error: OSError) -> JobError:
        return JobError(
            f"{path}: cannot be written ({error.strerror}); "
            f"{self._size:,} bytes of whole lines are kept: make room and go on with --resume"
        )

    def end_block(self, digest: str, last: bool) -> bool:
        self._ended += 1
        if self._job.blocks is None:
            return True
        if self._ended <= self._job.blocks:
            return self._job.digest(self._ended - 1) == digest
        if last:  # before a digest of these rows is stored, which would refuse the right input
            self._check_end()
        self._add_to_job(lambda: self._job.add(digest))
        return True

    def part(self, rows: int) -> BlockPart | None:
        return self._job.parts.get(rows) if self._ended == self._job.blocks else None

    def end_part(self, rows: int, part: BlockPart) -> None:
        # Otherwise the digest of the block is stored already, or the job file has none.
        if self._ended == self._job.blocks and rows not in self._job.parts:
            self._add_to_job(lambda: self._job.add_part(rows, part))

    def _add_to_job(self, add: Callable[[], None]) -> None:
        try:
            add()
        except OSError as error:
            raise self._no_room(self._job.path, error) from error

    def _check_end(self) -> None:
        if self._read < self._kept:
            raise JobError(f"{self.path}: holds more lines than the input has rows; --overwrite begins anew")

    def finish(self) -> None:
        self._check_end()
        if not self.complete:
            os.fsync(self._file.fileno())
            self._add_to_job(self._job.finish)

    def close(self) -> None:
        self._reader.close()
        self._job.close()
        self._file.close()


def open_results(output: str, about: dict[str, Any], resume: bool, overwrite: bool) -> ResultStream | ResultFile:
    """Return a stream for "-" (standard output) and for paths that are no regular file, else a file.

    Raises:
        JobError: as ``ResultFile`` does; or ``resume`` is set for a stream.
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


def _open_both_ways(path: Path) -> io.FileIO:
    """Open a file for reading and writing without a buffer; create it if there is none, and keep its content."""
    return io.FileIO(os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_BINARY", 0), 0o666), "r+")


def _end_of_lines(file: io.FileIO) -> int:
    """Return the length of a file in bytes up to and including its last line end."""
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
    """Return the keys whose values differ, with both values, for a message; nested objects one level deep."""
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
