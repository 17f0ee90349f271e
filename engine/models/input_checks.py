"""Checks of the inputs of a model on any engine or from any file: names, shapes, dtypes, lengths and values."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from unrolled.engine.errors import ShapeError
from unrolled.engine.models.inputs.input import check_shape
from unrolled.engine.models.spec import ModelSpec


def checked_inputs(
    spec: ModelSpec, inputs: Mapping[str, NDArray], lengths: NDArray[np.int64] | None
) -> dict[str, NDArray]:
    """Return the inputs of a batch in the order of the spec, with zeros in the padding, after checks of all of them.

    After this check an engine may index unchecked; onnxruntime's LSTM and GRU abort the process at B = 0.

    Args:
        inputs: an array for each input of the model, by name.
        lengths: (B,) int64, the valid time steps of each row; None: all.

    Raises:
        ShapeError: an array does not fit the model or the others, or a valid value is out of range.
    """
    T, B = spec.batch_shape(inputs)
    if T < 1 or B < 1:
        raise ShapeError(f"inputs: got (T, B) = ({T}, {B}); needs at least one step and one row")
    for column in spec.inputs:
        check_shape(column, inputs[column.name], T, B)
    checked = {column.name: inputs[column.name] for column in spec.inputs}
    if lengths is not None:
        check_lengths(lengths, T, B)
        padding = np.arange(T)[:, None] >= lengths
        for column in spec.inputs:
            if "time" in column.axes:
                checked[column.name] = _without_padding(checked[column.name], padding)
    for column in spec.inputs:
        column.check_values(checked[column.name])
    return checked


def _without_padding(array: NDArray, padding: NDArray[np.bool_]) -> NDArray:
    """Return a copy of an array (T, B, …) with zeros in the padding (T, B)."""
    clean = array.copy()
    clean[padding] = 0
    return clean


def ragged(lengths: NDArray[np.int64] | None, T: int) -> NDArray[np.int64] | None:
    """Return checked lengths, or None if all rows have T time steps."""
    return None if lengths is None or int(lengths.min()) == T else lengths


def check_lengths(lengths: NDArray, T: int, B: int) -> None:
    """Check the lengths (B,) of rows of T time steps.

    Raises:
        ShapeError: another shape or dtype, or a length outside 1 … T.
    """
    if not isinstance(lengths, np.ndarray) or lengths.shape != (B,) or lengths.dtype != np.int64:
        got = f"{lengths.dtype} {lengths.shape}" if isinstance(lengths, np.ndarray) else type(lengths).__name__
        raise ShapeError(f"lengths: got {got}, needs int64 ({B},)")
    if lengths.min() < 1 or lengths.max() > T:
        raise ShapeError(f"lengths: from {lengths.min()} to {lengths.max()}; needs 1 … {T}")
