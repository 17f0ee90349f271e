"""Arguments and options that several verbs share."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

import typer

from unrolled.cli.options.groups import options_of
from unrolled.cli.options.help_texts import default
from unrolled.engine.data.corpus import IDENTIFIERS
from unrolled.engine.data.readers.options import ReadOptions
from unrolled.engine.settings import SEED

Model = Annotated[str, typer.Argument(help="A run folder, a checkpoint (.safetensors), an .onnx or a TorchScript .pt.")]
CorpusArgument = Annotated[
    list[str] | None,
    typer.Argument(
        help="Text files, .csv/.tsv with --column, .jsonl/.json with --field, each also .gz or .zst, or - for standard input. "
        "Left out: the Python reference that ships with CPython, some 450 KB; "
        f"{IDENTIFIERS}: the names in its standard library, as records."
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print the figures as JSON on standard output.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace what is there already.")]
Force = Annotated[bool, typer.Option("--force", hidden=True)]  # name of --overwrite in 0.1.0
Seed = Annotated[int, typer.Option(help=SEED.help)]
Reading = Annotated[ReadOptions, options_of(ReadOptions)]
OnnxruntimeWeb = Annotated[
    Path | None,
    typer.Option(
        "--onnxruntime-web",
        metavar="DIR",
        help="Where the npm package onnxruntime-web is, which the web page needs. "
        + default("node_modules in this folder, or beside the page's sources"),
    ),
]
Prompts = Annotated[
    list[str] | None,
    typer.Option(
        "--prompt", "-p", help="Text to continue; may be repeated. It may be empty where the model has <bos>."
    ),
]


def unescape(text: str) -> str:
    r"""Return a typed text with its escapes resolved: \n is a line end, \t a tab, \\ a backslash."""
    return re.sub(r"\\([nt\\])", lambda match: {"n": "\n", "t": "\t", "\\": "\\"}[match[1]], text)


def unescape_all(texts: Iterable[str] | None) -> tuple[str, ...]:
    """Return the values of an option that may be repeated, each with its escapes resolved."""
    return tuple(map(unescape, texts or ()))
