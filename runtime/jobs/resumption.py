"""Resume a job: find the first row whose results are not known to be complete, and check the results before it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import chain

from unrolled.engine.errors import JobError
from unrolled.engine.storage.json_text import to_json
from unrolled.runtime.jobs.job_writer import JobWriter
from unrolled.runtime.jobs.prompt_rows import InputRow, PromptRow
from unrolled.runtime.jobs.records import error_record, parse_line, result_line, same_result, stuck_record
from unrolled.runtime.jobs.result_files import ResultFile


def remaining_blocks(
    writer: JobWriter, blocks: Iterator[Iterator[InputRow]], results: ResultFile
) -> Iterator[Iterable[InputRow]]:
    """Yield the blocks that are left to write; the first may be the remaining rows of a block only."""
    for number, block in enumerate(blocks):
        left = _remaining_rows(writer, number, block, results)
        if left is not None:
            writer.progress.kept = writer.progress.rows
            yield left
            yield from blocks
            return
        writer.end_block()
    writer.progress.kept = writer.progress.rows
    writer.progress.complete = results.complete


def _remaining_rows(
    writer: JobWriter, number: int, block: Iterator[InputRow], results: ResultFile
) -> Iterator[InputRow] | None:
    """Return the rows of a block from the first whose results are missing, or not covered by a digest; None if there are none.

    The results and the counters of the writer are set back to the first of these rows.
    """
    before, so_far = replace(writer.progress), writer.block.copy()
    seen: list[InputRow] = []  # rows since then
    results.mark()
    whole = True
    for row in block:
        seen.append(row)
        whole = _is_kept(writer, row)
        if not whole:
            break
        if (part := results.part(writer.block.rows)) is not None:
            writer.block.check(part)
            before, so_far, seen = replace(writer.progress), writer.block.copy(), []
            results.mark()
    if not whole and results.complete:
        raise JobError(
            f"{results.path}: was complete, and has no results of {writer.job.input}, line {seen[-1].line}; "
            "the input or the output has changed: begin anew with --overwrite"
        )
    # A block without a digest may have been written with other settings, even if all its lines are there.
    known = results.blocks is None or number < results.blocks or not seen
    if whole and known:
        return None
    results.rewind()
    writer.progress.rows, writer.progress.errors, writer.block = before.rows, before.errors, so_far
    return chain(seen, block)


def _is_kept(writer: JobWriter, row: InputRow) -> bool:
    """Read the kept lines of a row, count it, and return True; False if lines are missing.

    Raises:
        JobError: the lines belong to another row.
    """
    failed, several = False, writer.config.num_return_sequences
    lines: list[bytes] = []
    for sample in range(several):
        line = writer.results.kept_line()
        if line is None:
            return False
        lines.append(line)
        record = parse_line(line)
        only = False  # the record is the only one of its row
        if "error" in record:
            requests, error = writer.prepare(row)
            only, failed = error is not None, True
            settings = () if only else requests[0].config.rules.extras
            wanted = error_record(row, error) if only else stuck_record(row, sample, several, settings)
            good = same_result(line, result_line(wanted))
        else:
            good = isinstance(row, PromptRow) and (record.get("id"), record.get("prompt")) == (row.id, row.prompt)
            good = good and record.get("sample", 0) == sample
        if not good:
            raise JobError(
                f"{writer.job.output}: {to_json(record)[:80]} is not of {writer.job.input}, line {row.line}; "
                "the input has changed: begin anew with --overwrite"
            )
        if only:
            break
    writer.progress.errors += failed
    writer.count(row, lines)
    return True
