"""Steps whose rows do not see each other: the same bits for a row whatever stands beside it, and however many.

Products of different sizes take different ways through a library, which round differently; a text would then depend on
its neighbours. What each engine needs against that was measured row by row, and tests hold it:

- numba makes every row alike.
- onnxruntime too, but for a product of one row, which its RNN operator makes another way.
- torch makes rows alike in batches of a multiple of four, one step at a time; its sequences round differently, and so
  do products of less than twelve columns, whose rows are made one by one. Its library promises none of it.
- NumPy's BLAS makes rows alike among eight, and not among more.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unrolled.engine.models.step_contract import StepModel

READ_VALUES = 1 << 22  # logits that one call may make where only the last are wanted: 16 MB

Move = Callable[[NDArray[np.int64], NDArray], tuple[NDArray, NDArray]]  # one step of tokens (B,), or all of (T, B)


def _sequences(model: StepModel, missing: Callable[[int], int]) -> Move:
    """Read many steps in a call, as many as ``READ_VALUES`` allows; ``missing`` rows of B are added and thrown away."""

    def read(tokens: NDArray[np.int64], state: NDArray) -> tuple[NDArray, NDArray]:
        T, B = tokens.shape
        if more := missing(B):
            tokens = np.pad(tokens, ((0, 0), (0, more)))
            state = np.pad(state, ((0, 0), (0, 0), (0, more), (0, 0)))
        logits = np.empty(0, np.float32)
        chunk = max(READ_VALUES // (tokens.shape[1] * model.config.vocab_size), 1)
        for begin in range(0, T, chunk):
            logits, state = model.step(np.ascontiguousarray(tokens[begin : begin + chunk]), state)
        return logits[-1, :B], np.ascontiguousarray(state[:, :, :B])

    return read


def _one(read: Move) -> Move:
    return lambda tokens, state: read(tokens[None], state)


def _padded(model: StepModel, multiple: int) -> Move:
    """One step, the batch filled up to a multiple."""
    return _one(_sequences(model, lambda B: -B % multiple))


def _blocks(model: StepModel, size: int) -> Move:
    """One step, rows in blocks of one size, the last one filled up."""
    one = _padded(model, size)

    def step(tokens: NDArray[np.int64], state: NDArray) -> tuple[NDArray, NDArray]:
        logits = np.empty((len(tokens), model.config.vocab_size), np.float32)
        moved = np.empty_like(state)
        for b in range(0, len(tokens), size):
            some = slice(b, b + size)
            logits[some], moved[:, :, some] = one(tokens[some], np.ascontiguousarray(state[:, :, some]))
        return logits, moved

    return step


def _one_by_one(step: Move) -> Move:
    def read(tokens: NDArray[np.int64], state: NDArray) -> tuple[NDArray, NDArray]:
        logits = np.empty(0, np.float32)
        for now in tokens:
            logits, state = step(now, state)
        return logits, state

    return read


def _whole(model: StepModel, least: int = 1) -> tuple[Move, Move]:
    read = _sequences(model, lambda B: max(least - B, 0))
    return _one(read), read


def _onnxruntime(model: StepModel) -> tuple[Move, Move]:
    return _whole(model, least_rows(model))


def least_rows(model: StepModel) -> int:
    """With how many onnxruntime gives a row the bits that it has among more of them."""
    return 2 if model.config.cell.startswith("rnn") else 1


def _torch(model: StepModel) -> tuple[Move, Move]:
    step = _padded(model, 4) if min(model.config.vocab_size, model.config.hidden_size) >= 12 else _blocks(model, 1)
    return step, _one_by_one(step)


def _numpy(model: StepModel) -> tuple[Move, Move]:
    step = _blocks(model, 8)
    return step, _one_by_one(step)


def _numba(model: Any) -> tuple[Move, Move]:
    if "read" not in model.capabilities:  # a model in training, whose weights are not packed
        return _whole(model)
    return _one(model.read), model.read


_ENGINES: dict[str, Callable[[Any], tuple[Move, Move]]] = {
    "numpy": _numpy,
    "numba": _numba,
    "numba-bf16": _numba,
    "torch": _torch,
    "torchscript": _torch,
    "onnxruntime": _onnxruntime,
}


class _Bound:
    """Steps of an ONNX file on arrays that are bound to its session as long as the number of rows stays the same.

    With arrays that are new at every step the system hands out, and clears, some hundred pages each time.
    """

    def __init__(self, model: Any, least: int) -> None:
        self._model, self._least, self._rows = model, least, 0
        self._bound: Any = None

    def __call__(self, tokens: NDArray[np.int64], state: NDArray) -> tuple[NDArray, NDArray]:
        if len(tokens) != self._rows:
            self._rows = len(tokens)
            self._bound = self._model.bind(max(self._rows, self._least))
        return self._bound.move(tokens, state)


class RowModel:
    """A model whose rows do not see each other, as far as its engine is known.

    Attributes:
        step: tokens (B,), state (S, L, B, H) -> logits (B, V), state.
        read: tokens (T, B), state -> logits (B, V) behind the last of them, state.
    """

    def __init__(self, model: StepModel) -> None:
        self.config = model.config
        self.step, self.read = _ENGINES.get(model.engine, _whole)(model)
        self._model: Any = model

    def mover(self) -> Move:
        """A function like ``step`` for one caller, whose next two calls may write over what it gave."""
        return _Bound(self._model, least_rows(self._model)) if "bind" in self._model.capabilities else self.step
