"""The export formats: one entry each, what the command line offers and ``export_model`` writes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from unrolled.engine.checkpoint import Checkpoint
from unrolled.engine.checks import check_choice
from unrolled.engine.errors import ConfigError, MissingDependencyError
from unrolled.export.metadata import FORMS
from unrolled.export.storage import FLOAT32, STORAGES, Weights


@dataclass(frozen=True)
class Format:
    """A kind of model file: its ending and how it is written (imported when used)."""

    suffix: str
    title: str
    write: Callable[[Checkpoint, Path, str, Weights], None]
    forms: tuple[str, ...]  # of ``metadata.FORMS``; the first is the usual one
    remark: str = ""


def _write_onnx(checkpoint: Checkpoint, path: Path, form: str, weights: Weights) -> None:
    from unrolled.export.onnx_graph import write_onnx

    write_onnx(checkpoint, path, form, weights)


def _write_torchscript(checkpoint: Checkpoint, path: Path, form: str, weights: Weights) -> None:
    if weights != FLOAT32:
        raise ConfigError("weights: a TorchScript file has them in float32; for smaller files export ONNX")
    try:
        from unrolled.export.torchscript import write_torchscript
    except ImportError as error:
        raise MissingDependencyError('TorchScript export needs torch: pip install "unrolled[torch]"') from error

    write_torchscript(checkpoint, path)


FORMATS: dict[str, Format] = {
    "onnx": Format(".onnx", "ONNX, opset 17", _write_onnx, tuple(FORMS)),
    "torchscript": Format(
        ".pt",
        "TorchScript, scripted",
        _write_torchscript,
        ("both",),
        "TorchScript is deprecated upstream (not supported on Python 3.14); it loads with torch 2.13 and libtorch. "
        "For anything that should last, export ONNX.",
    ),
}


def export_model(
    checkpoint: Checkpoint, path: Path, format_name: str, form: str | None = None, weights: Weights = FLOAT32
) -> Path:  # fmt: skip
    """Write ``checkpoint`` to ``path`` in a format of ``FORMATS`` and one of its forms; returns the path.

    Args:
        weights: how they are stored, and whether products are in int8.

    Raises:
        ConfigError: the format or form is not known, or the ending is another format's.
    """
    check_choice("format", format_name, FORMATS)
    wanted = FORMATS[format_name]
    form = form or wanted.forms[0]
    check_choice(f"form of {format_name}", form, wanted.forms)
    check_choice("weights", weights.storage, STORAGES)
    if path.suffix != wanted.suffix:
        raise ConfigError(f"{path}: a {format_name} file needs the ending {wanted.suffix}, by which it is opened again")
    wanted.write(checkpoint, path, form, weights)
    return path
