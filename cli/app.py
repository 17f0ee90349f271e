"""The command with its verbs; expected errors become one line."""

from __future__ import annotations

from importlib import metadata
from typing import Annotated

import typer
from rich.text import Text
from typer.exceptions import TyperException

from unrolled.cli.options.groups import settings_of_verb
from unrolled.cli.options.help_texts import flag
from unrolled.cli.terminal.console import err, write_any_text
from unrolled.cli.terminal.error_messages import one_line_message, process_prefix
from unrolled.cli.terminal.exit_codes import BAD_INPUT, INTERRUPTED
from unrolled.cli.verbs.bench.group import bench
from unrolled.cli.verbs.compare import compare
from unrolled.cli.verbs.demo import demo
from unrolled.cli.verbs.encode import encode
from unrolled.cli.verbs.evaluate import evaluate
from unrolled.cli.verbs.export import export
from unrolled.cli.verbs.generate import generate_text
from unrolled.cli.verbs.import_ import import_model
from unrolled.cli.verbs.info import info
from unrolled.cli.verbs.lr_find import lr_find
from unrolled.cli.verbs.report import report
from unrolled.cli.verbs.score import score
from unrolled.cli.verbs.train import train
from unrolled.cli.verbs.tune import tune
from unrolled.cli.verbs.verify import verify
from unrolled.engine.errors import UnrolledError
from unrolled.engine.signals import Interruption

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
app.command()(tune)
app.command("lr-find")(lr_find)
app.command()(encode)
app.command("eval")(evaluate)
app.command("generate")(generate_text)
app.command()(score)
app.command("import")(import_model)
app.command()(export)
app.command()(verify)
app.command()(compare)
app.command()(report)
app.command()(info)
app.add_typer(bench, name="bench")

_global_options = {"debug": False}  # options before the verb


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
    _global_options["debug"] = debug


def setting_flags() -> dict[str, str]:
    """Return the flags of all settings by the names that messages use, but for settings whose flag is that name."""
    verbs = [command.callback for command in app.registered_commands if command.callback is not None]
    settings = [definition for verb in verbs for definition in settings_of_verb(verb).values()]
    return {one.name: flag(one.option) for one in settings if flag(one.option) != f"--{one.name}"}


def run(interruption: Interruption | None = None) -> int:
    """Run the verb of ``sys.argv`` and return its exit code; an expected error prints one red line and returns 2.

    Args:
        interruption: signal handler of the process; an error that a library raised because of a signal is not reported.
    """
    write_any_text()
    try:
        return app(standalone_mode=False) or 0
    except KeyboardInterrupt:
        return INTERRUPTED
    except (UnrolledError, TyperException, OSError, MemoryError) as error:
        if interruption is not None and interruption.received:
            return INTERRUPTED
        if _global_options["debug"]:
            raise
        err.print(Text(f"{process_prefix()}error: {one_line_message(error, setting_flags())}", style="red"))
        return BAD_INPUT
