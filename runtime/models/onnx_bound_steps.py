"""Steps of an ONNX session on arrays that are bound to it once, which leaves little work beside the graph's own."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from unrolled.engine.errors import ModelFileError, first_line
from unrolled.engine.models.language_model_config import LanguageModelConfig


class OnnxBoundSteps:
    """Steps of a fixed number of rows, of which only the first ones may be in use, on arrays bound to the session once.

    Two states take turns: each is read in one step and written in the next. The arrays live as long as this object, which
    must not be used by two threads.
    """

    def __init__(self, session: Any, config: LanguageModelConfig, rows: int) -> None:
        self._session = session
        self._tokens = np.zeros((1, rows), np.int64)
        self._logits = np.empty((1, rows, config.vocab_size), np.float32)
        self._states = [np.zeros(config.state_shape(rows), np.float32) for _ in range(2)]
        self._bindings = [self._bind(*self._states), self._bind(*self._states[::-1])]
        self._read = 0
        self._last: NDArray | None = None

    def _bind(self, state: NDArray, moved: NDArray) -> Any:
        binding = self._session.io_binding()
        for name, array in (("tokens", self._tokens), ("state", state)):
            binding.bind_input(name, "cpu", 0, array.dtype, array.shape, array.ctypes.data)
        for name, array in (("logits", self._logits), ("next_state", moved)):
            binding.bind_output(name, "cpu", 0, array.dtype, array.shape, array.ctypes.data)
        return binding

    def begin(self, state: NDArray) -> None:
        """Start from a state (S, L, 1, H)."""
        self._states[self._read][:] = state

    def move(self, tokens: NDArray[np.int64], state: NDArray) -> tuple[NDArray, NDArray]:
        """Return logits (n, V) and state (S, L, n, H) of the first n rows; the next two calls overwrite them.

        The state that the last call returned is not copied: changes to it since then take effect.

        Raises:
            ModelFileError: the graph does not run.
        """
        n = len(tokens)
        self._tokens[0, :n] = tokens
        if state is not self._last:
            self._states[self._read][:, :, :n] = state
        self._run()
        whole = self._states[self._read]
        moved = whole if n == whole.shape[2] else whole[:, :, :n]
        self._last = moved
        return self._logits[0, :n], moved

    def step(self, token: int) -> NDArray:
        """Return logits (V,) after the token; the next step overwrites them.

        Raises:
            ModelFileError: the graph does not run.
        """
        self._tokens[0, 0] = token
        self._run()
        return self._logits[0, 0]

    def _run(self) -> None:
        try:
            self._session.run_with_iobinding(self._bindings[self._read])
        except Exception as error:  # onnxruntime's own exceptions have no public base class
            raise ModelFileError(f"the graph does not run ({first_line(error)})") from error
        self._read = 1 - self._read
