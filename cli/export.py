"""``unrolled export``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from unrolled.cli import options
from unrolled.cli.console import emphasis, err, out, print_json, warn
from unrolled.engine.checkpoint import SUFFIX, load_checkpoint, resolve_model_file
from unrolled.engine.checks import check_choice
from unrolled.engine.errors import ConfigError
from unrolled.export.formats import FORMATS, export_model
from unrolled.export.metadata import FORMS


def export(
    run: Annotated[str, typer.Argument(help="A run folder (its best checkpoint) or a .safetensors checkpoint.")],
    kind: Annotated[str, typer.Option("--format", metavar="NAME", help=options.one_of(FORMATS))] = "onnx",
    form: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="step: logits for tokens; generate: the whole sampling loop in the graph. "
            + options.one_of(FORMS)
            + " "
            + options.default("step; TorchScript always has both"),
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", help="File to write. " + options.default("model.onnx or model.pt in the folder")
        ),
    ] = None,
    json: options.Json = False,
) -> None:
    """Write a model as one file for other runtimes; config, tokenizer and golden cases are inside."""
    source = resolve_model_file(run)
    if source.suffix != SUFFIX:
        raise ConfigError(f"{run}: export starts from a run folder or a {SUFFIX} checkpoint")
    check_choice("format", kind, FORMATS)
    wanted = FORMATS[kind]
    form = form or wanted.forms[0]
    path = export_model(load_checkpoint(source), output or source.parent / f"model{wanted.suffix}", kind, form)
    size = path.stat().st_size
    if wanted.remark:
        warn(err, wanted.remark)
    if json:
        print_json(
            {
                "format": kind,
                "form": form,
                "path": str(path),
                "bytes": size,
                "checkpoint": str(source),
            }
        )
    else:
        emphasis(
            out,
            f"{source} -> ",
            (str(path), "bold"),
            f" ({wanted.title}, form {form}, {size:,} bytes)",
        )
