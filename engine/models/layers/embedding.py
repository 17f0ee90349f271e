"""The embedding: rows of a matrix, selected by tokens."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def embedding_forward(weight: NDArray, tokens: NDArray) -> NDArray:
    """Return the rows (T, B, E) of ``weight`` (V, E) for ``tokens`` (T, B)."""
    return weight[tokens]


def embedding_backward(dx: NDArray, tokens: NDArray, dweight: NDArray) -> None:
    """Add the rows of ``dx`` (T, B, E) to the rows of ``dweight`` (V, E) that the tokens selected."""
    np.add.at(dweight, tokens.reshape(-1), dx.reshape(-1, dx.shape[-1]))
