"""Arguments and options that several verbs share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from unrolled.engine.batches import BATCHINGS
from unrolled.engine.text import LEVELS, UNKNOWN_POLICIES
from unrolled.runtime import ENGINES


def choices(names: object) -> str:
    """How a help text shows what an option takes."""
    return "|".join(names)  # type: ignore[arg-type]


Model = Annotated[str, typer.Argument(help="A run folder, a checkpoint (.safetensors), an .onnx or a TorchScript .pt.")]
CorpusArgument = Annotated[
    list[str] | None,
    typer.Argument(
        help="Text files, .csv/.tsv with --column, .jsonl with --field, or - for standard input. "
        "Left out: the Python reference that ships with CPython, some 450 KB."
    ),
]
Column = Annotated[str | None, typer.Option(help="Column of a .csv or .tsv.")]
Field = Annotated[str | None, typer.Option(help="Field of a .jsonl; 'text' if left out.")]
Encoding = Annotated[str, typer.Option(help="Character encoding of the files.")]
Engine = Annotated[
    str | None,
    typer.Option(metavar=choices(ENGINES), help="What a checkpoint runs on; onnxruntime if left out."),
]
Level = Annotated[str, typer.Option(metavar=choices(LEVELS), help="A token is a character or a word.")]
Batching = Annotated[
    str,
    typer.Option(
        metavar=choices(BATCHINGS),
        help="stream: one long text, the state carried on. records: a line or row each, <bos> to <eos>.",
    ),
]
Unknown = Annotated[
    str | None,
    typer.Option(
        metavar=choices(UNKNOWN_POLICIES),
        help="Text outside the vocabulary. [default: error for characters, replace for words]",
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print the figures as JSON on standard output.")]
Seed = Annotated[int, typer.Option(help="Fixes everything random.")]
Prompts = Annotated[list[str] | None, typer.Option("--prompt", "-p", help="Text to write behind; may be repeated.")]
Output = Annotated[Path | None, typer.Option("--output", "-o", help="File to write.")]
