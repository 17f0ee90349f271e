"""Arguments and options that several verbs share."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from unrolled.cli.recipes import PRESETS, take_preset, take_recipe
from unrolled.engine.data.corpus import IDENTIFIERS
from unrolled.engine.data.readers.options import ReadOptions
from unrolled.engine.data.readers.table_format import QUOTINGS
from unrolled.engine.errors import ConfigError
from unrolled.engine.network.backends import PRECISIONS
from unrolled.engine.tokenizers.preparation import NORMALIZATIONS
from unrolled.engine.tokenizers.registry import TOKENIZERS
from unrolled.engine.tokenizers.vocabulary import UNKNOWN_POLICIES
from unrolled.runtime import ENGINES

DATA_PANEL = "Data"
READING = ("column", "field", "encoding", "delimiter", "quoting", "header")  # options of reading files


def one_of(names: Iterable[str]) -> str:
    """Return the sentence of a help text that lists the values of an option."""
    return f"One of {', '.join(names)}."


def default(text: str) -> str:
    """Return a default that depends on other options as the help shows it, escaped because help texts are rich markup."""
    return f"\\[default: {text}]"


Model = Annotated[str, typer.Argument(help="A run folder, a checkpoint (.safetensors), an .onnx or a TorchScript .pt.")]
CorpusArgument = Annotated[
    list[str] | None,
    typer.Argument(
        help="Text files, .csv/.tsv with --column, .jsonl/.json with --field, each also .gz or .zst, or - for standard input. "
        "Left out: the Python reference that ships with CPython, some 450 KB; "
        f"{IDENTIFIERS}: the names in its standard library, as records."
    ),
]
Column = Annotated[
    str | None, typer.Option(help="Column of a .csv or .tsv; with --no-header its number. " + default("the only one"))
]
Field = Annotated[str | None, typer.Option(help="Field of a .jsonl or .json; 'text' if left out.")]
Delimiter = Annotated[
    str | None,
    typer.Option(
        metavar="MARK",
        help="What separates the columns of a .csv or .tsv: , ; | or tab. "
        + default("a tab in .tsv, else detected in the first rows"),
    ),
]
Quoting = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="csv: cells in double quotes may hold delimiters and line ends; none: a quote is a character. "
        f"{one_of(QUOTINGS)} {default('none in .tsv, else csv')}",
    ),
]
Header = Annotated[
    bool | None,
    typer.Option(
        "--header/--no-header",
        help="Whether the first row of a .csv or .tsv names its columns; else they are numbered from 1. "
        + default("yes"),
        show_default=False,
    ),
]
Encoding = Annotated[str, typer.Option(help="Character encoding of the files.")]
Engine = Annotated[
    str | None,
    typer.Option(metavar="NAME", help=f"What a checkpoint runs on. {one_of(ENGINES)} {default('onnxruntime')}"),
]
Precision = Annotated[
    str,
    typer.Option(
        metavar="NAME",
        help=f"Of products; bf16: numba engine, processors with AVX512-BF16. {one_of(PRECISIONS)}",
    ),
]
Level = Annotated[
    str,
    typer.Option(
        metavar="NAME",
        help=f"What a token is; whitespace: words of text that is already tokenised, and a token a line end; bpe: byte pairs. "
        f"{one_of(TOKENIZERS)}",
        rich_help_panel=DATA_PANEL,
    ),
]
Normalize = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help=f"Unicode form in which text is matched. {one_of(NORMALIZATIONS)} "
        f"{default('NFC for words, none for characters and byte pairs')}",
        rich_help_panel=DATA_PANEL,
    ),
]
Batching = Annotated[
    str,
    typer.Option(
        metavar="NAME",
        help="stream: one long text, the state carried on. records: a line or row each, <bos> to <eos>.",
        rich_help_panel=DATA_PANEL,
    ),
]
Unknown = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help=f"Text outside the vocabulary. {one_of(UNKNOWN_POLICIES)} "
        f"{default('error for characters, replace for words')}",
        rich_help_panel=DATA_PANEL,
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print the figures as JSON on standard output.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace what is there already.")]
Force = Annotated[bool, typer.Option("--force", hidden=True)]  # name of --overwrite in 0.1.0
Seed = Annotated[int, typer.Option(help="Fixes everything random.")]
OnnxruntimeWeb = Annotated[
    Path | None,
    typer.Option(
        "--onnxruntime-web",
        metavar="DIR",
        help="Where the npm package onnxruntime-web is, which the web page needs. "
        + default("node_modules in this folder, or beside the page's sources"),
    ),
]
Recipe = Annotated[
    Path | None,
    typer.Option(
        help="TOML file of options; what the command line says goes before it.",
        metavar="FILE",
        is_eager=True,
        callback=take_recipe,
    ),
]
Preset = Annotated[
    str | None,
    typer.Option(
        help=f"A recipe that comes with unrolled, with its limit in epochs. {one_of(PRESETS)} On a megabyte of text and two "
        "cores they take a minute, three minutes, and twenty with --precision bf16 (35 in float32).",
        metavar="NAME",
        is_eager=True,
        callback=take_preset,
    ),
]
Prompts = Annotated[
    list[str] | None,
    typer.Option(
        "--prompt", "-p", help="Text to continue; may be repeated. It may be empty where the model has <bos>."
    ),
]


def flag(name: str) -> str:
    """Return the flag of an option."""
    return f"--{name.replace('_', '-')}"


def given(context: typer.Context, *names: str) -> list[str]:
    """Return the options among ``names`` that were typed on the command line, whatever their values."""
    sources = {name: context.get_parameter_source(name) for name in names}
    return [name for name, source in sources.items() if source is not None and source.name == "COMMANDLINE"]


def refuse_unused(context: typer.Context, names: Iterable[str], why: str) -> None:
    """Raise ConfigError if one of the options was typed on the command line, where it would have no effect."""
    if unused := given(context, *names):
        flags = ", ".join(map(flag, unused))
        raise ConfigError(f"{flags}: {why}; leave {'it' if len(unused) == 1 else 'them'} out")


def refuse_reading(context: typer.Context, reading: ReadOptions, option: str) -> None:
    """Raise ConfigError if options of reading were typed without ``option``, which names the file."""
    if reading.of_records:
        raise ConfigError(f"{', '.join(reading.of_records)}: go with {option}")
    refuse_unused(context, ["encoding"], f"goes with {option}")


def read_options(settings: Mapping[str, Any]) -> ReadOptions:
    """Return the options of reading among the options of a verb, which are keyed by name."""
    named = {name: settings[name] for name in READING if name != "header"}
    return ReadOptions(**named, header=settings["header"] is not False)


def unescape(text: str) -> str:
    r"""Return a typed text with its escapes resolved: \n is a line end, \t a tab, \\ a backslash."""
    return re.sub(r"\\([nt\\])", lambda match: {"n": "\n", "t": "\t", "\\": "\\"}[match[1]], text)


def unescape_all(texts: Iterable[str] | None) -> tuple[str, ...]:
    """Return the values of an option that may be repeated, each with its escapes resolved."""
    return tuple(map(unescape, texts or ()))
