"""Jobs: a file of prompts in, a file of texts out, in the order of the rows, in constant memory, resumable.

Results are JSON lines, one a text:

    {"id": …, "prompt": …, "text": …, "finish_reason": …, "tokens": how many}

with ``sample`` behind the id where a prompt has several texts, and ``token_ids`` and ``logprobs`` where asked for. A row
that cannot be served is {"id", "line", "error"} in its place, and so is a text (with ``sample`` where there are several) that
its settings leave no token to go on with: all that has no error is whole.

What identifies a job lies in the .job file beside the results: the model, the settings, and digests of the rows that are over,
settings of their own included, which the lines do not show. Rows are written in blocks: the lanes are empty at the beginning
and the end of each. A block has a digest, and while it is written so have its first rows, every few rows. A job that is
resumed checks that the rows are the same and goes on after the last of these digests; results after it are written once more
and must come out the same. It relies on rows whose bits do not depend on their neighbours (``rowwise``).
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from itertools import chain, groupby
from pathlib import Path

from unrolled.engine.errors import JobError, UnrolledError
from unrolled.engine.models.step_contract import StepModel
from unrolled.engine.signals import DeferredInterrupt
from unrolled.engine.storage.json_text import to_json
from unrolled.runtime.generation.requests.config import GenerationConfig
from unrolled.runtime.generation.requests.row_settings import row_requests
from unrolled.runtime.generation.requests.rows import NOTHING_LEFT, Generation, Request, resolve
from unrolled.runtime.generation.scheduler.scheduler import write_rows
from unrolled.runtime.jobs.blocks import Block
from unrolled.runtime.jobs.job import Job, Observer, Progress, identity
from unrolled.runtime.jobs.prompt_files import BadRow, PromptFile, PromptRow, Row
from unrolled.runtime.jobs.records import (
    Record,
    error_record,
    parse_line,
    same_result,
    stuck_record,
    text_record,
    to_line,
)
from unrolled.runtime.jobs.result_files import ResultFile, Results, open_results

BLOCK = 32  # rows for each lane in a block: lanes that run empty at its end cost some percent
PROGRESS_S = 0.1  # between two calls of the observer


@dataclass
class _Waiting:
    """A row whose turn to be written comes: an error, or texts that are not all there."""

    row: Row
    error: str | None = None
    settings: tuple[str, ...] = ()  # that may ban tokens
    written: int = 0  # texts
    failed: bool = False  # whether one of them is an error


@dataclass
class _Run:
    """A job at work: rows go in, lines come out."""

    model: StepModel
    job: Job
    config: GenerationConfig
    results: Results
    interrupt: DeferredInterrupt
    observer: Observer
    progress: Progress
    waiting: deque[_Waiting] = field(default_factory=deque)
    lines: list[bytes] = field(default_factory=list)  # of the row whose texts are not all there
    refused: JobError | None = None  # the row at which a strict job ends
    block: Block = field(init=False)

    def __post_init__(self) -> None:
        self.started = self.shown = time.perf_counter()
        self.block = Block(self.job.input, self.job.output)

    def end_block(self) -> None:
        """End a block whose results are all there.

        Raises:
            JobError: its rows are not those that an earlier process read, or the input ends here and the output does not.
        """
        with self.interrupt.deferred():
            if not self.results.end_block(self.block.digest.hexdigest(), self._is_last()):
                raise self.block.other_rows()
            self.block = Block(self.job.input, self.job.output)

    def _is_last(self) -> bool:
        """Return whether the input ended inside the block."""
        size = BLOCK * self.job.lanes
        return (self.block.index + self.job.shard[1]) // size == self.block.index // size

    def _end_part(self) -> None:
        if (part := self.results.part(self.block.rows)) is not None:
            self.block.check(part)
        elif self.block.rows:
            self.results.end_part(self.block.rows, self.block.part())

    def write(self, rows: Iterable[Row]) -> None:
        """Write a block, or what is left of it."""
        try:
            for generation in write_rows(self.model, self._requests(rows), self.job.lanes):
                with self.interrupt.deferred():  # what is written is counted, too
                    self._take(generation)
                self._write_errors()
            self._write_errors()
        except KeyboardInterrupt:
            self._end_part()
            raise
        if self.refused is not None:
            raise self.refused
        self.end_block()

    def _requests(self, rows: Iterable[Row]) -> Iterator[Request]:
        for row in rows:
            requests, error = self._prepare(row)
            if error is None:
                self.waiting.append(_Waiting(row, settings=requests[0].config.rules.extras))
                yield from requests
            elif self.job.strict:
                self.refused = JobError(f"{self.job.input}, line {row.line}: {error}")
                return
            else:
                self.waiting.append(_Waiting(row, error))
                self._write_errors()

    def _prepare(self, row: Row) -> tuple[list[Request], str | None]:
        """The requests of a row, or why it cannot be served."""
        if isinstance(row, BadRow):
            return [], row.error
        try:
            most = self.job.max_prompt_tokens
            return row_requests(self.model, row.prompt, row.index, self.config, row.overrides, most), None
        except UnrolledError as error:
            return [], str(error)

    def _take(self, generation: Generation) -> None:
        """Write a text, which is one of the row that has waited longest."""
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
            self._row_is_over(waiting.row)

    def _write_errors(self) -> None:
        while self.waiting and self.waiting[0].error is not None:
            self._write_error()

    def _write_error(self) -> None:
        with self.interrupt.deferred():
            waiting = self.waiting.popleft()
            self._write_line(error_record(waiting.row, waiting.error))
            self.progress.errors += 1
            self._row_is_over(waiting.row)

    def _write_line(self, record: Record) -> None:
        self.lines.append(self.results.write(to_line(record)))

    def _row_is_over(self, row: Row) -> None:
        self._count(row, self.lines)
        self.lines = []
        if self.block.rows % self.job.lanes == 0:
            self._end_part()
        self.show()

    def _count(self, row: Row, lines: Iterable[bytes]) -> None:
        """Count a row whose results are all there."""
        self.progress.rows += 1
        self.block.add(row, lines)

    def show(self, last: bool = False) -> None:
        now = time.perf_counter()
        if last or now - self.shown >= PROGRESS_S:
            self.shown, self.progress.seconds = now, now - self.started
            self.observer(self.progress)

    def is_kept(self, row: Row) -> bool:
        """Whether the results of a row are all there.

        Raises:
            JobError: those of another row are.
        """
        failed, several = False, self.config.num_return_sequences
        lines: list[bytes] = []
        for sample in range(several):
            line = self.results.kept_line()
            if line is None:
                return False
            lines.append(line)
            record = parse_line(line)
            whole = False  # whether the record is all that there is of the row
            if "error" in record:
                requests, error = self._prepare(row)
                whole, failed = error is not None, True
                settings = () if whole else requests[0].config.rules.extras
                wanted = error_record(row, error) if whole else stuck_record(row, sample, several, settings)
                good = same_result(line, to_line(wanted))
            else:
                good = isinstance(row, PromptRow) and (record.get("id"), record.get("prompt")) == (row.id, row.prompt)
                good = good and record.get("sample", 0) == sample
            if not good:
                raise JobError(
                    f"{self.job.output}: {to_json(record)[:80]} is not of {self.job.input}, line {row.line}; "
                    "the input has changed: begin anew with --overwrite"
                )
            if whole:
                break
        self.progress.errors += failed
        self._count(row, lines)
        return True


def _resumed(run: _Run, blocks: Iterator[Iterator[Row]], results: ResultFile) -> Iterator[Iterable[Row]]:
    """Yield the blocks that are left to write; of the first of them, perhaps, only the rows that are left."""
    for number, block in enumerate(blocks):
        left = _rows_left(run, number, block, results)
        if left is not None:
            run.progress.kept = run.progress.rows
            yield left
            yield from blocks
            return
        run.end_block()
    run.progress.kept = run.progress.rows
    run.progress.complete = results.complete


def _rows_left(run: _Run, number: int, block: Iterator[Row], results: ResultFile) -> Iterator[Row] | None:
    """Return the rows of a block from the first whose results are not there, or not known to be those of this row.

    None: there are no such rows. The results go on, and the run counts, from before the rows that are returned.
    """
    before, so_far = replace(run.progress), run.block.copy()
    seen: list[Row] = []  # since then
    results.mark()
    whole = True
    for row in block:
        seen.append(row)
        whole = run.is_kept(row)
        if not whole:
            break
        if (part := results.part(run.block.rows)) is not None:
            run.block.check(part)
            before, so_far, seen = replace(run.progress), run.block.copy(), []
            results.mark()
    if not whole and results.complete:
        raise JobError(
            f"{results.path}: was complete, and has no results of {run.job.input}, line {seen[-1].line}; "
            "the input or the output has changed: begin anew with --overwrite"
        )
    # Even with all its lines there, a block without a digest may be of other settings.
    known = results.blocks is None or number < results.blocks or not seen
    if whole and known:
        return None
    results.rewind()
    run.progress.rows, run.progress.errors, run.block = before.rows, before.errors, so_far
    return chain(seen, block)


def run_job(
    model: StepModel, job: Job, config: GenerationConfig | None = None, observer: Observer | None = None
) -> Progress:
    """Write texts behind all prompts of a file; Ctrl-C or SIGTERM end it early, with whole lines written.

    Args:
        model: from ``load``, or any StepModel.
        job: what is read and written.
        config: of all rows that do not say otherwise; ``batch_size`` has no effect.
        observer: called some times a second, and at the end.

    Returns:
        How far it came.

    Raises:
        PromptFileError: the input cannot be read at all.
        UnknownTokenError, ConfigError: the vocabulary has not what the settings of all rows name.
        JobError: the output cannot be begun, gone on with or written; or ``strict``, and a row cannot be served.
    """
    config = config or GenerationConfig()
    resolved = resolve(model, config)
    opened = PromptFile(job.input, job.format, table=job.table, keep_columns=job.keep_columns)
    with opened as prompts, DeferredInterrupt() as interrupt:
        if prompts.path is not None and Path(job.output).exists() and prompts.path.samefile(job.output):
            raise JobError(f"{job.output}: is the input; the output needs another name")
        results = open_results(job.output, identity(model, job, config, prompts), job.resume, job.overwrite)
        try:
            run = _Run(model, job, resolved, results, interrupt, observer or (lambda _: None), Progress())
            _run(run, prompts)
        finally:
            results.close()
    return run.progress


def _run(run: _Run, prompts: PromptFile) -> None:
    (which, of), size = run.job.shard, BLOCK * run.job.lanes
    lines = prompts.count_lines()
    run.progress.total = None if lines is None else len(range(which, lines, of))
    rows = (row for row in prompts if row.index % of == which)
    blocks = (block for _, block in groupby(rows, key=lambda row: row.index // size))
    left = _resumed(run, blocks, run.results) if isinstance(run.results, ResultFile) else blocks
    try:
        for block in left:
            run.write(block)
        run.results.finish()
    except KeyboardInterrupt:
        run.progress.interrupted = True
    run.progress.blank_lines, run.progress.quoted = prompts.blank_lines, prompts.quoted
    run.show(last=True)
