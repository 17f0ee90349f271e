"""``unrolled generate --input``: options, progress and summary of a job."""

from __future__ import annotations

import re
import time
from dataclasses import asdict
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, TextColumn
from rich.progress import Progress as Bar

from unrolled.cli.options import shared as options
from unrolled.cli.terminal.console import err, print_json, rate
from unrolled.cli.terminal.exit_codes import INTERRUPTED, SOME_ROWS_FAILED
from unrolled.cli.terminal.training_display import clock
from unrolled.engine.data.readers import quotes_kept
from unrolled.engine.errors import ConfigError
from unrolled.engine.models.step_contract import StepModel
from unrolled.runtime.generation.requests.config import GenerationConfig
from unrolled.runtime.jobs.prompt_files import ENDINGS, PROMPT_FORMATS
from unrolled.runtime.jobs.result_files import STDOUT
from unrolled.runtime.jobs.runner import Job, Progress, run_job

PLAIN_S = 10.0  # between two lines of progress where there is no terminal
PANEL = "Many prompts"
OF_JOBS = (
    "output", "format", "delimiter", "quoting", "header", "resume", "overwrite", "strict", "keep_columns", "token_ids",
    "shard", "lanes", "max_prompt_tokens",
)  # fmt: skip

Input = Annotated[
    str | None,
    typer.Option(
        "--input",
        "-i",
        metavar="FILE",
        help=f"Prompts: {', '.join(ENDINGS)}, each also .gz or .zst, or - for standard input. "
        "Fields beside prompt and id are settings of the row; others need --keep-columns. Not with beams.",
        rich_help_panel=PANEL,
    ),
]
Output = Annotated[
    str,
    typer.Option(
        "--output",
        "-o",
        metavar="FILE",
        help="Results, a JSON object a line; - is standard output.",
        rich_help_panel=PANEL,
    ),
]
Format = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help=f"Of the input. {options.one_of(PROMPT_FORMATS)} {options.default('by its ending; of standard input jsonl')}",
        rich_help_panel=PANEL,
    ),
]
Lanes = Annotated[int, typer.Option(help="Texts written side by side.", rich_help_panel=PANEL)]
Resume = Annotated[
    bool, typer.Option("--resume", help="Go on where an earlier run stopped, or begin.", rich_help_panel=PANEL)
]
Overwrite = Annotated[
    bool, typer.Option("--overwrite", help="Begin anew though the output exists.", rich_help_panel=PANEL)
]
Strict = Annotated[
    bool,
    typer.Option("--strict", help="End at the first row that cannot be served, exit code 2.", rich_help_panel=PANEL),
]
Shard = Annotated[
    str,
    typer.Option(
        metavar="I/N",
        help="Only the rows whose number from 0 leaves I when divided by N; the texts are those of the whole.",
        rich_help_panel=PANEL,
    ),
]
TokenIds = Annotated[bool, typer.Option("--token-ids", help="Also say which tokens were drawn.", rich_help_panel=PANEL)]
KeepColumns = Annotated[
    bool,
    typer.Option(
        "--keep-columns",
        help="Carry columns and fields that are neither id, prompt nor a setting to the results.",
        rich_help_panel=PANEL,
    ),
]
MaxPromptTokens = Annotated[
    int, typer.Option(help="A row with a longer prompt becomes an error record.", rich_help_panel=PANEL)
]


def parse_shard(text: str) -> tuple[int, int]:
    """ "I/N" as two numbers."""
    match = re.fullmatch(r"(\d+)/(\d+)", text)
    if match is None:
        raise ConfigError(f"shard: got {text!r}, needs I/N with I from 0 to N - 1, for instance 0/4")
    return int(match[1]), int(match[2])


class JobDisplay:
    """Rows, tokens/s and time left: a live line in a terminal, a plain line every ten seconds elsewhere."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self._bar = Bar(
            BarColumn(bar_width=20),
            TextColumn("{task.fields[figures]}"),
            console=console,
            disable=not console.is_terminal,
            transient=True,
        )
        self._task = self._bar.add_task("", total=None, figures="")
        self._shown = time.perf_counter()

    def __enter__(self) -> JobDisplay:
        self._bar.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._bar.stop()

    def __call__(self, progress: Progress) -> None:
        if self.console.is_terminal:
            self._bar.update(self._task, completed=progress.rows, total=progress.total, figures=figures(progress))
        elif time.perf_counter() - self._shown >= PLAIN_S:
            self._shown = time.perf_counter()
            self.console.print(figures(progress))


def figures(progress: Progress) -> str:
    """How far a job is, in a line; rows that an earlier run wrote say nothing of the speed."""
    done = progress.rows - progress.kept
    speed = progress.tokens / max(progress.seconds, 1e-9)
    text = f"{progress.rows:,}"
    if progress.total is not None:
        text += f" of {max(progress.total, progress.rows):,}"
    text += f" rows  {rate(speed)} tokens/s"
    if progress.total is not None and done > 0:
        left = progress.seconds / done * max(progress.total - progress.rows, 0)
        text += f"  {clock(left)} left"
    return text + (f"  {progress.errors:,} errors" if progress.errors else "")


def summary(progress: Progress, output: str) -> str:
    """What a job did, in a line."""
    if progress.complete:
        return f"{output} is complete: {progress.rows:,} rows; --overwrite writes it anew"
    kept = f", {progress.kept:,} of them before" if progress.kept else ""
    errors = f", {progress.errors:,} of them errors" if progress.errors else ""
    text = (
        f"{progress.rows:,} rows{kept}{errors}; {progress.tokens:,} tokens in {clock(progress.seconds)}, "
        f"{rate(progress.tokens / max(progress.seconds, 1e-9))} tokens/s"
    )
    if progress.blank_lines:
        text += f"; blank lines, which are no rows: {progress.blank_lines:,}"
    text += quotes_kept(progress.quoted)
    if progress.interrupted:
        text = "interrupted; " + text + ("" if output == STDOUT else "; --resume goes on")
    return text


def write_job(model: StepModel, job: Job, config: GenerationConfig, json: bool) -> None:
    """Run a job, say how it went, and exit with its code where that is not 0."""
    if json and job.output == STDOUT:
        raise ConfigError("json: standard output is for the results; name a file with --output")
    with JobDisplay(err) as display:
        progress = run_job(model, job, config, display)
    if json:
        speed = progress.tokens / max(progress.seconds, 1e-9)
        print_json({"engine": model.engine, "output": job.output, **asdict(progress), "tokens_per_s": speed})
    else:
        err.print(summary(progress, job.output))
    if progress.interrupted:
        raise typer.Exit(INTERRUPTED)
    if progress.errors:
        raise typer.Exit(SOME_ROWS_FAILED)
