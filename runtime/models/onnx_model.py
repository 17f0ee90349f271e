"""An ONNX file of any form as a model, run by onnxruntime."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unrolled.engine.errors import ModelFileError, first_line
from unrolled.engine.models.config import ModelConfig
from unrolled.engine.models.draw_settings import DrawSettings
from unrolled.engine.models.step_contract import STEP, Draws, Flow, check_step
from unrolled.engine.sampling.philox import uniforms
from unrolled.engine.storage.checkpoint import Checkpoint
from unrolled.export.artifact.metadata import FileInfo, parse_metadata
from unrolled.export.artifact.weight_storage import FLOAT32_STORAGE, WeightStorage
from unrolled.export.onnx.stepper import OnnxStepper, open_session
from unrolled.runtime.models.flow_by_writing import flow_by_writing
from unrolled.runtime.models.pickling import Remade

CAPABILITIES = {  # by form
    "step": STEP | {"bind"},
    "generate": frozenset({"generate", "write", "flow"}),
    "both": STEP | {"write", "flow"},
}


class OnnxModel(OnnxStepper, Remade):
    """An ONNX file that onnxruntime runs on the CPU; this class is of the step form."""

    engine = "onnxruntime"

    def __init__(self, session: Any, info: FileInfo, where: str) -> None:
        super().__init__(session, info.config, info.form, where)
        self.weights, self.tokenizer, self.capabilities = info.weights, info.tokenizer, CAPABILITIES[info.form]
        self.training, self.digest = info.training, info.checkpoint_digest

    def bind(self, rows: int) -> BoundStep:
        """Steps with next to no work around them; of the step form only."""
        return BoundStep(self.session, self.config, rows)


class BoundStep:
    """Steps of a fixed number of rows, of which only the first may count, on arrays that are bound to the session once.

    Each of two states is read in one step and written in the next. The arrays live as long as this object; nothing of it
    may be used by two threads.
    """

    def __init__(self, session: Any, config: ModelConfig, rows: int) -> None:
        self._session = session
        self._tokens = np.zeros((1, rows), np.int64)
        self._logits = np.empty((1, rows, config.vocab_size), np.float32)
        self._states = [np.zeros(config.state_shape(rows), np.float32) for _ in range(2)]
        self._bindings = [self._bind(*self._states), self._bind(*self._states[::-1])]
        self._now = 0
        self._last: NDArray | None = None

    def _bind(self, state: NDArray, moved: NDArray) -> Any:
        binding = self._session.io_binding()
        for name, array in (("tokens", self._tokens), ("state", state)):
            binding.bind_input(name, "cpu", 0, array.dtype, array.shape, array.ctypes.data)
        for name, array in (("logits", self._logits), ("next_state", moved)):
            binding.bind_output(name, "cpu", 0, array.dtype, array.shape, array.ctypes.data)
        return binding

    def begin(self, state: NDArray) -> None:
        """Go on from a state (S, L, 1, H)."""
        self._states[self._now][:] = state

    def move(self, tokens: NDArray[np.int64], state: NDArray) -> tuple[NDArray, NDArray]:
        """Logits (n, V) and state (S, L, n, H) of the first n rows; the next two calls write them over.

        A state that the last call gave is not copied, whatever was written into it since.

        Raises:
            ModelFileError: the graph does not run.
        """
        n = len(tokens)
        self._tokens[0, :n] = tokens
        if state is not self._last:
            self._states[self._now][:, :, :n] = state
        self._run()
        whole = self._states[self._now]
        moved = whole if n == whole.shape[2] else whole[:, :, :n]
        self._last = moved
        return self._logits[0, :n], moved

    def step(self, token: int) -> NDArray:
        """Logits (V,) behind the token; they are written over by the next step.

        Raises:
            ModelFileError: the graph does not run.
        """
        self._tokens[0, 0] = token
        self._run()
        return self._logits[0, 0]

    def _run(self) -> None:
        try:
            self._session.run_with_iobinding(self._bindings[self._now])
        except Exception as error:  # onnxruntime's own exceptions have no public base class
            raise ModelFileError(f"the graph does not run ({first_line(error)})") from error
        self._now = 1 - self._now


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
        """As ``unrolled.engine.models.step_contract.WritingModel``."""
        check_step(self.config, tokens, state)
        steps = draws.first_step + np.arange(draws.steps)[:, None]
        inputs = {"tokens": tokens, "lengths": lengths, "state": state}
        if draws.settings.do_sample:
            inputs["uniforms"] = uniforms(draws.settings.seed, draws.sequences, steps)
            inputs |= _setting_inputs(draws.settings, self.tokenizer.eos_id)
        else:
            inputs["uniforms"] = np.zeros((draws.steps, len(lengths)))
            inputs |= _setting_inputs(_MOST_PROBABLE, self.tokenizer.eos_id)
        written, moved = self._run(["written", "final_state"], inputs)
        self._check_written(written, moved, draws.steps, len(lengths))
        if not np.isfinite(moved).all():
            raise ModelFileError(f"{self._where}: the model's state is not finite; its weights are damaged")
        return written, moved

    def flow(self, state: NDArray, flow: Flow, slots: int, least: float = 0.0) -> None:
        """Advance rows as ``unrolled.engine.models.step_contract.FlowingModel``, by calls of ``write``."""
        flow_by_writing(self, state, flow, slots)

    def _check_written(self, written: Any, moved: Any, steps: int, B: int) -> None:
        """A graph may write less than ``steps`` tokens a row, but not nothing, and none that is outside the vocabulary."""
        V = self.config.vocab_size
        good = isinstance(written, np.ndarray) and written.dtype == np.int64 and written.ndim == 2
        good = good and written.shape[1] == B and min(steps, 1) <= len(written) <= steps
        if not good or (written < 0).any() or (written >= V).any():
            raise ModelFileError(f"{self._where}: the graph writes no tokens (1 … {steps}, {B}) from 0 to {V - 1}")
        if not isinstance(moved, np.ndarray) or moved.shape != self.config.state_shape(B):
            raise ModelFileError(f"{self._where}: the graph's final state has another shape than the config asks for")


def run_onnx(data: bytes, info: FileInfo, where: str) -> OnnxModel:
    """An ONNX model in memory, whose metadata says ``info``, on as many threads as the environment says.

    Raises:
        ConfigError: it says no number of threads.
        ModelFileError: onnxruntime cannot load it, or its inputs and outputs are not those of its form and sizes.
    """
    session = open_session(data, where)
    model = (OnnxModel if info.form == "step" else OnnxWriter)(session, info, where)
    return model.made_by(run_onnx, data, info, where)


def open_onnx(path: Path) -> OnnxModel:
    """An ONNX file, checked before onnxruntime sees it.

    Raises:
        ModelFileError: it is not one of ours, is damaged, or onnxruntime cannot load it.
    """
    from unrolled.export.onnx.reader import read_onnx

    data, _, info = read_onnx(path)
    return run_onnx(data, info, str(path))


def open_checkpoint(checkpoint: Checkpoint, form: str = "step", weights: WeightStorage = FLOAT32_STORAGE) -> OnnxModel:
    """The graph that an export of the checkpoint would hold, in memory and without golden cases."""
    from unrolled.export.onnx.writer import build

    where = "the graph of the checkpoint"
    model = build(checkpoint, form, weights, golden=False)
    info = parse_metadata({prop.key: prop.value for prop in model.metadata_props}, where)
    opened = run_onnx(model.SerializeToString(), info, where)
    return opened.made_by(open_checkpoint, checkpoint, form, weights)
