"""An ONNX file of the step form as a StepModel, run by onnxruntime."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from unrolled.engine.contract import check_step
from unrolled.engine.errors import ModelFileError
from unrolled.export.metadata import STEP_INPUTS, STEP_OUTPUTS, FileInfo, parse_metadata


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
            raise ModelFileError(
                f"{where}: not an ONNX file that onnxruntime can load ({_first_line(error)})"
            ) from error
        info = parse_metadata(self._session.get_modelmeta().custom_metadata_map, where)
        self.config, self.tokenizer = info.config, info.tokenizer
        self.info: FileInfo = info
        names = {value.name for value in (*self._session.get_inputs(), *self._session.get_outputs())}
        if missing := {*STEP_INPUTS, *STEP_OUTPUTS} - names:
            raise ModelFileError(f"{where}: has no {', '.join(sorted(missing))}, which the step form needs")

    def step(self, tokens: NDArray[np.int64], state: NDArray) -> tuple[NDArray, NDArray]:
        check_step(self.config, tokens, state)
        logits, state = self._session.run(["logits", "next_state"], {"tokens": tokens, "state": state})
        return logits, state


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]
