"""Checkpoints as models on any of ``ENGINES``; each engine is imported when it is first used."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from unrolled.engine.checks import check_choice
from unrolled.engine.errors import ConfigError, MissingDependencyError, ModelFileError, first_line
from unrolled.engine.models.heads.head import Outputs
from unrolled.engine.models.language_model_config import LanguageModelConfig
from unrolled.engine.models.parameters import Params
from unrolled.engine.models.spec import ModelSpec
from unrolled.engine.models.step_contract import (
    STEP,
    Flow,
    Runner,
    StepModel,
    Stepper,
    check_ids,
    check_step,
    check_step_results,
)
from unrolled.engine.network.backends import BF16, FLOAT32, check_precision
from unrolled.engine.network.language_model import LanguageModel
from unrolled.engine.network.network import Network
from unrolled.engine.storage.checkpoint import Checkpoint
from unrolled.engine.tokenizers.contract import Tokenizer
from unrolled.runtime.models.argument_checks import shown
from unrolled.runtime.models.pickling import Rebuildable
from unrolled.runtime.models.sequence_model import EngineSequenceModel, ModelRecord

if TYPE_CHECKING:
    from unrolled.runtime.models.onnx_model import OnnxModel


class TokenizedModel(Rebuildable):
    """A model on one of the engines, with its tokenizer, training record and digest."""

    capabilities = STEP

    def __init__(
        self,
        engine: str,
        model: Stepper,
        tokenizer: Tokenizer,
        training: dict[str, Any] | None = None,
        digest: str = "",
    ) -> None:
        self.engine, self.tokenizer, self.training = engine, tokenizer, training or {}
        self.digest = self.weights_digest = digest
        self.config: LanguageModelConfig = model.config
        self.step = model.step


class NumbaModel(TokenizedModel):
    """A model on the compiled engine, which also generates texts; its weights are packed with the first text."""

    capabilities = STEP | {"read", "flow"}
    min_call_tokens = 256  # a stop text in one of 16 rows then wastes at most 15 tokens of it

    def __init__(self, checkpoint: Checkpoint, precision: str = FLOAT32) -> None:
        self._params, self._precision = checkpoint.float32(), precision
        model = LanguageModel(checkpoint.config, self._params, "numba", precision)
        super().__init__(model.engine, model, checkpoint.tokenizer, checkpoint.training, checkpoint.digest)

    @cached_property
    def _decoder(self) -> Any:
        from unrolled.engine.kernels.decode.decoder import Decoder
        from unrolled.engine.kernels.gemm.packing import choose_packing

        return Decoder(self.config, self._params, choose_packing(self._precision == BF16))

    def flow(self, state: NDArray, flow: Flow, slots: int, least: float = 0.0) -> None:
        check_ids(self.config, flow.tokens)
        eos = self.tokenizer.end_id
        self._decoder.flow(state, flow, -1 if eos is None else eos, slots, least)

    def read(self, tokens: NDArray[np.int64], state: NDArray) -> tuple[NDArray, NDArray]:
        check_step(self.config, tokens, state)
        return self._decoder.read(tokens, state)


def _tokenized(engine: str, model: Stepper, checkpoint: Checkpoint) -> TokenizedModel:
    return TokenizedModel(engine, model, checkpoint.tokenizer, checkpoint.training, checkpoint.digest)


class TorchStepper:
    """The step contract on a TorchLM, scripted or not."""

    def __init__(self, config: LanguageModelConfig, module: Any) -> None:
        from unrolled.export.torch.inference import run_step

        self.config, self.module, self._run = config, module, run_step

    def step(self, tokens: NDArray[np.int64], state: NDArray) -> tuple[NDArray, NDArray]:
        check_step(self.config, tokens, state)
        try:
            logits, moved = self._run(self.module, tokens, state)
        except Exception as error:  # a scripted program may raise any exception
            raise ModelFileError(f"the model's graph does not run ({first_line(error)})") from error
        check_step_results(self.config, tokens, logits, moved)
        return logits, moved


def _numpy_model(checkpoint: Checkpoint) -> TokenizedModel:
    return _tokenized("numpy", LanguageModel(checkpoint.config, checkpoint.float32(), "numpy"), checkpoint)


def _torch_model(checkpoint: Checkpoint) -> TokenizedModel:
    try:
        from unrolled.export.torch.model import make_torch_model
    except ImportError as error:
        raise needs_torch("the torch engine") from error
    module = make_torch_model(checkpoint.config, checkpoint.float32()).eval()
    return _tokenized("torch", TorchStepper(checkpoint.config, module), checkpoint)


def _torchscript_model(checkpoint: Checkpoint) -> TokenizedModel:
    try:
        from unrolled.export.torch.torchscript import script
    except ImportError as error:
        raise needs_torch("the torchscript engine") from error
    module = TorchStepper(checkpoint.config, script(checkpoint))
    return _tokenized("torchscript", module, checkpoint)


def _onnxruntime_model(checkpoint: Checkpoint) -> OnnxModel:
    from unrolled.runtime.models.onnx_model import open_checkpoint

    return open_checkpoint(checkpoint)


def needs_torch(what: str) -> MissingDependencyError:
    return MissingDependencyError(f'{what} needs torch: pip install "unrolled[torch]"')


def _numpy_runner(checkpoint: Checkpoint) -> Runner:
    return Network(checkpoint.spec, checkpoint.float32(), "numpy")


def _numba_runner(checkpoint: Checkpoint, precision: str = FLOAT32) -> Runner:
    return Network(checkpoint.spec, checkpoint.float32(), "numba", precision)


class TorchRunner:
    """A model of any description on a module of PyTorch."""

    def __init__(self, spec: ModelSpec, params: Params) -> None:
        from unrolled.export.torch.inference import run_network
        from unrolled.export.torch.network import TorchNetwork

        self.spec, self._module, self._run = spec, TorchNetwork(spec, params).eval(), run_network

    def run(
        self, inputs: Mapping[str, NDArray], lengths: NDArray[np.int64] | None = None, state: NDArray | None = None
    ) -> tuple[Outputs, NDArray]:
        return self._run(self._module, inputs, lengths, state)


def _torch_runner(checkpoint: Checkpoint) -> Runner:
    try:
        return TorchRunner(checkpoint.spec, checkpoint.float32())
    except ImportError as error:
        raise needs_torch("the torch engine") from error


def _torchscript_runner(checkpoint: Checkpoint) -> Runner:
    try:
        from unrolled.export.torch.torchscript import ScriptedRunner, script
    except ImportError as error:
        raise needs_torch("the torchscript engine") from error
    return ScriptedRunner(script(checkpoint), checkpoint.spec, "the program of the checkpoint")


def _onnxruntime_runner(checkpoint: Checkpoint) -> Runner:
    from unrolled.runtime.models.onnx_model import checkpoint_runner

    return checkpoint_runner(checkpoint)


class Engine(NamedTuple):
    """An engine on which checkpoints run.

    Args:
        language_model: makes the model of a language model's checkpoint.
        runner: makes what runs any other checkpoint.
    """

    language_model: Callable[[Checkpoint], TokenizedModel | OnnxModel]
    runner: Callable[[Checkpoint], Runner]


ENGINES: dict[str, Engine] = {
    "numpy": Engine(_numpy_model, _numpy_runner),
    "numba": Engine(NumbaModel, _numba_runner),
    "torch": Engine(_torch_model, _torch_runner),
    "torchscript": Engine(_torchscript_model, _torchscript_runner),
    "onnxruntime": Engine(_onnxruntime_model, _onnxruntime_runner),
}


def make_model(checkpoint: Checkpoint, engine: str, precision: str = FLOAT32) -> StepModel:
    """Return a language model's checkpoint as a StepModel on one of ``ENGINES``; only the numba engine has "bf16" products.

    Raises:
        ConfigError: engine and precision do not go together, or the checkpoint is not a language model's.
    """
    _check(checkpoint, engine, precision)
    make = ENGINES[engine].language_model
    model = make(checkpoint) if precision == FLOAT32 else NumbaModel(checkpoint, precision)
    return model.built_by(make_model, checkpoint, engine, precision)


def make_sequence_model(checkpoint: Checkpoint, engine: str, precision: str = FLOAT32) -> EngineSequenceModel:
    """Return a checkpoint as a SequenceModel on one of ``ENGINES``; only the numba engine has "bf16" products.

    Raises:
        ConfigError: engine and precision do not go together.
    """
    _check(checkpoint, engine, precision)
    make = ENGINES[engine].runner
    runner = make(checkpoint) if precision == FLOAT32 else _numba_runner(checkpoint, precision)
    digest = checkpoint.digest
    record = ModelRecord(checkpoint.preprocessing, checkpoint.training, digest, digest)
    name = engine if precision == FLOAT32 else f"{engine}-{precision}"
    return EngineSequenceModel(name, runner, record).built_by(make_sequence_model, checkpoint, engine, precision)


def _check(checkpoint: object, engine: str, precision: str) -> None:
    """Check the arguments of ``make_model``."""
    if not isinstance(checkpoint, Checkpoint):
        raise ConfigError(f"checkpoint: got {shown(checkpoint)}, needs a Checkpoint; load(path) takes paths")
    check_choice("engine", engine, ENGINES)
    check_precision(engine, precision)
