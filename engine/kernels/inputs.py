"""Inputs of the compiled engine: the registry ``KERNEL_INPUTS``, by the names of ``unrolled.engine.models.inputs.INPUTS``."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from unrolled.engine.kernels.layers.embedding import embedding_backward, embedding_forward
from unrolled.engine.kernels.threads.buffer_pool import empty
from unrolled.engine.kernels.threads.thread_pool import compiled_on_all_threads
from unrolled.engine.models.inputs.input import Input, InputFunctions
from unrolled.engine.models.inputs.numeric import StaticInput, ValuesInput, dtype_of


def _embed(column: Input, params: Mapping[str, NDArray], array: NDArray, T: int) -> NDArray:
    """Return the embeddings (T, B, E) of ids (T, B)."""
    assert column.lookup is not None  # registered for inputs of ids
    return embedding_forward(params[column.lookup], array)


def _embed_backward(
    column: Input, params: Mapping[str, NDArray], dx: NDArray, array: NDArray, grads: Mapping[str, NDArray]
) -> None:
    """Add the gradient of the embedding."""
    assert column.lookup is not None
    embedding_backward(dx, array, grads[column.lookup])


@compiled_on_all_threads
def _scale(part: int, parts: int, values: NDArray, mean: NDArray, scale: NDArray, x: NDArray) -> None:
    """x[n] = (values[n % len(values)] - mean) / scale for values (M, columns) and x (N, columns), in float64."""
    (M, columns), N = values.shape, len(x)
    for n in range(part * N // parts, (part + 1) * N // parts):
        row, into = values[n % M], x[n]
        for j in range(columns):
            into[j] = (np.float64(row[j]) - mean[j]) / scale[j]


def _scaled(column: ValuesInput | StaticInput, params: Mapping[str, NDArray], array: NDArray, T: int) -> NDArray:
    """Return the scaled values (T, B, columns) in the dtype of the parameters; those of a sequence are repeated."""
    columns = column.columns
    mean = np.zeros(columns) if column.mean is None else np.array(column.mean)
    scale = np.ones(columns) if column.scale is None else np.array(column.scale)
    x = empty((T, *array.shape[-2:]), dtype_of(params))
    _scale(np.ascontiguousarray(array).reshape(-1, columns), mean, scale, x.reshape(-1, columns))
    return x


_EMBEDDED = InputFunctions(_embed, _embed_backward, recordable=True)
KERNEL_INPUTS: dict[str, InputFunctions] = {
    "tokens": _EMBEDDED,
    "categories": _EMBEDDED,
    "values": InputFunctions(_scaled, ValuesInput.backward, recordable=True),
    "static": InputFunctions(_scaled, StaticInput.backward, recordable=True),
}
