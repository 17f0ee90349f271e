"""Calls of modules, scripted or not, on arrays."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from contextlib import nullcontext
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from unrolled.engine.models.heads.head import Outputs
from unrolled.engine.models.input_checks import checked_inputs
from unrolled.engine.models.step_contract import check_state, zero_state
from unrolled.export.torch.network import TorchNetwork


def shareable(array: NDArray) -> NDArray:
    """Return the array, or a copy if torch cannot take it as it is: with negative strides, or read-only."""
    # NumPy calls an axis of length 1 contiguous also where its stride is negative, which torch refuses.
    fits = array.flags.c_contiguous and array.flags.writeable and min(array.strides, default=0) >= 0
    return array if fits else array.copy()


def as_tensor(array: NDArray) -> Tensor:
    """Return a tensor that shares the array's memory, or that of a copy if torch cannot take the array as it is."""
    return torch.from_numpy(shareable(array))


mkldnn: Any = torch.backends.mkldnn  # typed Any: its flag is a property that mypy mistakes for a constant


class _OneDnnOff:
    """A context without oneDNN. The flag belongs to the process, so the last thread to leave restores it."""

    def __init__(self) -> None:
        self._lock, self._inside = threading.Lock(), 0
        self._before: Any = True

    def __enter__(self) -> None:
        with self._lock:
            if self._inside == 0:
                self._before = mkldnn.enabled
                mkldnn.enabled = False
            self._inside += 1

    def __exit__(self, *error: object) -> None:
        with self._lock:
            self._inside -= 1
            if self._inside == 0:
                mkldnn.enabled = self._before


_onednn_off = _OneDnnOff()


def run_step(model: Any, tokens: NDArray[np.int64], state: NDArray) -> tuple[NDArray, NDArray]:
    """Return logits (T, B, V) and state of one call of a module.

    oneDNN's LSTM repacks its weights at every call: one step at a time it takes 6,449 µs at H = 512, B = 1, and 474 µs
    without it, so single steps run without it.
    """
    with _onednn_off if tokens.shape[0] == 1 else nullcontext(), torch.inference_mode():
        logits, final = model(as_tensor(tokens), as_tensor(state))
    return logits.numpy(), final.numpy()


def packed_lengths(lengths: NDArray[np.int64] | None, T: int) -> Tensor | None:
    """Return the lengths (B,) of rows that have to be packed; None if all of them have T time steps."""
    return None if lengths is None or lengths.min() == T else as_tensor(lengths)


def run_network(
    model: TorchNetwork,
    inputs: Mapping[str, NDArray],
    lengths: NDArray[np.int64] | None = None,
    state: NDArray | None = None,
) -> tuple[Outputs, NDArray]:
    """Return the outputs of the head and the final state (S, L·D, B, H), by the contract of ``Network.run``.

    Raises:
        ShapeError: an array does not fit the model or the others.
    """
    checked = checked_inputs(model.spec, inputs, lengths)
    T, B = model.spec.batch_shape(checked)
    dtype = model.numpy_dtype
    state = zero_state(model.spec, B, dtype) if state is None else state
    check_state(model.spec, state, B, dtype)
    given = {name: as_tensor(array) for name, array in checked.items()}
    with _onednn_off if T == 1 else nullcontext(), torch.inference_mode():
        outputs, final = model(given, packed_lengths(lengths, T), as_tensor(state))
    return {name: value.numpy() for name, value in outputs.items()}, final.numpy()
