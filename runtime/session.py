"""Open a model, whatever kind of file it is, as a StepModel.

A checkpoint runs on any of ``ENGINES``; an exported file runs on its own. onnxruntime loads with the first model that
needs it, torch and numba only with an engine that is made of them.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unrolled.engine.checkpoint import SUFFIX, Checkpoint, load_checkpoint, resolve_checkpoint
from unrolled.engine.config import ModelConfig
from unrolled.engine.contract import StepModel, check_step
from unrolled.engine.errors import ConfigError, MissingDependencyError, ModelFileError
from unrolled.engine.text import Tokenizer
from unrolled.export.metadata import FileInfo, parse_metadata


class OnnxModel:
    """An ONNX file of the step form, run by onnxruntime on the CPU."""

    engine = "onnxruntime"

    def __init__(self, source: Path | bytes, where: str, threads: int | None = None) -> None:
        import onnxruntime as ort

        options = ort.SessionOptions()
        options.log_severity_level = 3  # a damaged file is our error to tell, not the library's
        if threads is not None:
            options.intra_op_num_threads = threads
        try:
            model = source if isinstance(source, bytes) else str(source)
            self._session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime's own exceptions have no public base class
            raise ModelFileError(f"{where}: not an ONNX file that onnxruntime can load ({_first_line(error)})") from error
        info = parse_metadata(self._session.get_modelmeta().custom_metadata_map, where)
        self.config, self.tokenizer = info.config, info.tokenizer
        self.info: FileInfo = info
        names = {value.name for value in (*self._session.get_inputs(), *self._session.get_outputs())}
        if missing := {"tokens", "state", "logits", "next_state"} - names:
            raise ModelFileError(f"{where}: has no {', '.join(sorted(missing))}, which the step form needs")

    def step(self, tokens: NDArray[np.int64], state: NDArray) -> tuple[NDArray, NDArray]:
        check_step(self.config, tokens, state)
        logits, state = self._session.run(["logits", "next_state"], {"tokens": tokens, "state": state})
        return logits, state


class TokenizedModel:
    """A model of one of the engines together with its tokeniser."""

    def __init__(self, engine: str, model: Any, tokenizer: Tokenizer) -> None:
        self.engine, self.tokenizer = engine, tokenizer
        self.config: ModelConfig = model.config
        self.step = model.step


class TorchModule:
    """A TorchLM, scripted or not, behind the step contract."""

    def __init__(self, config: ModelConfig, module: Any) -> None:
        from unrolled.export.torch_model import run_step

        self.config, self.module, self._run = config, module, run_step

    def step(self, tokens: NDArray[np.int64], state: NDArray) -> tuple[NDArray, NDArray]:
        check_step(self.config, tokens, state)
        return self._run(self.module, tokens, state)


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]


def _float32(checkpoint: Checkpoint) -> dict[str, NDArray]:
    return {name: value.astype(np.float32) for name, value in checkpoint.params.items()}


def _from_scratch(backend: str) -> Callable[[Checkpoint], StepModel]:
    def make(checkpoint: Checkpoint) -> StepModel:
        from unrolled.engine.model import LanguageModel

        model = LanguageModel(checkpoint.config, _float32(checkpoint), backend)
        return TokenizedModel(backend, model, checkpoint.tokenizer)

    return make


def _torch(checkpoint: Checkpoint) -> StepModel:
    try:
        from unrolled.export.torch_model import make_torch_model
    except ModuleNotFoundError as error:
        raise _needs_torch("the torch engine") from error
    module = make_torch_model(checkpoint.config, _float32(checkpoint)).eval()
    return TokenizedModel("torch", TorchModule(checkpoint.config, module), checkpoint.tokenizer)


def _torchscript(checkpoint: Checkpoint) -> StepModel:
    try:
        from unrolled.export.torchscript import script
    except ModuleNotFoundError as error:
        raise _needs_torch("the torchscript engine") from error
    module = TorchModule(checkpoint.config, script(checkpoint))
    return TokenizedModel("torchscript", module, checkpoint.tokenizer)


def _onnxruntime(checkpoint: Checkpoint) -> StepModel:
    from unrolled.export.onnx_graph import build_step

    return OnnxModel(build_step(checkpoint, golden=False).SerializeToString(), "the graph of the checkpoint")


def _needs_torch(what: str) -> MissingDependencyError:
    return MissingDependencyError(f'{what} needs torch: pip install "unrolled[torch]"')


ENGINES: dict[str, Callable[[Checkpoint], StepModel]] = {
    "numpy": _from_scratch("numpy"),
    "numba": _from_scratch("numba"),
    "torch": _torch,
    "torchscript": _torchscript,
    "onnxruntime": _onnxruntime,
}


def _open_onnx(path: Path) -> StepModel:
    return OnnxModel(path, str(path))


def _open_torchscript(path: Path) -> StepModel:
    try:
        from unrolled.export.torchscript import read_torchscript
    except ModuleNotFoundError as error:
        raise _needs_torch(f"{path}: a TorchScript file") from error
    module, info = read_torchscript(path)
    return TokenizedModel("torchscript", TorchModule(info.config, module), info.tokenizer)


OPENERS: dict[str, Callable[[Path], StepModel]] = {".onnx": _open_onnx, ".pt": _open_torchscript}


def make_model(checkpoint: Checkpoint, engine: str) -> StepModel:
    """A checkpoint as a StepModel on one of ``ENGINES``."""
    if engine not in ENGINES:
        raise ConfigError(f"engine: got {engine!r}, choose one of {', '.join(ENGINES)}")
    return ENGINES[engine](checkpoint)


def load(path: str | os.PathLike[str], engine: str | None = None) -> StepModel:
    """Open a run folder, a checkpoint, an .onnx or a TorchScript file.

    Args:
        path: a run folder means its best checkpoint.
        engine: what a checkpoint runs on, a key of ``ENGINES``, onnxruntime if left out; an exported file has its own.

    Raises:
        ModelFileError: missing, damaged, of another version, or not a model file.
        ConfigError: the engine is not known, or not the one an exported file has.
        MissingDependencyError: the engine's library is not installed.
    """
    path = resolve_checkpoint(path)
    if path.suffix == SUFFIX:
        return make_model(load_checkpoint(path), engine or "onnxruntime")
    if path.suffix not in OPENERS:
        known = ", ".join((SUFFIX, *OPENERS))
        raise ModelFileError(f"{path}: the ending {path.suffix!r} is of no model file; known are {known}")
    model = OPENERS[path.suffix](path)
    if engine not in (None, model.engine):
        raise ConfigError(f"{path}: runs on {model.engine}; engine {engine!r} needs a checkpoint or a run folder")
    return model
