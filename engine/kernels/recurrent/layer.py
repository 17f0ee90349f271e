"""A recurrent layer on the scan; contract and formulas in ``unrolled.engine.models.layers.recurrent``."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unrolled.engine.errors import ConfigError
from unrolled.engine.kernels.gemm.packing import Packing
from unrolled.engine.kernels.recurrent import scan
from unrolled.engine.models.layers.recurrent import DirectionGradients, RecurrentFunctions, Steps, plan


def pack(array: NDArray, steps: Steps) -> NDArray:
    """Return the array (T, B, …)."""
    if steps.lengths is not None:
        raise ConfigError("lengths: rows of different lengths need the numpy engine")
    return array


def unpack(array: NDArray, steps: Steps) -> NDArray:
    """Return the array (T, B, …)."""
    return array


def forward(
    cell: str, xgs: Sequence[Any], s0: NDArray, w_hhs: Sequence[NDArray], b_hhs: Sequence[NDArray], steps: Steps,
    packing: Packing = Packing.FULL,
) -> tuple[NDArray, NDArray, Any]:  # fmt: skip
    """Run one layer."""
    if len(xgs) > 1:
        raise ConfigError("bidirectional: two directions need the numpy engine")
    states, gates = scan.forward(cell, xgs[0], np.ascontiguousarray(s0[:, 0]), w_hhs[0], b_hhs[0], packing)
    return np.ascontiguousarray(states[1:, 0]), states[-1][:, None], (states, gates)


def backward(
    cell: str, dy: NDArray, dfinal: NDArray, tape: Any, w_hhs: Sequence[NDArray], b_hhs: Sequence[NDArray],
    steps: Steps, packing: Packing = Packing.FULL,
) -> tuple[list[DirectionGradients], NDArray]:  # fmt: skip
    """Return the gradients of one layer."""
    states, gates = tape
    dxg, dhg, ds0 = scan.backward(
        cell, dy, np.ascontiguousarray(dfinal[:, 0]), states, gates, w_hhs[0], b_hhs[0], packing
    )  # fmt: skip
    return [DirectionGradients(dxg, dhg, np.ascontiguousarray(states[:-1, 0]))], ds0[:, None]


def recurrent_with(packing: Packing) -> RecurrentFunctions:
    """Return the layer, with products whose factors are packed in the given format."""
    return RecurrentFunctions(plan, pack, unpack, partial(forward, packing=packing), partial(backward, packing=packing))
