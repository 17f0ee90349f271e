"""Formulas of the Elman network over vectors of units; their derivation is in ``unrolled.engine.models.cells.rnn``.

The hidden product lies where the state h goes, and the gradient takes the memory of dh, so there is no array of gates.
"""

from __future__ import annotations

from collections.abc import Callable

from unrolled.engine.kernels.recurrent.formulas import Outputs, Vectors
from unrolled.engine.kernels.simd.vectors import Vector, select


def relu(a: Vector) -> Vector:
    """Return max(a, 0)."""
    return a.at_least(0)


def through_tanh(h: Vector, dh: Vector) -> Vector:
    """Return the gradient of a, where h = tanh(a)."""
    return dh * (1 - h * h)


def through_relu(h: Vector, dh: Vector) -> Vector:
    """Return the gradient of a, where h = relu(a); 0 at a = 0."""
    return select(h > 0, dh, dh.constant(0))


def activate(phi: Callable[[Vector], Vector], hidden: Vectors, inputs: Vectors, before: Vectors) -> Outputs:
    """Return the state h = phi(a + x)."""
    (a,), (x,) = hidden, inputs
    return hidden, (phi(a + x),)


def differentiate(
    through: Callable[[Vector, Vector], Vector], gates: Vectors, before: Vectors, after: Vectors, dh: Vectors,
    dstate: Vectors,
) -> Outputs:  # fmt: skip
    """Return the gradient of phi's argument, and 0 for the state before, which only the product reads."""
    (h,), (dh,), (dh_next,) = after, dh, dstate
    return (through(h, dh + dh_next),), (0,)
