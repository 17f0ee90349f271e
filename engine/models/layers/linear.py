"""The linear layer: y = x·Wᵀ + b."""

from __future__ import annotations

from numpy.typing import NDArray


def linear_forward(x: NDArray, weight: NDArray, bias: NDArray) -> NDArray:
    """Return x·Wᵀ + b over the last axis.

    Args:
        x: (..., in).
        weight: (out, in).
        bias: (out,).

    Returns:
        (..., out).
    """
    return x @ weight.T + bias


def linear_backward_input(dy: NDArray, weight: NDArray, dx: NDArray | None = None) -> NDArray:
    """Return the gradient (..., in) of the input of ``linear_forward``, from that of its output (..., out).

    Args:
        dx: (..., in), the gradient from another layer with the same input, to which it is added.
    """
    return dy @ weight if dx is None else dx + dy @ weight


def linear_backward_weight(dy: NDArray, x: NDArray, dweight: NDArray, dbias: NDArray) -> None:
    """Add the gradients of weight (out, in) and bias (out,), summed over all leading axes."""
    rows = dy.reshape(-1, dy.shape[-1])
    dweight += rows.T @ x.reshape(-1, x.shape[-1])
    dbias += rows.sum(axis=0)
