"""ONNX files of every form as models, run by onnxruntime."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unrolled.engine.errors import ModelFileError
from unrolled.engine.models.draw_settings import DrawSettings
from unrolled.engine.models.step_contract import STEP, Draws, Flow, check_step
from unrolled.engine.sampling.philox import uniforms
from unrolled.engine.storage.checkpoint import Checkpoint
from unrolled.export.artifact.forms import RUN
from unrolled.export.artifact.metadata import FileInfo, parse_metadata
from unrolled.export.artifact.weight_storage import FLOAT32_STORAGE, WeightStorage
from unrolled.export.onnx.runner import OnnxRunner
from unrolled.export.onnx.stepper import OnnxStepper, open_session
from unrolled.runtime.models.flow_by_writing import TOKENS_PER_CALL, flow_by_writing
from unrolled.runtime.models.onnx_bound_steps import OnnxBoundSteps
from unrolled.runtime.models.pickling import Rebuildable
from unrolled.runtime.models.sequence_model import EngineSequenceModel, ModelRecord

CAPABILITIES = {  # by form
    "step": STEP | {"bind"},
    "generate": frozenset({"generate", "write", "flow"}),
    "both": STEP | {"write", "flow"},
}


def _weights_digest(weights: WeightStorage, checkpoint_digest: str) -> str:
    """Return a digest of the weights that a graph computes with.

    Weights restored from fp16 or int8 differ from the checkpoint's, and products in int8 give other states.
    """
    if not weights.digest:
        return checkpoint_digest
    return f"{weights.digest} int8" if weights.quantized else weights.digest


class OnnxModel(OnnxStepper, Rebuildable):
    """An ONNX file that onnxruntime runs on the CPU, in the step form."""

    engine = "onnxruntime"

    def __init__(self, session: Any, info: FileInfo, where: str) -> None:
        super().__init__(session, info.config, info.form, where)
        self.weights, self.tokenizer, self.capabilities = info.weights, info.tokenizer, CAPABILITIES[info.form]
        self.training, self.digest = info.training, info.checkpoint_digest

    @property
    def weights_digest(self) -> str:
        """Return a digest of the weights that the graph computes with."""
        return _weights_digest(self.weights, self.digest)

    def bind(self, rows: int) -> OnnxBoundSteps:
        """Return steps on bound arrays; only for the step form."""
        return OnnxBoundSteps(self.session, self.config, rows)


_DRAWN = DrawSettings(True, 1.0, 0, 1.0, 0)
_MOST_PROBABLE = _DRAWN._replace(top_k=1)  # of these, at any uniform, the graph draws the most probable token


def _setting_inputs(settings: DrawSettings, end_token: int | None) -> dict[str, NDArray]:
    arrays = settings.as_arrays()
    return {
        "temperature": arrays.temperature,
        "top_k": arrays.top_k,
        "top_p": arrays.top_p,
        "end_token": np.array(-1 if end_token is None else end_token, np.int64),
    }


class OnnxWriter(OnnxModel):
    """An ONNX file of a form that writes whole texts inside the graph."""

    min_call_tokens = TOKENS_PER_CALL

    def step(self, tokens: NDArray[np.int64], state: NDArray) -> tuple[NDArray, NDArray]:
        if self.form == "generate":
            raise ModelFileError(
                f"{self._where}: a file of form generate writes texts and shows no logits; export --form both for them"
            )
        check_step(self.config, tokens, state)
        T, B = tokens.shape
        inputs = {"tokens": tokens, "state": state, "lengths": np.full(B, T, np.int64), "uniforms": np.empty((0, B))}
        return self._step(tokens, inputs | _setting_inputs(_DRAWN, None))

    def write(
        self, tokens: NDArray[np.int64], lengths: NDArray[np.int64], state: NDArray, draws: Draws
    ) -> tuple[NDArray[np.int64], NDArray]:
        """Write tokens after prompts, as ``unrolled.engine.models.step_contract.WritingModel``."""
        check_step(self.config, tokens, state)
        steps = draws.first_step + np.arange(draws.steps)[:, None]
        inputs = {"tokens": tokens, "lengths": lengths, "state": state}
        if draws.settings.do_sample:
            inputs["uniforms"] = uniforms(draws.settings.seed, draws.sequences, steps)
            inputs |= _setting_inputs(draws.settings, self.tokenizer.end_id)
        else:
            inputs["uniforms"] = np.zeros((draws.steps, len(lengths)))
            inputs |= _setting_inputs(_MOST_PROBABLE, self.tokenizer.end_id)
        written, moved = self._run(["written", "final_state"], inputs)
        self._check_written(written, moved, draws.steps, len(lengths))
        if not np.isfinite(moved).all():
            raise ModelFileError(f"{self._where}: the model's state is not finite; its weights are damaged")
        return written, moved

    def flow(self, state: NDArray, flow: Flow, slots: int, least: float = 0.0) -> None:
        """Advance rows as ``unrolled.engine.models.step_contract.FlowingModel``, by calls of ``write``."""
        flow_by_writing(self, state, flow, slots)

    def _check_written(self, written: Any, moved: Any, steps: int, B: int) -> None:
        """Check that a graph wrote from 1 to ``steps`` tokens a row, all in the vocabulary, and a state of the right shape."""
        V = self.config.vocab_size
        good = isinstance(written, np.ndarray) and written.dtype == np.int64 and written.ndim == 2
        good = good and written.shape[1] == B and min(steps, 1) <= len(written) <= steps
        if not good or (written < 0).any() or (written >= V).any():
            raise ModelFileError(f"{self._where}: the graph writes no tokens (1 … {steps}, {B}) from 0 to {V - 1}")
        if not isinstance(moved, np.ndarray) or moved.shape != self.config.state_shape(B):
            raise ModelFileError(f"{self._where}: the graph's final state has another shape than the config asks for")


def run_onnx(data: bytes, info: FileInfo, where: str) -> OnnxModel:
    """Return the language model of an ONNX file in memory, on as many threads as the environment asks for.

    Args:
        data: the file.
        info: its metadata.
        where: its name in error messages.

    Raises:
        ConfigError: the environment's number of threads is not a number.
        ModelFileError: onnxruntime cannot load the file, or its inputs and outputs do not fit its form and sizes.
    """
    session = open_session(data, where)
    model = (OnnxModel if info.form == "step" else OnnxWriter)(session, info, where)
    return model.built_by(run_onnx, data, info, where)


def run_sequence_onnx(data: bytes, info: FileInfo, where: str) -> EngineSequenceModel:
    """Return the model of an ONNX file of form ``run`` in memory, as ``run_onnx``."""
    runner = OnnxRunner(open_session(data, where), info.spec, where)
    digest = _weights_digest(info.weights, info.checkpoint_digest)
    record = ModelRecord(info.description.preprocessing, info.training, info.checkpoint_digest, digest, info.weights)
    return EngineSequenceModel(OnnxModel.engine, runner, record).built_by(run_sequence_onnx, data, info, where)


def open_onnx(path: Path) -> OnnxModel | EngineSequenceModel:
    """Open an ONNX file, which is checked before onnxruntime reads it.

    Raises:
        ModelFileError: the file was not written by this package, is damaged, or onnxruntime cannot load it.
    """
    from unrolled.export.onnx.reader import read_onnx

    data, _, info = read_onnx(path)
    return (run_sequence_onnx if info.form == RUN else run_onnx)(data, info, str(path))


def checkpoint_runner(checkpoint: Checkpoint) -> OnnxRunner:
    """Return what runs the graph that an export of the checkpoint would write in the form ``run``."""
    from unrolled.export.onnx.writer import bare_model

    where = "the graph of the checkpoint"
    data = bare_model(checkpoint.spec, checkpoint.float32(), RUN).SerializeToString()
    return OnnxRunner(open_session(data, where), checkpoint.spec, where)


def open_checkpoint(checkpoint: Checkpoint, form: str = "step", weights: WeightStorage = FLOAT32_STORAGE) -> OnnxModel:
    """Return the model of the graph that an export of the checkpoint would write, without golden cases."""
    from unrolled.export.onnx.writer import build

    where = "the graph of the checkpoint"
    model = build(checkpoint, form, weights, golden=False)
    info = parse_metadata({prop.key: prop.value for prop in model.metadata_props}, where)
    opened = run_onnx(model.SerializeToString(), info, where)
    return opened.built_by(open_checkpoint, checkpoint, form, weights)
