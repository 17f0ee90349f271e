"""Define ``unrolled export``: write a model for other runtimes."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from unrolled.cli.options import shared as options
from unrolled.cli.options.groups import with_groups
from unrolled.cli.options.help_texts import default, one_of
from unrolled.cli.options.refusals import refuse_reading
from unrolled.cli.options.written_files import check_output
from unrolled.cli.terminal.console import emphasis, err, out, print_json, show_readings, warn
from unrolled.engine.checks import check_choice
from unrolled.engine.data.corpus import Corpus, read_corpus
from unrolled.engine.errors import ConfigError
from unrolled.engine.storage.checkpoint import CHECKPOINT_SUFFIX, load_checkpoint, resolve_model_file
from unrolled.export.artifact.forms import FORMS, RUN
from unrolled.export.artifact.weight_storage import FLOAT32_STORAGE, INT8_STORAGE, NUMBER_FORMATS, WeightStorage
from unrolled.export.formats import FORMATS, check_export, default_name, export_model
from unrolled.export.onnx.cells import ONNX_CELLS

QUANTIZE = ("int8",)


@with_groups
def export(
    context: typer.Context,
    run: Annotated[str, typer.Argument(help="A run folder (its best checkpoint) or a .safetensors checkpoint.")],
    kind: Annotated[str, typer.Option("--format", metavar="NAME", help=one_of(FORMATS))] = "onnx",
    form: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="step: logits for tokens; generate: the whole sampling loop in the graph; run: whole sequences, the only "
            "form of models that are no language models. "
            + one_of((*FORMS, RUN))
            + " "
            + default("step; TorchScript always has both"),
        ),
    ] = None,
    weights: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            help="How the weights are stored; they are float32 again when loaded. " + one_of(NUMBER_FORMATS),
        ),
    ] = "float32",
    quantize: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Multiply in int8, only in the LSTM and the output; for onnxruntime and OpenVINO. " + one_of(QUANTIZE),
        ),
    ] = None,
    measure: Annotated[
        str | None,
        typer.Option(help="A text by which perplexity and speed are compared before and after."),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            help="File to write, for web a folder. " + default("model.onnx, model.pt or web in the run folder"),
        ),
    ] = None,
    onnxruntime_web: options.OnnxruntimeWeb = None,
    *,
    reading: options.Reading,
    overwrite: options.Overwrite = False,
    json: options.Json = False,
) -> None:
    """Write a model as one file for other runtimes; config, tokenizer and golden cases are inside.

    The format web writes a folder: a page that runs the model in the browser, with all that it needs.
    """
    source = resolve_model_file(run)
    if source.suffix != CHECKPOINT_SUFFIX:
        raise ConfigError(f"{run}: export starts from a run folder or a {CHECKPOINT_SUFFIX} checkpoint")
    check_choice("format", kind, FORMATS)
    wanted = FORMATS[kind]
    path = output or source.parent / default_name(kind)
    stored = _weights(weights, quantize)
    given = None if stored == FLOAT32_STORAGE else stored
    checkpoint = load_checkpoint(source)
    form = check_export(checkpoint.spec, path, kind, form, {"weights": given, "onnxruntime_web": onnxruntime_web})
    if measure and form == RUN:
        raise ConfigError(f"measure: compares language models; the head of this model is {checkpoint.spec.head.kind}")
    check_output(path, overwrite, [source, *([measure] if measure else [])], wanted.is_folder)
    if not measure:
        refuse_reading(context, reading, "--measure")
    text = read_corpus((measure,), reading) if measure else None
    if text:
        show_readings(err, text.readings)
    export_model(checkpoint, path, kind, form, weights=given, onnxruntime_web=onnxruntime_web)
    size = sum(file.stat().st_size for file in (path, *path.rglob("*")) if file.is_file())
    remarks = [remark for remark in (wanted.remark, _remark(checkpoint.spec.core.cell, stored)) if remark]
    for remark in remarks:
        warn(err, remark)
    figures = (
        _measure(checkpoint, path / "model.onnx" if wanted.is_folder else path, form, stored, text) if text else {}
    )
    if json:
        written = {
            "format": kind,
            "form": form,
            "weights": stored.storage,
            "quantize": quantize,
            "path": str(path),
            "bytes": size,
        }
        read = {"read": [reading.to_dict() for reading in text.readings]} if text else {}
        print_json({**written, "checkpoint": str(source), "remarks": remarks, **read, **figures})
    else:
        emphasis(out, f"{source} -> ", (str(path), "bold"), f" ({wanted.title}, form {form}, {size:,} bytes)")
        if wanted.is_folder:
            out.print(f"Any static server will do: {sys.executable} -m http.server --bind 127.0.0.1 -d {path}")
        if figures:
            _print_figures(figures)


def _weights(storage: str, quantize: str | None) -> WeightStorage:
    check_choice("weights", storage, NUMBER_FORMATS)
    if quantize is None:
        return FLOAT32_STORAGE._replace(storage=storage)
    check_choice("quantize", quantize, QUANTIZE)
    if storage not in (FLOAT32_STORAGE.storage, INT8_STORAGE.storage):
        raise ConfigError(f"weights: with --quantize int8 they are int8, not {storage}")
    return INT8_STORAGE


def _remark(cell: str, weights: WeightStorage) -> str:
    """Return a remark on the limits of a quantized file; empty for other files."""
    if not weights.quantized:
        return ""
    if ONNX_CELLS[cell].quantized:
        return (
            "With products in int8 the file runs in onnxruntime and OpenVINO only, and rounding depends on what is run "
            "together."
        )
    return (
        f"onnxruntime has no int8 operator for {cell}: its recurrent weights are stored in int8 and multiplied in float32, at "
        "the usual speed; only the output layer is multiplied in int8. The file runs in onnxruntime and OpenVINO only."
    )


def _measure(checkpoint: Any, path: Path, form: str, weights: WeightStorage, text: Corpus) -> dict[str, Any]:
    from unrolled.bench.exports import measure

    return measure(checkpoint, path, form, weights, text)


def _print_figures(figures: dict[str, Any]) -> None:
    table = Table(box=None, pad_edge=False)
    for title in ("", "ONNX float32", "this file", ""):
        table.add_column(title, justify="left" if not title else "right")
    for name, unit in (("bytes", "{:,.0f}"), ("perplexity", "{:.4f}"), ("tokens_per_s", "{:,.0f}")):
        before, after = (figures[when][name] for when in ("before", "after"))
        table.add_row(name, unit.format(before), unit.format(after), f"× {after / before:.3f}")
    out.print(table)
