"""Define ``unrolled generate``: generate texts, for prompts or a file of prompts."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict
from typing import Annotated, Any

import typer

from unrolled.cli.options import decoding, jobs
from unrolled.cli.options import shared as options
from unrolled.cli.terminal.console import err, print_json
from unrolled.cli.terminal.exit_codes import INTERRUPTED, SOME_ROWS_FAILED
from unrolled.cli.terminal.job_display import JobDisplay, job_summary
from unrolled.engine.data.readers.table_format import TableFormat
from unrolled.engine.errors import ConfigError
from unrolled.engine.models.step_contract import StepModel
from unrolled.engine.tokenizers.contract import Tokenizer
from unrolled.runtime import BeamConfig, Generation, GenerationConfig, beam_search, generate, load
from unrolled.runtime.generation.requests.row_settings import MAX_PROMPT_TOKENS
from unrolled.runtime.jobs.job import Job
from unrolled.runtime.jobs.result_files import STDOUT
from unrolled.runtime.jobs.runner import run_job


def generate_text(
    context: typer.Context,
    model: options.Model,
    prompt: options.Prompts = None,
    max_new_tokens: Annotated[int, typer.Option(help="The most tokens written behind a prompt.")] = 200,
    greedy: Annotated[bool, typer.Option("--greedy", help="Always the most probable token, no drawing.")] = False,
    temperature: decoding.Temperature = 1.0,
    top_k: decoding.TopK = 0,
    top_p: decoding.TopP = 1.0,
    min_p: decoding.MinP = 0.0,
    typical_p: decoding.TypicalP = 1.0,
    repetition_penalty: decoding.RepetitionPenalty = 1.0,
    no_repeat_ngram_size: decoding.NoRepeatNgramSize = 0,
    bad_word: decoding.BadWords = None,
    suppress_token: decoding.SuppressTokens = None,
    bias: decoding.Bias = None,
    min_new_tokens: decoding.MinNewTokens = 0,
    forced_prefix: decoding.ForcedPrefix = "",
    stop: decoding.Stop = None,
    logprobs: decoding.Logprobs = False,
    num_beams: decoding.NumBeams = 1,
    length_penalty: decoding.LengthPenalty = 1.0,
    early_stopping: decoding.EarlyStopping = "false",
    number: Annotated[int, typer.Option("-n", "--number", help="Texts for each prompt.")] = 1,
    input: jobs.PromptsInput = None,
    output: jobs.ResultsOutput = STDOUT,
    format: jobs.PromptsFormat = None,
    delimiter: options.Delimiter = None,
    quoting: options.Quoting = None,
    header: options.Header = None,
    lanes: jobs.JobLanes = Job.lanes,
    resume: jobs.Resume = False,
    overwrite: jobs.OverwriteResults = False,
    strict: jobs.Strict = False,
    shard: jobs.Shard = "0/1",
    token_ids: jobs.TokenIds = False,
    keep_columns: jobs.KeepColumns = False,
    max_prompt_tokens: jobs.MaxPromptTokens = MAX_PROMPT_TOKENS,
    seed: options.Seed = 0,
    engine: options.Engine = None,
    precision: options.Precision = "float32",
    json: options.Json = False,
) -> None:
    r"""Write text behind one or several prompts, or behind all of a file.

    In a prompt and in texts of options \n is a line end, \t a tab and \\ a backslash.
    Without a prompt a line end (or <bos>) begins the text.
    An empty prompt (-p '') needs a model with <bos>: --batching records trains one.

    With --input, exit codes are 0: done; 2: bad usage or input, or the output cannot be written; 3: done, but some rows
    became error records; 130: interrupted, and what is written is whole lines.
    """
    _check_combination(context, prompt, input, num_beams, greedy, logprobs and not json)
    settings: dict[str, Any] = {
        "temperature": temperature,
        "top_k": top_k,
        "top_p": top_p,
        "seed": seed,
        "min_p": min_p,
        "typical_p": typical_p,
        "repetition_penalty": repetition_penalty,
        "no_repeat_ngram_size": no_repeat_ngram_size,
        "bad_words": options.unescape_all(bad_word),
        "suppress_tokens": options.unescape_all(suppress_token),
        "sequence_bias": decoding.biases(bias),
        "min_new_tokens": min_new_tokens,
        "forced_prefix": options.unescape(forced_prefix),
        "max_new_tokens": max_new_tokens,
        "stop": options.unescape_all(stop),
        "num_return_sequences": number,
        "logprobs": logprobs,
    }
    beams = decoding.beams(num_beams, length_penalty, early_stopping)
    if input:
        if beams:
            raise ConfigError(
                "--num-beams, input: got both; a file of prompts is written by drawing or greedily, beams go with --prompt"
            )
        job = Job(
            input,
            output,
            format,
            lanes=lanes,
            shard=jobs.parse_shard(shard),
            token_ids=token_ids,
            max_prompt_tokens=max_prompt_tokens,
            precision=precision,
            strict=strict,
            resume=resume,
            overwrite=overwrite,
            table=TableFormat(delimiter, quoting, header is not False),
            keep_columns=keep_columns,
        )
        config = GenerationConfig(do_sample=not greedy, **settings)
        _write_job(load(model, engine, precision), job, config, json)
        return
    prompts = [options.unescape(text) for text in prompt or []]
    _write_texts(load(model, engine, precision), prompts, settings, beams, greedy, json)


def _check_combination(
    context: typer.Context,
    prompt: list[str] | None,
    input: str | None,
    num_beams: int,
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
        options.refuse_unused(context, jobs.OF_JOBS, "only with --input, which names a file of prompts")
        if unplaced_logprobs:
            raise ConfigError("logprobs: they go with --json or --input; a text alone has no place for them")
    if num_beams > 1:
        options.refuse_unused(context, decoding.DRAWING, "a search with beams draws nothing")
    elif greedy and not input:
        options.refuse_unused(context, decoding.DRAWING, "greedy writing draws nothing")


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
