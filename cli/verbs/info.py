"""Define ``unrolled info``: describe a model file or the system."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from unrolled.bench.machine.system import system_info
from unrolled.cli.options import shared as options
from unrolled.cli.terminal.console import emphasis, out, print_json
from unrolled.engine.errors import ConfigError
from unrolled.runtime.description import describe


def info(
    file: Annotated[
        str | None,
        typer.Argument(help="A run folder, a checkpoint (.safetensors), an .onnx or a TorchScript .pt."),
    ] = None,
    system: Annotated[bool, typer.Option("--system", help="Show processor, threads and versions.")] = False,
    json: options.Json = False,
) -> None:
    """Say what a model file is, how it was trained and its validation loss; with --system, what it runs on."""
    if not file and not system:
        raise ConfigError("info: name a model file or a run folder, or say --system")
    values: dict[str, Any] = {}
    if file:
        values.update(describe(file))
    if system:
        values["system"] = system_info()
    if json:
        print_json(values)
    else:
        _show_values(values)


def _show_values(values: dict[str, Any], indent: str = "") -> None:
    width = max((len(key) for key, value in values.items() if not isinstance(value, dict)), default=0)
    for key, value in values.items():
        if isinstance(value, dict):
            emphasis(out, indent, (key, "bold"))
            _show_values(value, indent + "  ")
        else:
            out.print(f"{indent}{key:<{width}}  {_value_text(value)}")


def _value_text(value: Any) -> str:
    if value is None:
        return "–"
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
    return f"{value:,}" if type(value) is int else str(value)
