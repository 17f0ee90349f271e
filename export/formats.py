"""The export formats: one entry each, which the command line offers and ``export_model`` writes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unrolled.engine.checks import check_choice
from unrolled.engine.errors import ConfigError, MissingDependencyError
from unrolled.engine.models.spec import ModelSpec
from unrolled.engine.storage.checkpoint import Checkpoint
from unrolled.export.artifact.forms import FORMS, RUN, forms_of
from unrolled.export.artifact.weight_storage import FLOAT32_STORAGE, WeightStorage


@dataclass(frozen=True)
class ExportFormat:
    """A kind of model file.

    Args:
        suffix: the ending of its files; "": the format is a folder.
        title: its name for people.
        write: writes a file, given checkpoint, path, form and the settings; imports its libraries when called.
        forms: the forms that it can have; the first that a model has is the default.
        remark: a warning to show after an export.
        settings: the names of further arguments of ``write``.
    """

    suffix: str
    title: str
    write: Callable[..., None]
    forms: tuple[str, ...]
    remark: str = ""
    settings: tuple[str, ...] = ()

    @property
    def is_folder(self) -> bool:
        return not self.suffix


def _write_onnx(checkpoint: Checkpoint, path: Path, form: str, weights: WeightStorage = FLOAT32_STORAGE) -> None:
    from unrolled.export.onnx.writer import write_onnx

    write_onnx(checkpoint, path, form, weights)


def _write_torchscript(checkpoint: Checkpoint, path: Path, form: str) -> None:
    try:
        from unrolled.export.torch.torchscript import write_torchscript
    except ImportError as error:
        raise MissingDependencyError('TorchScript export needs torch: pip install "unrolled[torch]"') from error

    write_torchscript(checkpoint, path)


def _write_web(
    checkpoint: Checkpoint,
    path: Path,
    form: str,
    weights: WeightStorage = FLOAT32_STORAGE,
    onnxruntime_web: Path | None = None,
) -> None:
    from unrolled.export.web import write_web

    write_web(checkpoint, path, form, weights, onnxruntime_web)


FORMATS: dict[str, ExportFormat] = {
    "onnx": ExportFormat(".onnx", "ONNX, opset 17", _write_onnx, (*FORMS, RUN), settings=("weights",)),
    "torchscript": ExportFormat(
        ".pt",
        "TorchScript, scripted",
        _write_torchscript,
        ("both", RUN),
        "TorchScript is deprecated upstream (not supported on Python 3.14); it loads with torch 2.13, 2.14 and libtorch. "
        "For anything that should last, export ONNX.",
    ),
    "web": ExportFormat(
        "", "a page for browsers", _write_web, ("step", "both"), settings=("weights", "onnxruntime_web")
    ),
}
SINGLE_FILES = {name: kind for name, kind in FORMATS.items() if not kind.is_folder}


def default_name(format_name: str) -> str:
    """Return the default name of an export in a run folder."""
    kind = FORMATS[format_name]
    return format_name if kind.is_folder else f"model{kind.suffix}"


def check_export(
    spec: ModelSpec, path: Path, format_name: str, form: str | None, settings: Mapping[str, Any]
) -> str:  # fmt: skip
    """Check the arguments of ``export_model`` without writing anything; return the form.

    Raises:
        ConfigError: unknown format, form or setting, one that the model does not have, or the ending of another format.
    """
    check_choice("format", format_name, FORMATS)
    wanted = FORMATS[format_name]
    forms = [each for each in wanted.forms if each in forms_of(spec)]
    if not forms:
        raise ConfigError(f"format: {format_name} is for language models; the head of this model is {spec.head.kind}")
    form = form or forms[0]
    check_choice(f"form of {format_name}", form, forms)
    for name in {name for name, value in settings.items() if value is not None} - set(wanted.settings):
        owners = ", ".join(other for other, kind in FORMATS.items() if name in kind.settings) or "none"
        raise ConfigError(f"{name}: is no setting of format {format_name}; it belongs to {owners}")
    if not wanted.is_folder and path.suffix != wanted.suffix:
        raise ConfigError(f"{path}: a {format_name} file needs the ending {wanted.suffix}, by which it is opened again")
    return form


def export_model(
    checkpoint: Checkpoint, path: Path, format_name: str, form: str | None = None, **settings: Any
) -> Path:
    """Write ``checkpoint`` to ``path`` in a format of ``FORMATS`` and one of its forms; return the path.

    The new export replaces an earlier one at ``path`` once it is complete.

    Args:
        checkpoint: the model to export.
        path: the file, or the folder for a format that is one.
        format_name: a key of ``FORMATS``.
        form: one of its forms that the model has; the first of them if left out.
        settings: those of ``ExportFormat.settings``, None means the default: ``weights``, their storage and whether products
            are in int8; ``onnxruntime_web``, the folder of that npm package.

    Raises:
        ConfigError: unknown format, form or setting, or the ending of another format.
        ModelFileError: a language model without a tokenizer, whose file no host could open.
    """
    form = check_export(checkpoint.spec, path, format_name, form, settings)
    if form != RUN:
        _ = checkpoint.tokenizer  # raises the error of a model that has none
    given = {name: value for name, value in settings.items() if value is not None}
    FORMATS[format_name].write(checkpoint, path, form, **given)
    return path
