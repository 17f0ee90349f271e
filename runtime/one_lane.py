"""One text on an ONNX file of the step form: everything but the model's own run takes a few microseconds a token.

The arrays that go in and out are bound to the session once, two states that take turns, and drawing works in place.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unrolled.engine.contract import StepModel
from unrolled.engine.errors import ModelFileError
from unrolled.runtime.philox import uniforms
from unrolled.runtime.rows import Row
from unrolled.runtime.sampling import SamplingConfig, choose


class _Chooser:
    """``choose`` for one row of logits (V,), the same bits; without filters it allocates nothing.

    The functions that NumPy's methods and ``cumsum`` call are called themselves: 1.4 µs in place of 4.4 for the sum.
    """

    def __init__(self, rules: SamplingConfig, V: int) -> None:
        self._rules, self._last = rules, V - 1
        self._filtered = 0 < rules.top_k < V or rules.top_p < 1
        self._weights, self._cdf = np.empty(V), np.empty(V)

    def __call__(self, logits: NDArray, u: float) -> int:
        rules, weights, cdf = self._rules, self._weights, self._cdf
        largest = float(np.maximum.reduce(logits))
        if self._filtered or not math.isfinite(largest):
            return int(choose(logits[None], rules, np.array([u]))[0])
        if not rules.do_sample:
            return int(logits.argmax())
        if rules.temperature == 1.0:
            np.subtract(logits, largest, out=weights, dtype=np.float64)
        else:
            np.divide(logits, rules.temperature, out=weights, dtype=np.float64)
            np.subtract(weights, largest / rules.temperature, out=weights)
        np.exp(weights, out=weights)
        np.add.accumulate(weights, out=cdf)
        index = int(cdf.searchsorted(u * cdf[-1], "right"))
        return index if index <= self._last else int(np.flatnonzero(weights)[-1])


class OneLane:
    """A lane for plain rows, one after the other.

    Args:
        model: an ``OnnxModel`` of the step form.
    """

    def __init__(self, model: StepModel) -> None:
        any_model: Any = model
        self.rows: list[Row] = []
        self._model, self._eos = model, model.tokenizer.eos_id
        self._bound = any_model.bind(2 if model.config.cell.startswith("rnn") else 1)  # as in unrolled.runtime.rowwise
        self._logits = np.empty(model.config.vocab_size, np.float32)

    def replace(self, going: NDArray[np.bool_], rows: list[Row], read: Any) -> None:
        if rows:
            (row,), (logits, state) = rows, read
            self._bound.begin(state)
            self._logits = logits[0]
            self._choose = _Chooser(row.rules, self._model.config.vocab_size)
        self.rows = rows

    def advance(self, chunk: int) -> bool:
        row = self.rows[0]
        steps = min(chunk, row.left)
        first, index = row.first_draw + len(row.tokens), np.array([row.request.index])
        u = uniforms(row.rules.seed, index, first + np.arange(steps)).tolist() if row.rules.do_sample else [0.0] * steps
        choose_one, step, logits, eos, looks = self._choose, self._bound.step, self._logits, self._eos, row.looks
        written: list[int] = []
        try:
            for value in u:
                token = choose_one(logits, value)
                written.append(token)
                if looks:
                    row.extend(written)
                    written = []
                    if row.reason is not None:
                        return True
                elif token == eos:
                    break
                logits = step(token)
        except Exception as error:
            if isinstance(error, ModelFileError):
                raise
            raise ModelFileError(f"the graph does not run ({error})") from error  # onnxruntime's own have no base class
        self._logits = logits
        if written:
            row.extend(written)
        return row.reason is not None
