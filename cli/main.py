"""The command's entry point: the verbs, and one-line errors."""

from __future__ import annotations

import sys
from importlib import metadata
from typing import Annotated

import typer
from rich.text import Text

from unrolled.cli.compare import compare
from unrolled.cli.console import err
from unrolled.cli.demo import demo
from unrolled.cli.evaluate import evaluate
from unrolled.cli.export import export
from unrolled.cli.generate import generate_text
from unrolled.cli.info import info
from unrolled.cli.train import train
from unrolled.cli.verify import verify
from unrolled.engine.errors import UnrolledError

app = typer.Typer(
    name="unrolled",
    help="RNN, GRU and LSTM sequence models on ordinary computers: train from scratch, export, generate anywhere.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command()(demo)
app.command()(train)
app.command("eval")(evaluate)
app.command("generate")(generate_text)
app.command()(export)
app.command()(verify)
app.command()(compare)
app.command()(info)

_settings = {"debug": False}


def _version(wanted: bool) -> None:
    if wanted:
        print(f"unrolled {metadata.version('unrolled')}")
        raise typer.Exit


@app.callback()
def _options(
    debug: Annotated[bool, typer.Option("--debug", help="Show where an error came from.")] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    _settings["debug"] = debug


def main() -> None:
    """Run the command; an expected error is one red line and exit code 2."""
    try:
        app()
    except (UnrolledError, OSError) as error:
        if _settings["debug"]:
            raise
        err.print(Text(f"error: {error}", style="red"), soft_wrap=True)
        sys.exit(2)


if __name__ == "__main__":
    main()
