"""``unrolled export``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text

from unrolled.cli import options
from unrolled.cli.console import err, out, print_json
from unrolled.engine.checkpoint import SUFFIX, load_checkpoint, resolve_checkpoint
from unrolled.engine.errors import ConfigError
from unrolled.export.formats import FORMATS, export_model


def export(
    run: Annotated[str, typer.Argument(help="A run folder (its best checkpoint) or a .safetensors checkpoint.")],
    format: Annotated[str, typer.Option(metavar=options.choices(FORMATS), help="Kind of file.")] = "onnx",
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="File to write. [default: model.onnx or model.pt in the folder]"),
    ] = None,
    json: options.Json = False,
) -> None:
    """Write a model as one file for other runtimes; config, tokenizer and golden cases are inside."""
    source = resolve_checkpoint(run)
    if source.suffix != SUFFIX:
        raise ConfigError(f"{run}: export starts from a run folder or a {SUFFIX} checkpoint")
    if format not in FORMATS:
        raise ConfigError(f"format: got {format!r}, choose one of {', '.join(FORMATS)}")
    wanted = FORMATS[format]
    path = export_model(load_checkpoint(source), output or source.parent / f"model{wanted.suffix}", format)
    size = path.stat().st_size
    if wanted.remark:
        err.print(Text(wanted.remark, style="yellow"))
    if json:
        print_json({"format": format, "path": str(path), "bytes": size, "checkpoint": str(source)})
    else:
        out.print(f"{source} -> [bold]{path}[/] ({wanted.title}, {size:,} bytes)")
