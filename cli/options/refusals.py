"""Refusal of options that were typed and have no effect."""

from __future__ import annotations

from collections.abc import Iterable

import typer

from unrolled.cli.options.help_texts import flag
from unrolled.engine.data.readers.options import ReadOptions
from unrolled.engine.errors import ConfigError


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
