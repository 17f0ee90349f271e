"""An ONNX file of any form as a model, run by onnxruntime."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unrolled.engine.contract import Draws, StepModel, check_step
from unrolled.engine.errors import ModelFileError, first_line
from unrolled.export.metadata import FORMS, FileInfo, parse_metadata
from unrolled.runtime.philox import uniforms


class OnnxModel:
    """An ONNX file that onnxruntime runs on the CPU; this class is of the step form."""

    engine = "onnxruntime"

    def __init__(self, session: Any, info: FileInfo, where: str) -> None:
        self._session, self._where, self.form = session, where, info.form
        self.config, self.tokenizer = info.config, info.tokenizer
        self.training, self.digest = info.training, info.checkpoint_digest
        self._check_sizes()

    def _check_sizes(self) -> None:
        """The graph's inputs and outputs are those of its form, of the sizes that the config says."""
        form = FORMS[self.form]
        values = {v.name: v.shape for v in (*self._session.get_inputs(), *self._session.get_outputs())}
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
            return self._session.run(outputs, inputs)
        except Exception as error:  # onnxruntime's own exceptions have no public base class
            raise ModelFileError(f"{self._where}: the graph does not run ({first_line(error)})") from error

    def step(self, tokens: NDArray[np.int64], state: NDArray) -> tuple[NDArray, NDArray]:
        check_step(self.config, tokens, state)
        logits, moved = self._run(["logits", "next_state"], {"tokens": tokens, "state": state})
        return logits, moved


def _settings(temperature: float, top_k: int, top_p: float, end_token: int | None) -> dict[str, NDArray]:
    return {
        "temperature": np.array(temperature, np.float64),
        "top_k": np.array(top_k, np.int64),
        "top_p": np.array(top_p, np.float64),
        "end_token": np.array(-1 if end_token is None else end_token, np.int64),
    }


class OnnxWriter(OnnxModel):
    """Of the forms that write whole texts inside the graph."""

    def step(self, tokens: NDArray[np.int64], state: NDArray) -> tuple[NDArray, NDArray]:
        if self.form == "generate":
            raise ModelFileError(
                f"{self._where}: a file of form generate writes texts and shows no logits; export --form both for them"
            )
        check_step(self.config, tokens, state)
        T, B = tokens.shape
        inputs = {"tokens": tokens, "state": state, "lengths": np.full(B, T), "uniforms": np.empty((0, B))}
        logits, moved = self._run(["logits", "next_state"], inputs | _settings(1.0, 0, 1.0, None))
        return logits, moved

    def write(
        self, tokens: NDArray[np.int64], lengths: NDArray[np.int64], state: NDArray, draws: Draws
    ) -> tuple[NDArray[np.int64], NDArray]:
        """As ``unrolled.engine.contract.WritingModel``."""
        check_step(self.config, tokens, state)
        steps = np.arange(draws.first_step, draws.first_step + draws.steps)[:, None]
        inputs = {"tokens": tokens, "lengths": lengths, "state": state}
        if draws.do_sample:
            inputs["uniforms"] = uniforms(draws.seed, draws.sequences, steps)
            inputs |= _settings(draws.temperature, draws.top_k, draws.top_p, self.tokenizer.eos_id)
        else:
            inputs["uniforms"] = np.zeros((draws.steps, len(lengths)))
            inputs |= _settings(1.0, 1, 1.0, self.tokenizer.eos_id)
        written, moved = self._run(["written", "final_state"], inputs)
        if not np.isfinite(moved).all():
            raise ModelFileError(f"{self._where}: the model's state is not finite; its weights are damaged")
        return written, moved


def open_onnx(source: Path | bytes, where: str) -> StepModel:
    """An ONNX file, or one in memory.

    Raises:
        ModelFileError: onnxruntime cannot load it, or it is not one of ours.
    """
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.log_severity_level = 4  # what is wrong with a file is told by our error, not by the library's log
    try:
        model = source if isinstance(source, bytes) else str(source)
        session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's own exceptions have no public base class
        raise ModelFileError(f"{where}: not an ONNX file that onnxruntime can load ({first_line(error)})") from error
    info = parse_metadata(session.get_modelmeta().custom_metadata_map, where)
    return (OnnxModel if info.form == "step" else OnnxWriter)(session, info, where)
