"""Define ``unrolled generate``: generate texts, for prompts or a file of prompts."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict
from typing import Annotated, Any

import typer

from unrolled.cli.options import shared as options
from unrolled.cli.options.decoding import DRAWING, DecodingOptions, SearchOptions
from unrolled.cli.options.engines import EngineOptions
from unrolled.cli.options.groups import with_groups
from unrolled.cli.options.jobs import NEEDS_INPUT, JobOptions
from unrolled.cli.options.refusals import refuse_unused
from unrolled.cli.terminal.console import err, print_json
from unrolled.cli.terminal.exit_codes import INTERRUPTED, SOME_ROWS_FAILED
from unrolled.cli.terminal.job_display import JobDisplay, job_summary
from unrolled.engine.data.readers.table_format import TableFormat
from unrolled.engine.errors import ConfigError
from unrolled.engine.models.step_contract import StepModel
from unrolled.engine.settings import from_options
from unrolled.engine.tokenizers.contract import Tokenizer
from unrolled.runtime import BeamConfig, Generation, GenerationConfig, beam_search, generate
from unrolled.runtime.jobs.job import Job
from unrolled.runtime.jobs.result_files import STDOUT
from unrolled.runtime.jobs.runner import run_job


@with_groups
def generate_text(
    context: typer.Context,
    model: options.Model,
    prompt: options.Prompts = None,
    greedy: Annotated[bool, typer.Option("--greedy", help="Always the most probable token, no drawing.")] = False,
    json: options.Json = False,
    *,
    settings: DecodingOptions,
    search: SearchOptions,
    job: JobOptions,
    engine: EngineOptions,
) -> None:
    r"""Write text behind one or several prompts, or behind all of a file.

    In a prompt and in texts of options \n is a line end, \t a tab and \\ a backslash.
    Without a prompt a line end (or <bos>) begins the text.
    An empty prompt (-p '') needs a model with <bos>: --batching records trains one.

    With --input, exit codes are 0: done; 2: bad usage or input, or the output cannot be written; 3: done, but some rows
    became error records; 130: interrupted, and what is written is whole lines.
    """
    input, beams = job["input"], search.settings
    _check_combination(context, prompt, input, bool(beams), greedy, settings["logprobs"] and not json)
    if not input:
        prompts = [options.unescape(text) for text in prompt or []]
        _write_texts(engine.load(model), prompts, settings, beams, greedy, json)
        return
    if beams:
        raise ConfigError(
            "--num-beams, input: got both; a file of prompts is written by drawing or greedily, beams go with --prompt"
        )
    rows = from_options(Job, job, precision=engine.precision, table=from_options(TableFormat, job))
    config = GenerationConfig(do_sample=not greedy, **settings)
    _write_job(engine.load(model), rows, config, json)


def _check_combination(
    context: typer.Context,
    prompt: list[str] | None,
    input: str | None,
    beams: bool,
    greedy: bool,
    unplaced_logprobs: bool,
) -> None:
    """Refuse options that exclude each other or have no effect together.

    Args:
        unplaced_logprobs: log-probabilities were asked for, and the output is not JSON.
    """
    if prompt and input:
        raise ConfigError("prompt, input: got both; a prompt can be a line of the file")
    if not input:
        refuse_unused(context, NEEDS_INPUT, "only with --input, which names a file of prompts")
        if unplaced_logprobs:
            raise ConfigError("logprobs: they go with --json or --input; a text alone has no place for them")
    if beams:
        refuse_unused(context, DRAWING, "a search with beams draws nothing")
    elif greedy and not input:
        refuse_unused(context, DRAWING, "greedy writing draws nothing")


def _write_texts(
    model: StepModel, prompts: list[str], settings: dict[str, Any], beams: dict[str, Any], greedy: bool, json: bool
) -> None:
    """Generate and print texts after each prompt; without prompts after the model's usual start."""
    prompts = prompts or [model.tokenizer.start_prompt()]
    started = time.perf_counter()
    if beams:
        texts: Sequence[Generation] = beam_search(model, prompts, BeamConfig(**settings, **beams))
    else:
        texts = generate(model, prompts, GenerationConfig(do_sample=not greedy, **settings))
    seconds = time.perf_counter() - started
    if json:
        tokens = sum(len(text.tokens) for text in texts)
        speed = {"tokens": tokens, "seconds": seconds, "tokens_per_s": tokens / seconds}
        print_json({"engine": model.engine, **speed, "texts": [asdict(text) for text in texts]})
        return
    _print_texts(model.tokenizer, texts)


def _write_job(model: StepModel, job: Job, config: GenerationConfig, json: bool) -> None:
    """Run a job, print its results, and exit with its code unless that is 0."""
    if json and job.output == STDOUT:
        raise ConfigError("json: standard output is for the results; name a file with --output")
    with JobDisplay(err) as display:
        progress = run_job(model, job, config, display)
    if json:
        speed = progress.tokens / max(progress.seconds, 1e-9)
        print_json({"engine": model.engine, "output": job.output, **asdict(progress), "tokens_per_s": speed})
    else:
        err.print(job_summary(progress, job.output))
    if progress.interrupted:
        raise typer.Exit(INTERRUPTED)
    if progress.errors:
        raise typer.Exit(SOME_ROWS_FAILED)


def _print_texts(tokenizer: Tokenizer, texts: Sequence[Generation]) -> None:
    for place, text in enumerate(texts):
        if place > 0:
            print("-" * 40)
        print(text.prompt + tokenizer.separator(text.prompt, text.text) + text.text)
