"""Write the results of a job's rows in order, count them, and end blocks."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from unrolled.engine.errors import JobError, UnrolledError
from unrolled.engine.models.step_contract import StepModel
from unrolled.engine.signals import DeferredInterrupt
from unrolled.runtime.generation.requests.config import GenerationConfig
from unrolled.runtime.generation.requests.generation import NOTHING_LEFT, Generation
from unrolled.runtime.generation.requests.request import Request
from unrolled.runtime.generation.requests.row_settings import row_requests
from unrolled.runtime.generation.scheduler.scheduler import write_rows
from unrolled.runtime.jobs.blocks import Block
from unrolled.runtime.jobs.job import Job, JobObserver, Progress
from unrolled.runtime.jobs.prompt_rows import BadRow, InputRow
from unrolled.runtime.jobs.records import ResultRecord, error_record, result_line, stuck_record, text_record
from unrolled.runtime.jobs.result_streams import Results

# Rows of a block for each of the job's lanes, which are slots of the scheduler: those that run empty at the end of a block
# cost a few percent.
BLOCK_ROWS_PER_LANE = 32
PROGRESS_S = 0.1  # minimal time between two calls of the observer


@dataclass
class _WaitingRow:
    """A row whose results are written next: an error, or texts of which some are missing."""

    row: InputRow
    error: str | None = None
    settings: tuple[str, ...] = ()  # those that may ban tokens
    written: int = 0  # texts
    failed: bool = False  # one of the texts is an error


@dataclass
class JobWriter:
    """A running job: takes rows, generates their texts and writes the lines of their results."""

    model: StepModel
    job: Job
    config: GenerationConfig
    results: Results
    interrupt: DeferredInterrupt
    observer: JobObserver
    progress: Progress = field(default_factory=Progress)
    waiting: deque[_WaitingRow] = field(default_factory=deque)
    lines: list[bytes] = field(default_factory=list)  # of the row whose results are not complete
    refused: JobError | None = None  # the error that ends a strict job
    block: Block = field(init=False)

    def __post_init__(self) -> None:
        self.started = self.shown = time.perf_counter()
        self.block = Block(self.job.input, self.job.output)

    def end_block(self) -> None:
        """End a block whose results are complete.

        Raises:
            JobError: its rows differ from those that an earlier process read, or the output continues after the end of the
                input.
        """
        with self.interrupt.deferred():
            if not self.results.end_block(self.block.digest.hexdigest(), self._is_last()):
                raise self.block.other_rows()
            self.block = Block(self.job.input, self.job.output)

    def _is_last(self) -> bool:
        """Return whether the input ended inside the block."""
        size = BLOCK_ROWS_PER_LANE * self.job.lanes
        return (self.block.index + self.job.shard[1]) // size == self.block.index // size

    def _end_part(self) -> None:
        """Check the digests of the block's rows so far against kept ones, or store them."""
        if (part := self.results.part(self.block.rows)) is not None:
            self.block.check(part)
        elif self.block.rows:
            self.results.end_part(self.block.rows, self.block.part())

    def write(self, rows: Iterable[InputRow]) -> None:
        """Write the results of the remaining rows of a block, and end the block."""
        try:
            for generation in write_rows(self.model, self._requests(rows), self.job.lanes):
                with self.interrupt.deferred():  # a line and its count belong together
                    self._take(generation)
                self._write_errors()
            self._write_errors()
        except KeyboardInterrupt:
            self._end_part()
            raise
        if self.refused is not None:
            raise self.refused
        self.end_block()

    def _requests(self, rows: Iterable[InputRow]) -> Iterator[Request]:
        """Yield the requests of rows; a row that cannot be served yields none, and ends a strict job."""
        for row in rows:
            requests, error = self.prepare(row)
            if error is None:
                self.waiting.append(_WaitingRow(row, settings=requests[0].config.rules.extras))
                yield from requests
            elif self.job.strict:
                self.refused = JobError(f"{self.job.input}, line {row.line}: {error}")
                return
            else:
                self.waiting.append(_WaitingRow(row, error))
                self._write_errors()

    def prepare(self, row: InputRow) -> tuple[list[Request], str | None]:
        """Return the requests of a row, or the reason why it cannot be served."""
        if isinstance(row, BadRow):
            return [], row.error
        try:
            most = self.job.max_prompt_tokens
            return row_requests(self.model, row.prompt, row.index, self.config, row.overrides, most), None
        except UnrolledError as error:
            return [], str(error)

    def _take(self, generation: Generation) -> None:
        """Write a text, which belongs to the row that has waited longest."""
        while self.waiting[0].error is not None:
            self._write_error()
        waiting, several = self.waiting[0], self.config.num_return_sequences
        if generation.finish_reason == NOTHING_LEFT:
            waiting.failed = True
            record = stuck_record(waiting.row, waiting.written, several, waiting.settings)
            if self.job.strict:
                raise JobError(f"{self.job.input}, line {waiting.row.line}: {record['error']}")
            self._write_line(record)
        else:
            self._write_line(text_record(waiting.row, waiting.written, several, generation, self.job.token_ids))
            self.progress.texts += 1
            self.progress.tokens += len(generation.tokens)
        waiting.written += 1
        if waiting.written == several:
            self.progress.errors += waiting.failed
            self.waiting.popleft()
            self._finish_row(waiting.row)

    def _write_errors(self) -> None:
        """Write the errors at the head of the queue."""
        while self.waiting and self.waiting[0].error is not None:
            self._write_error()

    def _write_error(self) -> None:
        with self.interrupt.deferred():
            waiting = self.waiting.popleft()
            self._write_line(error_record(waiting.row, waiting.error))
            self.progress.errors += 1
            self._finish_row(waiting.row)

    def _write_line(self, record: ResultRecord) -> None:
        self.lines.append(self.results.write(result_line(record)))

    def _finish_row(self, row: InputRow) -> None:
        self.count(row, self.lines)
        self.lines = []
        if self.block.rows % self.job.lanes == 0:
            self._end_part()
        self.show()

    def count(self, row: InputRow, lines: Iterable[bytes]) -> None:
        """Count a row whose results are complete."""
        self.progress.rows += 1
        self.block.add(row, lines)

    def show(self, last: bool = False) -> None:
        """Call the observer if its time has come, or it is the ``last`` call."""
        now = time.perf_counter()
        if last or now - self.shown >= PROGRESS_S:
            self.shown, self.progress.seconds = now, now - self.started
            self.observer(self.progress)
