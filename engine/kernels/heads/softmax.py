"""Softmax heads on the fused output loss; formulas in ``unrolled.engine.models.heads.softmax``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from numpy.typing import NDArray

from unrolled.engine.kernels.gemm.packing import Packing
from unrolled.engine.kernels.layers.linear import linear_forward
from unrolled.engine.kernels.layers.output_loss import output_loss
from unrolled.engine.models.heads.head import HeadFunctions, HeadLoss, Outputs
from unrolled.engine.models.heads.softmax import BIAS
from unrolled.engine.models.inputs.batch import Batch


class _SoftmaxHead(Protocol):
    @property
    def weight_name(self) -> str: ...


def softmax_head(packing: Packing) -> HeadFunctions:
    """Return the functions of a head that is a linear layer and a softmax at every time step."""

    def forward(
        head: _SoftmaxHead, params: Mapping[str, NDArray], y: NDArray, final_state: NDArray, lengths: NDArray | None,
        inputs: Mapping[str, NDArray],
    ) -> Outputs:  # fmt: skip
        return {"logits": linear_forward(y, params[head.weight_name], params[BIAS], packing)}

    def loss(
        head: _SoftmaxHead, params: Mapping[str, NDArray], y: NDArray, final_state: NDArray, batch: Batch,
        grads: Mapping[str, NDArray] | None, smoothing: float,
    ) -> HeadLoss:  # fmt: skip
        weight = head.weight_name
        pair = None if grads is None else (grads[weight], grads[BIAS])
        sums, dy = output_loss(y, params[weight], params[BIAS], batch.targets, batch.weights, pair, smoothing, packing)
        return HeadLoss(sums, dy)

    return HeadFunctions(forward, loss)
