"""Inputs of the compiled engine: the registry ``KERNEL_INPUTS``, by the names of ``unrolled.engine.models.inputs.INPUTS``.

Embeddings are copied and summed by kernels; inputs of real numbers, without parameters, are those of the reference.
"""

from __future__ import annotations

from collections.abc import Mapping

from numpy.typing import NDArray

from unrolled.engine.kernels.layers.embedding import embedding_backward, embedding_forward
from unrolled.engine.models.inputs.input import Input, InputFunctions
from unrolled.engine.models.inputs.numeric import StaticInput, ValuesInput


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


_EMBEDDED = InputFunctions(_embed, _embed_backward)
KERNEL_INPUTS: dict[str, InputFunctions] = {
    "tokens": _EMBEDDED,
    "categories": _EMBEDDED,
    "values": InputFunctions(ValuesInput.forward, ValuesInput.backward),
    "static": InputFunctions(StaticInput.forward, StaticInput.backward),
}
