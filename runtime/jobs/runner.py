"""Run a job: a file of prompts in, a file of texts out, in the order of the rows, in constant memory, resumable.

Results are JSON lines, one a text:

    {"id": …, "prompt": …, "text": …, "finish_reason": …, "tokens": number of tokens}

with ``sample`` after the id if a prompt has several texts, and ``token_ids`` and ``logprobs`` if they are asked for. A row
that cannot be served is {"id", "line", "error"} in its place, and so is a text (with ``sample`` if there are several) whose
settings ban every next token. A record without an error is complete.

The .job file beside the results identifies the job: the model, the settings, and digests of the finished rows, including
their own settings, which the lines do not show. Rows are written in blocks: all slots are empty at the beginning and the end
of a block. Each block has a digest; while it is being written its first rows have digests too, every few rows. A resumed
job checks that the rows are the same and continues after the last of these digests; results after it are generated again
and must come out the same. This relies on rows whose bits do not depend on their neighbours (``batch_invariance``).
"""

from __future__ import annotations

from itertools import groupby
from pathlib import Path

from unrolled.engine.errors import JobError
from unrolled.engine.models.step_contract import LoadedModel
from unrolled.engine.signals import DeferredInterrupt
from unrolled.runtime.generation.requests.config import GenerationConfig
from unrolled.runtime.generation.requests.request import resolve
from unrolled.runtime.jobs.job import Job, JobObserver, Progress, identity
from unrolled.runtime.jobs.job_writer import BLOCK_ROWS_PER_LANE, JobWriter
from unrolled.runtime.jobs.prompt_files import PromptFile
from unrolled.runtime.jobs.result_files import ResultFile, open_results
from unrolled.runtime.jobs.resumption import remaining_blocks
from unrolled.runtime.models.argument_checks import check_language_model


def run_job(
    model: LoadedModel, job: Job, config: GenerationConfig | None = None, observer: JobObserver | None = None
) -> Progress:
    """Generate texts for all prompts of a file; Ctrl-C or SIGTERM end it early, with whole lines written.

    Args:
        model: from ``load``, or any StepModel.
        job: input, output and how rows are served.
        config: settings of rows without settings of their own; ``batch_size`` has no effect.
        observer: called several times a second, and at the end.

    Returns:
        The counters at the end.

    Raises:
        PromptFileError: the input cannot be read at all.
        UnknownTokenError, ConfigError: the settings name something that the vocabulary does not have.
        ConfigError: the model writes no texts.
        JobError: the output cannot be started, resumed or written; or ``strict`` is set, and a row cannot be served.
    """
    model, config = check_language_model(model), config or GenerationConfig()
    resolved = resolve(model, config)
    opened = PromptFile(job.input, job.format, table=job.table, keep_columns=job.keep_columns)
    with opened as prompts, DeferredInterrupt() as interrupt:
        if prompts.path is not None and Path(job.output).exists() and prompts.path.samefile(job.output):
            raise JobError(f"{job.output}: is the input; the output needs another name")
        results = open_results(job.output, identity(model, job, config, prompts), job.resume, job.overwrite)
        try:
            writer = JobWriter(model, job, resolved, results, interrupt, observer or (lambda _: None))
            _write_blocks(writer, prompts)
        finally:
            results.close()
    return writer.progress


def _write_blocks(writer: JobWriter, prompts: PromptFile) -> None:
    """Write the blocks of the job's shard, those that an earlier process wrote left out."""
    (which, of), size = writer.job.shard, BLOCK_ROWS_PER_LANE * writer.job.lanes
    lines = prompts.count_lines()
    writer.progress.total = None if lines is None else len(range(which, lines, of))
    rows = (row for row in prompts if row.index % of == which)
    blocks = (block for _, block in groupby(rows, key=lambda row: row.index // size))
    left = remaining_blocks(writer, blocks, writer.results) if isinstance(writer.results, ResultFile) else blocks
    try:
        for block in left:
            writer.write(block)
        writer.results.finish()
    except KeyboardInterrupt:
        writer.progress.interrupted = True
    writer.progress.blank_lines, writer.progress.quoted = prompts.blank_lines, prompts.quoted
    writer.show(last=True)
