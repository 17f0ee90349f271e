"""The contract of a job's results, and results that go to standard output, a pipe or a device."""

from __future__ import annotations

import io
import sys
from typing import BinaryIO, Protocol

from unrolled.engine.errors import JobError
from unrolled.runtime.jobs.job_file import BlockPart


class Results(Protocol):
    """Destination of a job's lines; ``kept`` lines are those that an earlier process wrote."""

    @property
    def blocks(self) -> int | None:
        """Return how many blocks an earlier process finished; None if unknown, so that all lines may be kept."""
        ...

    def kept_line(self) -> bytes | None:
        """Return the next kept line, or None after the last."""
        ...

    def mark(self) -> None:
        """Remember the place before the next kept line."""
        ...

    def rewind(self) -> None:
        """Return to the mark; lines written from here on must equal the kept ones, as far as these go."""
        ...

    def write(self, line: bytes) -> bytes:
        """Append a line, or check that it equals the next kept one; return the line in the output."""
        ...

    def end_block(self, digest: str, last: bool) -> bool:
        """End the next block, whose rows have this digest; return False if an earlier process read other rows there.

        Raises:
            JobError: it is the last block and more lines are kept, or the digest cannot be written.
        """
        ...

    def end_part(self, rows: int, part: BlockPart) -> None:
        """Store the digests of the first rows of the next block, whose results are written."""
        ...

    def part(self, rows: int) -> BlockPart | None:
        """Return the digests that an earlier process stored for the first ``rows`` of the next block, if any."""
        ...

    def finish(self) -> None:
        """Record that all lines are written."""
        ...

    def close(self) -> None: ...


class ResultStream:
    """Results that go to standard output, a pipe or a device, of which nothing is kept."""

    blocks = 0

    def __init__(self, file: BinaryIO, name: str) -> None:
        self._file, self._name = file, name

    def kept_line(self) -> None:
        return None

    def mark(self) -> None: ...
    def rewind(self) -> None: ...

    def write(self, line: bytes) -> bytes:
        try:
            write_whole(self._file, line)
            self._file.flush()
        except OSError as error:
            raise JobError(f"{self._name}: cannot be written ({error.strerror})") from error
        return line

    def end_block(self, digest: str, last: bool) -> bool:
        return True

    def end_part(self, rows: int, part: BlockPart) -> None: ...

    def part(self, rows: int) -> None:
        return None

    def finish(self) -> None: ...

    def close(self) -> None:
        if self._file is not sys.stdout.buffer:
            self._file.close()


def write_whole(file: BinaryIO | io.FileIO, line: bytes) -> None:
    """Write a line to an unbuffered file, of which one call may write only a part."""
    view = memoryview(line)
    while view:
        view = view[file.write(view) :]
