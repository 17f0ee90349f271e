"""Padding of sequences of different lengths to the arrays of one batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unrolled.engine.errors import ShapeError
from unrolled.engine.models.spec import ModelSpec


def pad_sequences(
    sequences: Sequence[Sequence[int] | NDArray], dtype: np.dtype | type = np.int64
) -> tuple[NDArray, NDArray[np.int64]]:
    """Return B sequences (n, …) as one array (T, B, …), zeros after the shorter ones, and their lengths (B,)."""
    lengths = np.array([len(sequence) for sequence in sequences], np.int64)
    tail = np.shape(sequences[0])[1:]
    padded = np.zeros((lengths.max(), len(sequences), *tail), dtype)
    for b, sequence in enumerate(sequences):
        padded[: len(sequence), b] = sequence
    return padded, lengths


def pad_inputs(
    spec: ModelSpec, rows: Sequence[Mapping[str, NDArray]]
) -> tuple[dict[str, NDArray], NDArray[np.int64]]:  # fmt: skip
    """Return the inputs of a batch and the lengths (B,) of its rows, for ``run``.

    Args:
        rows: the inputs of each sequence by name, n time steps each: (n, …), or (…) for one value a sequence.

    Raises:
        ShapeError: there is no row; inputs are missing or unexpected; an array has another shape, a dtype that cannot be
            converted without loss, or another number of time steps than the other inputs of its row.
    """
    if not rows:
        raise ShapeError("rows: got none, needs at least one")
    for b, row in enumerate(rows):
        _check_row(spec, b, row)
    varying = [column for column in spec.inputs if "time" in column.axes]
    lengths = np.array([len(row[varying[0].name]) for row in rows], np.int64)
    inputs = {}
    for column in spec.inputs:
        arrays = [np.asarray(row[column.name]) for row in rows]
        inputs[column.name] = (
            pad_sequences(arrays, column.dtype)[0] if column in varying else np.stack(arrays).astype(column.dtype)
        )
    return inputs, lengths


def _check_row(spec: ModelSpec, b: int, row: Mapping[str, Any]) -> None:
    """Check the inputs of row ``b``."""
    if not isinstance(row, Mapping) or set(row) != spec.input_columns.keys():
        got = ", ".join(map(str, row)) or "none" if isinstance(row, Mapping) else type(row).__name__
        raise ShapeError(f"rows: got {got} at {b}; needs {', '.join(spec.input_columns)}")
    steps: dict[str, int] = {}
    for column in spec.inputs:
        array = np.asarray(row[column.name])
        axes = [axis for axis in column.axes if axis != "batch"]
        fits = array.ndim == len(axes) and all(
            axis == "time" or axis == size for axis, size in zip(axes, array.shape, strict=True)
        )
        if not fits:
            needed = ", ".join(map(str, axes))
            raise ShapeError(f"{column.name}: got shape {array.shape} at row {b}, needs ({needed})")
        if array.dtype.kind not in ("iu" if column.dtype.kind == "i" else "iuf"):
            raise ShapeError(f"{column.name}: got dtype {array.dtype} at row {b}, needs {column.dtype}")
        if "time" in axes:
            steps[column.name] = len(array)
    if len(set(steps.values())) > 1 or 0 in steps.values():
        got = ", ".join(f"{n} of {name}" for name, n in steps.items())
        raise ShapeError(f"rows: got time steps {got} at {b}; needs as many of each, and at least one")
