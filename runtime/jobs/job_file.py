"""OUT.job, the file beside a file of results OUT that identifies the job.

    {                          the header: everything that decides the results, besides the input
      …
    }
    <SHA-256, in hex>          digest of the rows of each block whose results are complete, a line each
    …
    <n> <SHA-256> <SHA-256>    digests of the first n rows of the next block and of the lines of their results, every few rows
    …
    complete                   once the last result is on the disk

The header is written as a whole before the first result. Digests are appended one by one, each after the results of its
rows, so that kept results are known to belong to the same rows; the digest of a block replaces those of its parts. The file
stays after the job is complete, because it identifies the job.

Files of 0.1.0 have the package's version in the place of the formats' (``JOB_FORMAT``), no digests of parts, and are removed
once the job is complete. A file that ends with the header, as earlier releases wrote it, has no digests and gets none.
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

JOB_SUFFIX = ".job"
JOB_FORMAT = {"job_format": 2, "sampling": SAMPLING_VERSION}  # releases with equal values resume each other's jobs
_HEADER_END = b"\n}\n"  # all other lines of the header are indented
_BLOCK_DIGESTS = re.compile(rb"(?:[0-9a-f]{64}\n)*")
_PART_LINE = re.compile(rb"(\d{1,18}) ([0-9a-f]{64}) ([0-9a-f]{64})\n")
_DIGEST_BYTES = 65  # bytes of a block's digest and its line end
_COMPLETE = b"complete\n"


class BlockPart(NamedTuple):
    """Digests of the first rows of a block and of the lines of their results."""

    rows: str
    results: str


class JobFile:
    """The job file of a file of results; the constructor neither opens nor writes it."""

    def __init__(self, results: Path) -> None:
        self.path = results.with_name(results.name + JOB_SUFFIX)
        self.complete = False
        self.parts: dict[int, BlockPart] = {}  # of the block without a digest, keyed by number of rows
        self._file: BinaryIO | None = None
        self._begin = self._end = 0  # offsets in bytes of the digests
        self._digests: int | None = None

    @property
    def blocks(self) -> int | None:
        """Return the number of blocks with digests; None if an earlier release made none, or there is no file."""
        return self._digests

    def begin(self, about: dict[str, Any]) -> None:
        """Write the header; OSError if that fails."""
        data = to_json(about, indent=2).encode() + b"\n"
        write_atomically(self.path, data)
        self._begin = self._end = len(data)
        self._digests, self.complete, self.parts = 0, False, {}
        self._open()

    def _open(self) -> None:
        self._file = self.path.open("rb+", buffering=0)

    def read(self) -> dict[str, Any]:
        """Return the header as this release writes it; the next digest will replace an unfinished line at the end.

        The file is not changed, because another process may be writing it.

        Raises:
            JobError: the file cannot be read.
        """
        try:
            self._open()
            assert self._file is not None
            data = self._file.read()
            head, end, _ = data.partition(_HEADER_END)
            about = parse_json((head + end).decode(), str(self.path))
            if end:
                self._begin = len(head + end)
                self._read_digests(data)
        except (OSError, UnicodeDecodeError, ModelFileError) as error:
            raise JobError(f"{self.path}: cannot be read ({error}); --overwrite begins anew") from error
        return about if "job_format" in about else _upgraded(about)

    def _read_digests(self, data: bytes) -> None:
        assert self._file is not None
        found = _BLOCK_DIGESTS.match(data, self._begin)
        self._end = found.end() if found else self._begin
        self._digests = (self._end - self._begin) // _DIGEST_BYTES
        while part := _PART_LINE.match(data, self._end):
            self.parts[int(part[1])] = BlockPart(part[2].decode(), part[3].decode())
            self._end = part.end()
        self.complete = data[self._end :] == _COMPLETE

    def digest(self, block: int) -> str:
        """Return the digest of a block, which must have one."""
        assert self._file is not None
        self._file.seek(self._begin + _DIGEST_BYTES * block)
        return self._file.read(_DIGEST_BYTES - 1).decode()

    def add(self, digest: str) -> None:
        """Write the digest of the next block over those of its parts.

        Raises:
            OSError: the digest cannot be written; the file then has no digest of the block or its parts.
        """
        assert self._digests is not None
        self._end = self._begin + _DIGEST_BYTES * self._digests
        self._append(f"{digest}\n".encode())
        self._digests, self.parts = self._digests + 1, {}

    def add_part(self, rows: int, part: BlockPart) -> None:
        """Append the digests of the first rows of the next block; on OSError the file is unchanged."""
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
    """Return the header of 0.1.0 as this release writes it."""
    rest = {name: value for name, value in about.items() if name != "unrolled"}
    return JOB_FORMAT | {"sampling": DEFAULTS["sampling"]} | rest
