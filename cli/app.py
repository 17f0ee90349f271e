"""The verbs of the command, and one-line errors."""

from __future__ import annotations

import os
import re
from importlib import metadata
from typing import Annotated, Any

import typer
from rich.text import Text
from typer.exceptions import TyperException

from unrolled.cli.terminal.console import err, write_any_text
from unrolled.cli.terminal.exit_codes import BAD_INPUT, INTERRUPTED
from unrolled.cli.verbs.bench import bench
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
from unrolled.engine.errors import ConfigError, NothingLeftError, UnknownTokenError, UnrolledError
from unrolled.engine.signals import Interruption

LARGE_TEXT = (
    "a large text is encoded once, in bounded memory, by unrolled encode, and train then reads the .tokens file"
)

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

# What the library calls a setting, and its option: a message of the library is read by somebody who typed options.
OPTION_NAMES = {
    "embedding_size": "--embed",
    "hidden_size": "--hidden",
    "num_layers": "--layers",
    "tie_weights": "--tie",
    "batch_size": "--batch",
    "learning_rate": "--lr",
    "clip_norm": "--clip",
    "clip_value": "--clip-value",
    "init_scale": "--init-scale",
    "label_smoothing": "--label-smoothing",
    "forget_bias": "--forget-bias",
    "decay_after": "--decay-after",
    "decay_patience": "--decay-patience",
    "input_dropout": "--input-dropout",
    "output_dropout": "--output-dropout",
    "num_return_sequences": "--number",
    "max_new_tokens": "--max-new-tokens",
    "validate_every": "--validate-every",
    "weight_decay": "--weight-decay",
    "vocab_size": "--vocab-size",
    "top_k": "--top-k",
    "top_p": "--top-p",
    "min_p": "--min-p",
    "typical_p": "--typical-p",
    "repetition_penalty": "--repetition-penalty",
    "no_repeat_ngram_size": "--no-repeat-ngram-size",
    "bad_words": "--bad-word",
    "suppress_tokens": "--suppress-token",
    "sequence_bias": "--bias",
    "min_new_tokens": "--min-new-tokens",
    "forced_prefix": "--forced-prefix",
    "num_beams": "--num-beams",
    "length_penalty": "--length-penalty",
    "early_stopping": "--early-stopping",
    "max_prompt_tokens": "--max-prompt-tokens",
    "state_dict_key": "--state-dict",
}

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


def _message(error: BaseException) -> str:
    """Return what went wrong in one line, in the words of the command line."""
    if isinstance(error, TyperException):
        context: Any = getattr(error, "ctx", None)
        hint = f" (see {context.command_path} --help)" if context is not None else ""
        text = getattr(error, "format_message", lambda: str(error))() + hint
    elif isinstance(error, MemoryError):
        text = f"not enough memory ({error}); make the model or the batch smaller; {LARGE_TEXT}"
    elif isinstance(error, OSError) and error.strerror:
        text = error.strerror if error.filename is None else f"{error.filename}: {error.strerror}"
    else:
        text = str(error) or type(error).__name__
    if isinstance(error, ConfigError | NothingLeftError | UnknownTokenError):
        text = re.sub(r"\b(" + "|".join(OPTION_NAMES) + r")\b", lambda match: OPTION_NAMES[match[1]], text)
    return " ".join(text.split("\n"))


def _who() -> str:
    """Which of several processes says it; the first need not say."""
    rank = os.environ.get("RANK", "0") if "WORLD_SIZE" in os.environ else "0"
    return "" if rank == "0" else f"process {rank}: "


def run(interruption: Interruption | None = None) -> int:
    """Run the verb of ``sys.argv`` and return its exit code; an expected error is one red line and 2.

    Args:
        interruption: of the process; what it made a library raise is no error.
    """
    write_any_text()
    try:
        return app(standalone_mode=False) or 0
    except KeyboardInterrupt:
        return INTERRUPTED
    except (UnrolledError, TyperException, OSError, MemoryError) as error:
        if interruption is not None and interruption.received:
            return INTERRUPTED
        if _settings["debug"]:
            raise
        err.print(Text(f"{_who()}error: {_message(error)}", style="red"))
        return BAD_INPUT
