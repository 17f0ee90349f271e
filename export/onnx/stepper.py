"""Steps of an ONNX graph by onnxruntime, which is imported with the first session."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from unrolled.engine.cores import onnxruntime_threads
from unrolled.engine.errors import ModelFileError, first_line
from unrolled.engine.models.language_model_config import LanguageModelConfig
from unrolled.engine.models.step_contract import check_step, check_step_results
from unrolled.export.artifact.forms import FORMS


def open_session(data: bytes, where: str) -> Any:
    """Return an ``InferenceSession`` on the CPU, with as many threads as the environment asks for.

    Args:
        data: an ONNX file.
        where: its name in error messages.

    Raises:
        ConfigError: the environment's number of threads is not a number.
        ModelFileError: onnxruntime cannot load the file.
    """
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.log_severity_level = 4  # errors are reported by this package, not by the library's log
    if (threads := onnxruntime_threads()) is not None:
        options.intra_op_num_threads = threads
    try:
        # The fallback would retry the same provider and print to standard output.
        return ort.InferenceSession(data, options, providers=["CPUExecutionProvider"], enable_fallback=0)
    except Exception as error:  # onnxruntime's own exceptions have no public base class
        raise ModelFileError(f"{where}: not an ONNX file that onnxruntime can load ({first_line(error)})") from error


class OnnxStepper:
    """The step contract on an ONNX graph of the step form.

    Args:
        session: a session from ``open_session``.
        config: the model's config, which the graph's sizes must fit.
        form: the graph's form, a key of ``FORMS``.
        where: the graph's name in error messages.

    Raises:
        ModelFileError: the inputs and outputs are not those of the form and the config.
    """

    def __init__(self, session: Any, config: LanguageModelConfig, form: str, where: str) -> None:
        self.session, self.config, self.form, self._where = session, config, form, where
        self._check_sizes()

    def _check_sizes(self) -> None:
        """Check names and fixed sizes of the graph's inputs and outputs."""
        form = FORMS[self.form]
        values = {v.name: v.shape for v in (*self.session.get_inputs(), *self.session.get_outputs())}
        if missing := {*form.inputs, *form.outputs} - set(values):
            raise ModelFileError(
                f"{self._where}: has no {', '.join(sorted(missing))}, which its form {self.form} needs"
            )
        S, L, _, H = self.config.state_shape(1)
        sizes = {"state": (S, L, None, H), "logits": (None, None, self.config.vocab_size)}
        for name, wanted in sizes.items():
            shape = values.get(name, wanted)
            if len(shape) != len(wanted) or any(
                w is not None and w != got for w, got in zip(wanted, shape, strict=True)
            ):
                raise ModelFileError(f"{self._where}: {name} has shape {shape}, the config asks for {wanted}")

    def _run(self, outputs: list[str], inputs: dict[str, NDArray]) -> Any:
        try:
            return self.session.run(outputs, inputs)
        except Exception as error:  # onnxruntime's own exceptions have no public base class
            raise ModelFileError(f"{self._where}: the graph does not run ({first_line(error)})") from error

    def _step(self, tokens: NDArray[np.int64], inputs: dict[str, NDArray]) -> tuple[NDArray, NDArray]:
        """Run the graph on ``inputs``, of which ``tokens`` (T, B) is one; return checked logits and state."""
        logits, moved = self._run(["logits", "next_state"], inputs)
        check_step_results(self.config, tokens, logits, moved)
        return logits, moved

    def step(self, tokens: NDArray[np.int64], state: NDArray) -> tuple[NDArray, NDArray]:
        """Return logits (T, B, V) and the state after tokens (T, B) from a state (S, L, B, H)."""
        check_step(self.config, tokens, state)
        return self._step(tokens, {"tokens": tokens, "state": state})
