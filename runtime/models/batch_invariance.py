"""Batch invariance: steps in which a row has the same bits in every batch, whatever its neighbours and their number.

Libraries compute products of different sizes in different orders, which round differently; without precautions a text would
depend on the other rows of its batch. The precautions for each engine were measured row by row, and tests check them:

- numba: none, all rows are computed alike.
- onnxruntime: the same, except that its RNN operator computes a single row in another order; a second row is added.
- torch: rows are computed alike in batches of a multiple of four, one time step a call. Its sequences round differently, and
  so do products of less than twelve columns, whose rows are computed one by one. Its documentation promises none of this.
- NumPy: its BLAS computes rows alike in batches of eight, and not in larger ones.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, cast

import numpy as np
from numpy.typing import NDArray

from unrolled.engine.models.step_contract import BindingModel, BoundSteps, ReadingModel, StepModel

MOST_LOGITS = 1 << 22  # the most logits of a call whose last step alone is needed: 16 MB

Advance = Callable[[NDArray[np.int64], NDArray], tuple[NDArray, NDArray]]  # over one step, tokens (B,), or many, (T, B)


class RowCalls(NamedTuple):
    """Calls of one engine that are batch invariant.

    Args:
        step: tokens (B,), state (S, L, B, H) -> logits (B, V), state.
        read: tokens (T, B), state -> logits (B, V) after the last step, state.
    """

    step: Advance
    read: Advance


def min_rows(model: StepModel) -> int:
    """Return the smallest batch in which onnxruntime computes a row as in larger batches."""
    return 2 if model.config.cell.startswith("rnn") else 1


def _chunked_read(model: StepModel, padding: Callable[[int], int]) -> Advance:
    """Return a read in chunks of time of at most ``MOST_LOGITS`` logits; ``padding(B)`` rows are added and dropped again."""

    def read(tokens: NDArray[np.int64], state: NDArray) -> tuple[NDArray, NDArray]:
        T, B = tokens.shape
        if added := padding(B):
            tokens = np.pad(tokens, ((0, 0), (0, added)))
            state = np.pad(state, ((0, 0), (0, 0), (0, added), (0, 0)))
        logits = np.empty(0, np.float32)
        chunk = max(MOST_LOGITS // (tokens.shape[1] * model.config.vocab_size), 1)
        for begin in range(0, T, chunk):
            logits, state = model.step(np.ascontiguousarray(tokens[begin : begin + chunk]), state)
        return logits[-1, :B], np.ascontiguousarray(state[:, :, :B])

    return read


def _stepwise_read(step: Advance) -> Advance:
    """Return a read that calls ``step`` for each time step."""

    def read(tokens: NDArray[np.int64], state: NDArray) -> tuple[NDArray, NDArray]:
        logits = np.empty(0, np.float32)
        for step_tokens in tokens:
            logits, state = step(step_tokens, state)
        return logits, state

    return read


def _single_step(read: Advance) -> Advance:
    """Return a step that reads a sequence of length 1."""
    return lambda tokens, state: read(tokens[None], state)


def _padded_step(model: StepModel, multiple: int) -> Advance:
    """Return a step of a batch that is padded to a multiple."""
    return _single_step(_chunked_read(model, lambda B: -B % multiple))


def _blocked_step(model: StepModel, size: int) -> Advance:
    """Return a step of blocks of ``size`` rows, the last one padded."""
    padded_step = _padded_step(model, size)

    def step(tokens: NDArray[np.int64], state: NDArray) -> tuple[NDArray, NDArray]:
        logits = np.empty((len(tokens), model.config.vocab_size), np.float32)
        moved = np.empty_like(state)
        for b in range(0, len(tokens), size):
            block = slice(b, b + size)
            logits[block], moved[:, :, block] = padded_step(tokens[block], np.ascontiguousarray(state[:, :, block]))
        return logits, moved

    return step


def _unpadded(model: StepModel) -> RowCalls:
    """Return the calls of a model whose own steps are batch invariant."""
    return _padded_to(model, 1)


def _padded_to(model: StepModel, rows: int) -> RowCalls:
    """Return the calls of a model whose steps are batch invariant from ``rows`` rows on."""
    read = _chunked_read(model, lambda B: max(rows - B, 0))
    return RowCalls(_single_step(read), read)


def _onnxruntime_calls(model: StepModel) -> RowCalls:
    return _padded_to(model, min_rows(model))


def _torch_calls(model: StepModel) -> RowCalls:
    narrow = min(model.config.vocab_size, model.config.hidden_size) < 12
    step = _blocked_step(model, 1) if narrow else _padded_step(model, 4)
    return RowCalls(step, _stepwise_read(step))


def _numpy_calls(model: StepModel) -> RowCalls:
    step = _blocked_step(model, 8)
    return RowCalls(step, _stepwise_read(step))


def _numba_calls(model: StepModel) -> RowCalls:
    if "read" not in model.capabilities:  # a model in training, whose weights are not packed
        return _unpadded(model)
    reading = cast(ReadingModel, model)
    return RowCalls(_single_step(reading.read), reading.read)


ROW_CALLS: dict[str, Callable[[StepModel], RowCalls]] = {
    "numpy": _numpy_calls,
    "numba": _numba_calls,
    "numba-bf16": _numba_calls,
    "torch": _torch_calls,
    "torchscript": _torch_calls,
    "onnxruntime": _onnxruntime_calls,
}


class _RebindingStep:
    """Steps of an ONNX file on arrays that stay bound to its session while the number of rows stays the same.

    With new arrays at every step the system would allocate and clear several hundred pages each time.
    """

    def __init__(self, model: BindingModel) -> None:
        self._model, self._min_rows, self._rows = model, min_rows(model), 0
        self._bound: BoundSteps | None = None

    def __call__(self, tokens: NDArray[np.int64], state: NDArray) -> tuple[NDArray, NDArray]:
        if self._bound is None or len(tokens) != self._rows:
            self._rows = len(tokens)
            self._bound = self._model.bind(max(self._rows, self._min_rows))
        return self._bound.move(tokens, state)


class RowModel:
    """A model with batch-invariant calls, if its engine is one of ``ROW_CALLS``.

    Attributes:
        step: tokens (B,), state (S, L, B, H) -> logits (B, V), state.
        read: tokens (T, B), state -> logits (B, V) after the last step, state.
    """

    def __init__(self, model: StepModel) -> None:
        self.config = model.config
        self.step, self.read = ROW_CALLS.get(model.engine, _unpadded)(model)
        self._model = model

    def buffered_step(self) -> Advance:
        """Return a ``step`` for a single caller, whose next two calls may overwrite its results."""
        if "bind" in self._model.capabilities:
            return _RebindingStep(cast(BindingModel, self._model))
        return self.step
