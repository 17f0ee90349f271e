"""The engines as StepModels: a checkpoint runs on any of ``ENGINES``, each imported only when it is asked for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unrolled.engine.checkpoint import Checkpoint
from unrolled.engine.config import ModelConfig
from unrolled.engine.contract import StepModel, Stepper, check_step
from unrolled.engine.errors import ConfigError, MissingDependencyError
from unrolled.engine.text import Tokenizer
from unrolled.export.metadata import FileInfo


class TokenizedModel:
    """A model of one of the engines together with its tokeniser; ``info`` is what its file says, if it has one."""

    def __init__(self, engine: str, model: Stepper, tokenizer: Tokenizer, info: FileInfo | None = None) -> None:
        self.engine, self.tokenizer, self.info = engine, tokenizer, info
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
        raise needs_torch("the torch engine") from error
    module = make_torch_model(checkpoint.config, _float32(checkpoint)).eval()
    return TokenizedModel("torch", TorchModule(checkpoint.config, module), checkpoint.tokenizer)


def _torchscript(checkpoint: Checkpoint) -> StepModel:
    try:
        from unrolled.export.torchscript import script
    except ModuleNotFoundError as error:
        raise needs_torch("the torchscript engine") from error
    module = TorchModule(checkpoint.config, script(checkpoint))
    return TokenizedModel("torchscript", module, checkpoint.tokenizer)


def _onnxruntime(checkpoint: Checkpoint) -> StepModel:
    from unrolled.export.onnx_graph import build_step
    from unrolled.runtime.onnx_model import OnnxModel

    return OnnxModel(build_step(checkpoint, golden=False).SerializeToString(), "the graph of the checkpoint")


def needs_torch(what: str) -> MissingDependencyError:
    return MissingDependencyError(f'{what} needs torch: pip install "unrolled[torch]"')


ENGINES: dict[str, Callable[[Checkpoint], StepModel]] = {
    "numpy": _from_scratch("numpy"),
    "numba": _from_scratch("numba"),
    "torch": _torch,
    "torchscript": _torchscript,
    "onnxruntime": _onnxruntime,
}


def make_model(checkpoint: Checkpoint, engine: str) -> StepModel:
    """A checkpoint as a StepModel on one of ``ENGINES``."""
    if engine not in ENGINES:
        raise ConfigError(f"engine: got {engine!r}, choose one of {', '.join(ENGINES)}")
    return ENGINES[engine](checkpoint)
