"""OUT.job, which lies beside a file of results OUT and contains what it is written from.

    {                          all that decides what is written, besides the input
      …
    }
    <SHA-256, in hex>          of the rows of each block whose results are all written, a line each
    …
    <n> <SHA-256> <SHA-256>    of the first n rows of the next block and of the lines of their results, every few rows
    …
    complete                   once the last result is on the disk

The first part is there, whole, before the first result. The digests are added one by one, each after the results of its
rows, so that results that are kept are known to be of the same rows; a block's digest takes the place of those of its parts.
The file stays when the job is complete: it identifies the job.

Files of 0.1.0 have the package's version in the place of the formats' (``FORMAT``), no digests of parts, and are gone once
the job is complete. A file that ends with the first part's brace, as earlier releases wrote it, has no digests and gets none.
"""

from __future__ import annotations

import errno
import os
import re
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from unrolled.engine.errors import JobError, ModelFileError
from unrolled.engine.storage.atomic_files import write_atomically
from unrolled.engine.storage.json_text import parse_json, to_json
from unrolled.export.artifact.metadata import DEFAULTS, SAMPLING_VERSION

SUFFIX = ".job"
FORMAT = {"job_format": 2, "sampling": SAMPLING_VERSION}  # releases with the same go on with each other's jobs
_END = b"\n}\n"  # of the first part, of which all other lines are indented
_BLOCKS = re.compile(rb"(?:[0-9a-f]{64}\n)*")
_PART = re.compile(rb"(\d{1,18}) ([0-9a-f]{64}) ([0-9a-f]{64})\n")
_LINE = 65  # bytes of a block's digest and its line end
_COMPLETE = b"complete\n"


class Part(NamedTuple):
    """Digests of the first rows of a block and of the lines of their results."""

    rows: str
    results: str


class JobFile:
    """The file beside a path; nothing is opened or written by making one."""

    def __init__(self, results: Path) -> None:
        self.path = results.with_name(results.name + SUFFIX)
        self.complete = False
        self.parts: dict[int, Part] = {}  # of the block without a digest, by the number of rows
        self._file: BinaryIO | None = None
        self._begin = self._end = 0  # bytes, of the digests
        self._digests: int | None = None

    @property
    def blocks(self) -> int | None:
        """Return how many blocks have digests; None: it is of a release that made none, or there is no file."""
        return self._digests

    def begin(self, about: dict[str, Any]) -> None:
        """Write the first part; OSError where it cannot be."""
        data = to_json(about, indent=2).encode() + b"\n"
        write_atomically(self.path, data)
        self._begin = self._end = len(data)
        self._digests, self.complete, self.parts = 0, False, {}
        self._open()

    def _open(self) -> None:
        self._file = self.path.open("rb+", buffering=0)

    def read(self) -> dict[str, Any]:
        """Return the first part as this release writes it; the next digest takes the place of an unfinished line at the end.

        The file is not changed, because another process may be writing it.

        Raises:
            JobError: it cannot be read.
        """
        try:
            self._open()
            assert self._file is not None
            data = self._file.read()
            head, end, _ = data.partition(_END)
            about = parse_json((head + end).decode(), str(self.path))
            if end:
                self._begin = len(head + end)
                self._read_digests(data)
        except (OSError, UnicodeDecodeError, ModelFileError) as error:
            raise JobError(f"{self.path}: cannot be read ({error}); --overwrite begins anew") from error
        return about if "job_format" in about else _upgraded(about)

    def _read_digests(self, data: bytes) -> None:
        assert self._file is not None
        found = _BLOCKS.match(data, self._begin)
        self._end = found.end() if found else self._begin
        self._digests = (self._end - self._begin) // _LINE
        while part := _PART.match(data, self._end):
            self.parts[int(part[1])] = Part(part[2].decode(), part[3].decode())
            self._end = part.end()
        self.complete = data[self._end :] == _COMPLETE

    def digest(self, block: int) -> str:
        """Return the digest of a block that has one."""
        assert self._file is not None
        self._file.seek(self._begin + _LINE * block)
        return self._file.read(_LINE - 1).decode()

    def add(self, digest: str) -> None:
        """Write the digest of the next block in the place of those of its parts.

        Raises:
            OSError: it cannot be written; nothing of the block is there.
        """
        assert self._digests is not None
        self._end = self._begin + _LINE * self._digests
        self._append(f"{digest}\n".encode())
        self._digests, self.parts = self._digests + 1, {}

    def add_part(self, rows: int, part: Part) -> None:
        """Add the digests of the first rows of the next block; OSError, and nothing is there of it, if that fails."""
        self._append(f"{rows} {part.rows} {part.results}\n".encode())
        self.parts[rows] = part

    def finish(self) -> None:
        """Add that the job is complete; a file without digests cannot identify it, and is removed."""
        if self._digests is None:
            self.close()
            self.path.unlink(missing_ok=True)
        else:
            self._append(_COMPLETE)
            self.complete = True

    def _append(self, line: bytes) -> None:
        """Write a line after the digests as the last of the file."""
        file = self._file
        assert file is not None
        file.seek(self._end)
        if file.write(line) != len(line):
            file.truncate(self._end)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self._end += len(line)
        file.truncate(self._end)

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None


def _upgraded(about: dict[str, Any]) -> dict[str, Any]:
    """Return the first part of 0.1.0's file as this release writes it."""
    rest = {name: value for name, value in about.items() if name != "unrolled"}
    return FORMAT | {"sampling": DEFAULTS["sampling"]} | rest
