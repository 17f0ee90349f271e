"""Blocks of a job's rows, with the digests by which a later process recognises the rows and their results."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any

from unrolled.engine.errors import JobError
from unrolled.runtime.jobs.job_file import BlockPart
from unrolled.runtime.jobs.prompt_rows import InputRow
from unrolled.runtime.jobs.records import row_bytes


@dataclass
class Block:
    """The rows of a block whose results are complete so far.

    Args:
        input, output: files of the job, for messages.
    """

    input: str
    output: str
    rows: int = 0
    index: int = -1  # of the last row
    lines: tuple[int, int] = (0, 0)  # input lines of the first and the last row
    digest: Any = field(default_factory=hashlib.sha256)  # of the rows
    results: Any = field(default_factory=hashlib.sha256)  # of the lines of the output

    def add(self, row: InputRow, lines: Iterable[bytes]) -> None:
        """Add a row and the lines of its results."""
        self.rows, self.index = self.rows + 1, row.index
        self.lines = (self.lines[0] or row.line, row.line)
        self.digest.update(row_bytes(row))
        for line in lines:
            self.results.update(line)

    def copy(self) -> Block:
        """Return an independent copy."""
        return replace(self, digest=self.digest.copy(), results=self.results.copy())

    def part(self) -> BlockPart:
        """Return the digests of the rows so far."""
        return BlockPart(self.digest.hexdigest(), self.results.hexdigest())

    def check(self, kept: BlockPart) -> None:
        """Raise a JobError unless the rows so far and their results have these digests."""
        now = self.part()
        if kept.rows != now.rows:
            raise self.other_rows()
        if kept.results != now.results:
            raise JobError(
                f"{self.output}: the results of {self._place()} were changed after they were written; "
                "--overwrite begins anew"
            )

    def other_rows(self) -> JobError:
        """Return the error of rows that differ from those that an earlier process read."""
        return JobError(
            f"{self.output}: was written for other rows, or other settings of rows, than are in {self._place()}; "
            "the input has changed: begin anew with --overwrite"
        )

    def _place(self) -> str:
        return f"{self.input} from line {self.lines[0]} to {self.lines[1]}"
