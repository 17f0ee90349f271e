"""Storage of weights in an exported file: in float32, float16, or int8 with a scale for each row.

Smaller formats are restored to float32 outside any loop, by standard operators that every runtime folds as it loads the
file. A model with such weights computes what the engine computes with the restored weights, so the golden cases are made
with those.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from unrolled.engine.errors import ConfigError
from unrolled.engine.storage.checkpoint import Checkpoint

LARGEST = 127  # magnitude of int8 numbers: -128 is not used, so that the range is symmetric


@dataclass(frozen=True)
class NumberFormat:
    """A format of stored numbers.

    Args:
        item_bytes: bytes of a number.
        store: returns the stored numbers of a matrix, and a scale for each row if the format has scales.
    """

    title: str
    item_bytes: int
    store: Callable[[NDArray], tuple[NDArray, NDArray | None]]


def restore(stored: NDArray, scale: NDArray | None) -> NDArray:
    """Return the float32 matrix that the graph makes of stored numbers."""
    value = stored.astype(np.float32)
    return value if scale is None else value * scale


def _as_float32(value: NDArray) -> tuple[NDArray, None]:
    return value, None


def _as_half(value: NDArray) -> tuple[NDArray, None]:
    if np.abs(value).max(initial=0) > np.finfo(np.float16).max:
        raise ConfigError("weights: a number is too large for fp16; choose int8 or float32")
    return value.astype(np.float16), None


def _as_int8(value: NDArray) -> tuple[NDArray, NDArray]:
    """Return rows (..., n) as int8 and their scales (..., 1): the number of largest magnitude becomes ±127."""
    largest = np.abs(value).max(axis=-1, keepdims=True)
    scale = np.where(largest > 0, largest, 1).astype(np.float32) / np.float32(LARGEST)
    return np.clip(np.rint(value / scale), -LARGEST, LARGEST).astype(np.int8), scale


NUMBER_FORMATS: dict[str, NumberFormat] = {
    "float32": NumberFormat("float32", 4, _as_float32),
    "fp16": NumberFormat("float16, half the size", 2, _as_half),
    "int8": NumberFormat("int8 with a scale for each row, a quarter of the size", 1, _as_int8),
}


class WeightStorage(NamedTuple):
    """Storage of the weights of one exported file; the fields are the keys of its metadata.

    Args:
        storage: a key of ``NUMBER_FORMATS``.
        quantized: int8 products, in the output layer and in the recurrent layers of cells that have an operator for them.
        digest: digest of the restored weights; only in a file.
        tolerance: tolerance of logits against the golden cases.
    """

    storage: str = "float32"
    quantized: bool = False
    digest: str = ""
    tolerance: float = 1e-4  # engines differ by 1e-6 to 1e-5, a wrong weight changes far more


FLOAT32_STORAGE = WeightStorage()
# int8 products round every number to 1/255 of the largest of its call, with instructions that depend on the processor.
INT8_STORAGE = WeightStorage("int8", True, "", 0.1)


def as_restored(checkpoint: Checkpoint, number_format: str) -> Checkpoint:
    """Return the checkpoint with its matrices stored in a number format and restored; biases stay unchanged."""
    params = {
        name: restore(*NUMBER_FORMATS[number_format].store(value)) if value.ndim == 2 else value
        for name, value in checkpoint.float32().items()
    }
    return replace(checkpoint, params=params)
