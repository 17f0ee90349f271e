"""Softmax heads on the fused output loss; formulas in ``unrolled.engine.models.heads.softmax``.

Where rows have different lengths, ``forward`` copies the valid positions together first, so that padding costs nothing.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from unrolled.engine.kernels.gemm.packing import Packing
from unrolled.engine.kernels.layers.linear import linear_forward
from unrolled.engine.kernels.layers.output_loss import output_loss
from unrolled.engine.kernels.threads.row_copies import take_rows
from unrolled.engine.models.heads.head import HeadFunctions, HeadLoss, Outputs
from unrolled.engine.models.heads.softmax import BIAS, SoftmaxHead
from unrolled.engine.models.inputs.batch import Batch


def softmax_head(packing: Packing) -> HeadFunctions:
    """Return the functions of a head that is a linear layer and a softmax at every time step."""

    def forward(
        head: SoftmaxHead, params: Mapping[str, NDArray], y: NDArray, final_state: NDArray, lengths: NDArray | None,
        inputs: Mapping[str, NDArray],
    ) -> Outputs:  # fmt: skip
        weight, bias = params[head.weight_name], params[BIAS]
        if lengths is None:
            return {"logits": linear_forward(y, weight, bias, packing)}
        T, B, H = y.shape
        places, compact = _together(np.arange(T)[:, None] < lengths)
        # The last row, of zeros, gives the logits of all padded steps: the bias.
        logits = linear_forward(take_rows(y.reshape(T * B, H), np.append(places, -1)), weight, bias, packing)
        compact[compact < 0] = len(places)
        return {"logits": take_rows(logits, compact).reshape(T, B, len(bias))}

    def loss(
        head: SoftmaxHead, params: Mapping[str, NDArray], y: NDArray, final_state: NDArray, batch: Batch,
        grads: Mapping[str, NDArray] | None, smoothing: float,
    ) -> HeadLoss:  # fmt: skip
        weight = head.weight_name
        pair = None if grads is None else (grads[weight], grads[BIAS])
        sums, dy = output_loss(y, params[weight], params[BIAS], batch.targets, batch.weights, pair, smoothing, packing)
        return HeadLoss(sums, dy)

    return HeadFunctions(forward, loss, recordable=True)


def _together(counted: NDArray[np.bool_]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the places of the positions (T, B) that count, and for each position its number among them, or -1."""
    places = np.flatnonzero(counted)
    numbers = np.full(counted.size, -1)
    numbers[places] = np.arange(len(places))
    return places, numbers
