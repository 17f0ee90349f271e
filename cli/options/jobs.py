"""Options of jobs (``unrolled generate --input``)."""

from __future__ import annotations

import re
from typing import Annotated

import typer

from unrolled.cli.options import shared as options
from unrolled.engine.errors import ConfigError
from unrolled.runtime.jobs.prompt_readers import ENDINGS, PROMPT_FORMATS

JOBS_PANEL = "Many prompts"
OF_JOBS = (
    "output", "format", "delimiter", "quoting", "header", "resume", "overwrite", "strict", "keep_columns", "token_ids",
    "shard", "lanes", "max_prompt_tokens",
)  # fmt: skip

PromptsInput = Annotated[
    str | None,
    typer.Option(
        "--input",
        "-i",
        metavar="FILE",
        help=f"Prompts: {', '.join(ENDINGS)}, each also .gz or .zst, or - for standard input. "
        "Fields beside prompt and id are settings of the row; others need --keep-columns. Not with beams.",
        rich_help_panel=JOBS_PANEL,
    ),
]
ResultsOutput = Annotated[
    str,
    typer.Option(
        "--output",
        "-o",
        metavar="FILE",
        help="Results, a JSON object a line; - is standard output.",
        rich_help_panel=JOBS_PANEL,
    ),
]
PromptsFormat = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help=f"Of the input. {options.one_of(PROMPT_FORMATS)} {options.default('by its ending; of standard input jsonl')}",
        rich_help_panel=JOBS_PANEL,
    ),
]
JobLanes = Annotated[int, typer.Option(help="Texts written side by side.", rich_help_panel=JOBS_PANEL)]
Resume = Annotated[
    bool, typer.Option("--resume", help="Go on where an earlier run stopped, or begin.", rich_help_panel=JOBS_PANEL)
]
OverwriteResults = Annotated[
    bool, typer.Option("--overwrite", help="Begin anew though the output exists.", rich_help_panel=JOBS_PANEL)
]
Strict = Annotated[
    bool,
    typer.Option(
        "--strict", help="End at the first row that cannot be served, exit code 2.", rich_help_panel=JOBS_PANEL
    ),
]
Shard = Annotated[
    str,
    typer.Option(
        metavar="I/N",
        help="Only the rows whose number from 0 leaves I when divided by N; the texts are those of the whole.",
        rich_help_panel=JOBS_PANEL,
    ),
]
TokenIds = Annotated[
    bool, typer.Option("--token-ids", help="Also say which tokens were drawn.", rich_help_panel=JOBS_PANEL)
]
KeepColumns = Annotated[
    bool,
    typer.Option(
        "--keep-columns",
        help="Carry columns and fields that are neither id, prompt nor a setting to the results.",
        rich_help_panel=JOBS_PANEL,
    ),
]
MaxPromptTokens = Annotated[
    int, typer.Option(help="A row with a longer prompt becomes an error record.", rich_help_panel=JOBS_PANEL)
]


def parse_shard(text: str) -> tuple[int, int]:
    """Return the two numbers of "I/N"."""
    match = re.fullmatch(r"(\d+)/(\d+)", text)
    if match is None:
        raise ConfigError(f"shard: got {text!r}, needs I/N with I from 0 to N - 1, for instance 0/4")
    return int(match[1]), int(match[2])
