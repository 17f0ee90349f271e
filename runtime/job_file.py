"""OUT.job, which lies beside a file of results OUT until its last line is on the disk.

    {                          all that decides what is written, besides the input
      …
    }
    <SHA-256, in hex>          of the rows of each block whose results are all written, a line each
    …

The first part is there, whole, before the first result. The digests are added one by one, each behind the results of its
block: what is said of rows that are kept is known to be of the same rows. A file that ends with the first part's brace, as
earlier releases wrote it, has no digests and gets none.
"""

from __future__ import annotations

import errno
import os
import re
from pathlib import Path
from typing import Any

from unrolled.engine.checkpoint import write_atomically
from unrolled.engine.errors import JobError, ModelFileError
from unrolled.engine.jsontext import parse_json, to_json

SUFFIX = ".job"
_LINE = 65  # bytes of a digest and its line end
_END = b"\n}\n"  # of the first part, of which all other lines are indented


class JobFile:
    """The file beside a path; nothing is opened or written by making one."""

    def __init__(self, results: Path) -> None:
        self.path = results.with_name(results.name + SUFFIX)
        self._begin = 0  # of the digests
        self._digests: int | None = None

    @property
    def blocks(self) -> int | None:
        """How many blocks have digests; None: it is of a release that made none, or there is no file."""
        return self._digests

    def begin(self, about: dict[str, Any]) -> None:
        """Write the first part; OSError where it cannot be."""
        data = to_json(about, indent=2).encode() + b"\n"
        write_atomically(self.path, data)
        self._begin, self._digests = len(data), 0

    def read(self) -> dict[str, Any]:
        """The first part; what a process that was killed left of a line of the second is taken off.

        Raises:
            JobError: it cannot be read.
        """
        try:
            with self.path.open("rb+") as file:
                head, end, _ = file.read().partition(_END)
                about = parse_json((head + end).decode(), str(self.path))
                if end:
                    self._begin = len(head + end)
                    self._digests = _count_digests(file, self._begin)
                    file.truncate(self._begin + _LINE * self._digests)
        except (OSError, UnicodeDecodeError, ModelFileError) as error:
            raise JobError(f"{self.path}: cannot be read ({error}); --overwrite begins anew") from error
        return about

    def digest(self, block: int) -> str:
        """Of a block that has one."""
        with self.path.open("rb") as file:
            file.seek(self._begin + _LINE * block)
            return file.read(_LINE - 1).decode()

    def add(self, digest: str) -> None:
        """Of the next block; OSError, and nothing is there of it, where it cannot be written."""
        assert self._digests is not None
        end = self._begin + _LINE * self._digests
        with self.path.open("rb+", buffering=0) as file:
            file.seek(end)
            if file.write(f"{digest}\n".encode()) != _LINE:
                file.truncate(end)
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self._digests += 1

    def remove(self) -> None:
        self.path.unlink(missing_ok=True)


def _count_digests(file: Any, begin: int) -> int:
    """Whole lines of digests from ``begin`` on; the first that is none ends them."""
    file.seek(begin)
    count = 0
    while re.fullmatch(rb"[0-9a-f]{64}\n", file.read(_LINE)):
        count += 1
    return count
