"""An ONNX file of the step form as a StepModel, run by onnxruntime."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from unrolled.engine.contract import check_step
from unrolled.engine.errors import ModelFileError, first_line
from unrolled.export.metadata import STEP_INPUTS, STEP_OUTPUTS, parse_metadata


class OnnxModel:
    """An ONNX file of the step form, run by onnxruntime on the CPU."""

    engine = "onnxruntime"

    def __init__(self, source: Path | bytes, where: str) -> None:
        import onnxruntime as ort

        self._where = where
        options = ort.SessionOptions()
        options.log_severity_level = 4  # what is wrong with a file is told by our error, not by the library's log
        try:
            model = source if isinstance(source, bytes) else str(source)
            self._session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime's own exceptions have no public base class
            raise ModelFileError(
                f"{where}: not an ONNX file that onnxruntime can load ({first_line(error)})"
            ) from error
        info = parse_metadata(self._session.get_modelmeta().custom_metadata_map, where)
        self.config, self.tokenizer = info.config, info.tokenizer
        self.training, self.digest = info.training, info.checkpoint_digest
        self._check_sizes()

    def _check_sizes(self) -> None:
        """The graph's inputs and outputs are those of the step form, of the sizes that the config says."""
        values = {v.name: v.shape for v in (*self._session.get_inputs(), *self._session.get_outputs())}
        if missing := {*STEP_INPUTS, *STEP_OUTPUTS} - set(values):
            raise ModelFileError(f"{self._where}: has no {', '.join(sorted(missing))}, which the step form needs")
        S, L, _, H = self.config.state_shape(1)
        for name, wanted in (("state", (S, L, None, H)), ("logits", (None, None, self.config.vocab_size))):
            shape = values[name]
            if len(shape) != len(wanted) or any(
                w is not None and w != got for w, got in zip(wanted, shape, strict=True)
            ):
                raise ModelFileError(f"{self._where}: {name} has shape {shape}, the config asks for {wanted}")

    def step(self, tokens: NDArray[np.int64], state: NDArray) -> tuple[NDArray, NDArray]:
        check_step(self.config, tokens, state)
        try:
            logits, state = self._session.run(["logits", "next_state"], {"tokens": tokens, "state": state})
        except Exception as error:  # as above
            raise ModelFileError(f"{self._where}: the graph does not run ({first_line(error)})") from error
        return logits, state
