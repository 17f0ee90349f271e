"""Open model files of every kind.

A checkpoint runs on any of ``ENGINES``; an exported file runs on its own engine. onnxruntime, torch and numba are imported
with the first model that needs them.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from pathlib import Path

from unrolled.engine.errors import ConfigError, ModelFileError
from unrolled.engine.models.language_model_config import LanguageModelConfig
from unrolled.engine.models.step_contract import LoadedModel, StepModel
from unrolled.engine.network.backends import FLOAT32
from unrolled.engine.storage.checkpoint import CHECKPOINT_SUFFIX, load_checkpoint, resolve_model_file
from unrolled.export.artifact.forms import RUN
from unrolled.runtime.models.argument_checks import check_language_model, check_path
from unrolled.runtime.models.engines import (
    TokenizedModel,
    TorchStepper,
    make_model,
    make_sequence_model,
    needs_torch,
)
from unrolled.runtime.models.sequence_model import EngineSequenceModel, ModelRecord


def _open_onnx(path: Path) -> LoadedModel:
    from unrolled.runtime.models.onnx_model import open_onnx

    return open_onnx(path)


def _open_torchscript(path: Path) -> LoadedModel:
    try:
        from unrolled.export.torch.torchscript import ScriptedRunner, read_torchscript
    except ImportError as error:
        raise needs_torch(f"{path}: a TorchScript file") from error
    module, info = read_torchscript(path)
    digest, origin = info.checkpoint_digest, (_torchscript_from_bytes, path.read_bytes())
    if info.form == RUN:
        record = ModelRecord(info.description.preprocessing, info.training, digest, digest)
        runner = ScriptedRunner(module, info.spec, str(path))
        return EngineSequenceModel("torchscript", runner, record).built_by(*origin)
    stepper = TorchStepper(info.config, module)
    return TokenizedModel("torchscript", stepper, info.tokenizer, info.training, digest).built_by(*origin)


def _torchscript_from_bytes(data: bytes) -> LoadedModel:
    """Open the bytes of a TorchScript file, through a temporary file because torch reads from the disk."""
    with tempfile.TemporaryDirectory(prefix="unrolled-") as folder:
        path = Path(folder) / "model.pt"
        path.write_bytes(data)
        return _open_torchscript(path)


OPENERS: dict[str, Callable[[Path], LoadedModel]] = {".onnx": _open_onnx, ".pt": _open_torchscript}


def load(path: str | os.PathLike[str], engine: str | None = None, precision: str = FLOAT32) -> LoadedModel:
    """Open a run folder, a checkpoint, an .onnx or a TorchScript file.

    A language model is a ``StepModel``, with which ``generate``, ``stream``, ``score`` and the others work. Any other model is
    a ``SequenceModel`` with ``run``, and ``step`` if it has one direction.

    Args:
        path: the file; a run folder stands for its best checkpoint.
        engine: engine of a checkpoint, a key of ``ENGINES``; None: onnxruntime, or numba for "bf16". An exported file has
            its own engine.
        precision: precision of a checkpoint's products: "float32", or "bf16" on the numba engine.

    Raises:
        ModelFileError: the file is missing, damaged, of another version, or no model file.
        ConfigError: the argument is no path; the engine or precision is unknown, or unavailable for this file or processor.
        MissingDependencyError: the engine's library is not installed.
    """
    check_path(path)
    path = resolve_model_file(path)
    if path.suffix == CHECKPOINT_SUFFIX:
        usual = "onnxruntime" if precision == FLOAT32 else "numba"
        checkpoint = load_checkpoint(path)
        is_language_model = LanguageModelConfig.from_spec(checkpoint.spec) is not None
        make = make_model if is_language_model else make_sequence_model
        return make(checkpoint, engine or usual, precision)
    if path.suffix not in OPENERS:
        known = ", ".join((CHECKPOINT_SUFFIX, *OPENERS))
        raise ModelFileError(f"{path}: the ending {path.suffix!r} is of no model file; known are {known}")
    if precision != FLOAT32:
        raise ConfigError(f"{path}: has its precision; {precision!r} needs a checkpoint or a run folder")
    model = OPENERS[path.suffix](path)
    if engine not in (None, model.engine):
        raise ConfigError(f"{path}: runs on {model.engine}; engine {engine!r} needs a checkpoint or a run folder")
    return model


def load_language_model(
    path: str | os.PathLike[str], engine: str | None = None, precision: str = FLOAT32
) -> StepModel:  # fmt: skip
    """Open the file of a language model, as ``load``.

    Raises:
        ConfigError: as ``load``; or the model is another, which writes no texts.
    """
    model = load(path, engine, precision)
    try:
        return check_language_model(model)
    except ConfigError as error:
        raise ConfigError(f"{path}: ", *error.parts) from error
