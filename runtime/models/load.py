"""Open a model, whatever kind of file it is, as a StepModel.

A checkpoint runs on any of ``ENGINES``; an exported file runs on its own. onnxruntime loads with the first model that
needs it, torch and numba only with an engine that is made of them.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from pathlib import Path

from unrolled.engine.errors import ConfigError, ModelFileError
from unrolled.engine.models.step_contract import StepModel
from unrolled.engine.network.backends import FLOAT32
from unrolled.engine.storage.checkpoint import CHECKPOINT_SUFFIX, load_checkpoint, resolve_model_file
from unrolled.runtime.models.argument_checks import check_path
from unrolled.runtime.models.engines import TokenizedModel, TorchModule, make_model, needs_torch


def _open_onnx(path: Path) -> StepModel:
    from unrolled.runtime.models.onnx_model import open_onnx

    return open_onnx(path)


def _open_torchscript(path: Path) -> StepModel:
    try:
        from unrolled.export.torch.torchscript import read_torchscript
    except ImportError as error:
        raise needs_torch(f"{path}: a TorchScript file") from error
    module, info = read_torchscript(path)
    model = TokenizedModel(
        "torchscript", TorchModule(info.config, module), info.tokenizer, info.training, info.checkpoint_digest
    )
    return model.made_by(_torchscript_of, path.read_bytes())


def _torchscript_of(data: bytes) -> StepModel:
    """Open the bytes of a TorchScript file, which torch reads from the disk."""
    with tempfile.TemporaryDirectory(prefix="unrolled-") as folder:
        path = Path(folder) / "model.pt"
        path.write_bytes(data)
        return _open_torchscript(path)


OPENERS: dict[str, Callable[[Path], StepModel]] = {".onnx": _open_onnx, ".pt": _open_torchscript}


def load(path: str | os.PathLike[str], engine: str | None = None, precision: str = FLOAT32) -> StepModel:
    """Open a run folder, a checkpoint, an .onnx or a TorchScript file.

    Args:
        path: a run folder means its best checkpoint.
        engine: what a checkpoint runs on, a key of ``ENGINES``, onnxruntime if left out; an exported file has its own.
        precision: of a checkpoint's products: "float32", or "bf16" on the numba engine, which it then means.

    Raises:
        ModelFileError: missing, damaged, of another version, or not a model file.
        ConfigError: the path is none, the engine or the precision is not known, or not one that the file or this processor has.
        MissingDependencyError: the engine's library is not installed.
    """
    check_path(path)
    path = resolve_model_file(path)
    if path.suffix == CHECKPOINT_SUFFIX:
        usual = "onnxruntime" if precision == FLOAT32 else "numba"
        return make_model(load_checkpoint(path), engine or usual, precision)
    if path.suffix not in OPENERS:
        known = ", ".join((CHECKPOINT_SUFFIX, *OPENERS))
        raise ModelFileError(f"{path}: the ending {path.suffix!r} is of no model file; known are {known}")
    if precision != FLOAT32:
        raise ConfigError(f"{path}: has its precision; {precision!r} needs a checkpoint or a run folder")
    model = OPENERS[path.suffix](path)
    if engine not in (None, model.engine):
        raise ConfigError(f"{path}: runs on {model.engine}; engine {engine!r} needs a checkpoint or a run folder")
    return model
