"""The output layer and its loss: linear, softmax and cross-entropy."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from unrolled.engine.models.layers.linear import linear_backward_input, linear_backward_weight, linear_forward

LOGITS_BYTES = 1 << 24  # upper bound of the logits that any engine holds in memory at one time


class LossSums(NamedTuple):
    """Sums over the counted positions or sequences of a batch; the caller divides by its own weight.

    Args:
        loss: Σ wℓ.
        weight: Σ w.
        details: the sums from which a head computes its other metrics.
    """

    loss: float
    weight: float
    details: tuple[float, ...] = ()

    @classmethod
    def from_array(cls, numbers: NDArray[np.float64]) -> Self:
        """Return the sums of the numbers that ``to_array`` returned."""
        loss, weight, *details = numbers.tolist()
        return cls(loss, weight, tuple(details))

    def to_array(self) -> NDArray[np.float64]:
        """Return the loss, the weight and the details as one array."""
        return np.array([self.loss, self.weight, *self.details])

    def plus(self, other: LossSums) -> LossSums:
        """Return the sums over both."""
        details = tuple(a + b for a, b in zip(self.details, other.details, strict=True))
        return LossSums(self.loss + other.loss, self.weight + other.weight, details)


NO_SUMS = LossSums(0.0, 0.0, (0, 0))  # of no position, with the details of a softmax: correct positions, all positions


def softmax_cross_entropy(
    logits: NDArray, targets: NDArray, weights: NDArray, gradient: bool, smoothing: float = 0.0
) -> tuple[LossSums, NDArray | None]:
    """Return the weighted sum of the cross-entropies of softmax(logits), and its gradient.

    loss = Σ w·(ln Σ_v e^{x_v} - (1 - s)·x_target - s·mean(x)),   d loss / d x_v = w·(p_v - (1 - s)·[v = target] - s/V)

    Args:
        logits: (T, B, V).
        targets: (T, B) class ids; ignored where the weight is 0.
        weights: (T, B), bool or float, at least 0.
        gradient: whether to compute the gradient of the *mean* loss, Σ wℓ / Σ w.
        smoothing: s, the share of the target's probability that is spread evenly over all V tokens.

    Returns:
        Sums, accumulated in float64, with the details correct positions and positions of positive weight; and the gradient
        (T, B, V) in the logits' dtype, zero where the weight is 0; None without ``gradient``.
    """
    counted = weights > 0
    shifted = logits - logits.max(axis=-1, keepdims=True)  # e^x cannot overflow
    exp = np.exp(shifted)
    total = exp.sum(axis=-1, keepdims=True)
    safe_targets = np.where(counted, targets, 0)[..., None]
    picked = np.take_along_axis(shifted, safe_targets, axis=-1)
    losses = (np.log(total) - picked)[..., 0]  # (T, B)
    if smoothing:
        losses = losses + smoothing * (picked[..., 0] - shifted.mean(axis=-1))
    weight = weight_of(weights)
    correct = int((logits.argmax(axis=-1) == targets)[counted].sum())
    sums = LossSums(
        float((losses[counted] * weights[counted]).sum(dtype=np.float64)), weight, (correct, int(counted.sum()))
    )
    if not gradient:
        return sums, None
    dlogits = exp / total
    np.put_along_axis(dlogits, safe_targets, np.take_along_axis(dlogits, safe_targets, -1) - (1 - smoothing), -1)
    if smoothing:
        dlogits -= dlogits.dtype.type(smoothing / logits.shape[-1])
    dlogits *= weights.astype(dlogits.dtype)[..., None] / dlogits.dtype.type(weight or 1)
    return sums, dlogits


def weight_of(weights: NDArray) -> float:
    """Return Σ w; of boolean weights, the number of positions that count."""
    return float(np.count_nonzero(weights) if weights.dtype == np.bool_ else weights.sum(dtype=np.float64))


def logit_pieces(N: int, V: int, dtype: np.dtype) -> Iterator[slice]:
    """Divide N positions into pieces of about ``LOGITS_BYTES`` of logits each; one piece if all of them fit."""
    size = max(1, LOGITS_BYTES // (V * dtype.itemsize))
    for first in range(0, N, size):
        yield slice(first, min(first + size, N))


def output_loss(
    h: NDArray,
    weight: NDArray,
    bias: NDArray,
    targets: NDArray,
    weights: NDArray,
    grads: tuple[NDArray, NDArray] | None,
    smoothing: float = 0.0,
) -> tuple[LossSums, NDArray | None]:
    """Return the loss of the output layer on ``h`` (T, B, H), and with ``grads`` also the gradient (T, B, H) of ``h``.

    Logits exist for ``logit_pieces`` of positions at a time, so that a large vocabulary needs no array (T, B, V).

    Args:
        weight, bias: (V, H) and (V,).
        targets, weights, smoothing: as in ``softmax_cross_entropy``.
        grads: arrays to which the gradients of weight and bias are added; None: the loss only.
    """
    rows, flat_targets, flat_weights = (
        h.reshape(-1, h.shape[-1]),
        targets.reshape(-1),
        weights.reshape(-1),
    )  # (N, H), (N,)
    total, weight_sum = NO_SUMS, weight_of(weights)
    dh = None if grads is None else np.empty_like(rows)
    for piece in logit_pieces(len(rows), len(bias), h.dtype):
        logits = linear_forward(rows[piece], weight, bias)
        sums, dlogits = softmax_cross_entropy(
            logits, flat_targets[piece], flat_weights[piece], grads is not None, smoothing
        )
        total = total.plus(sums)
        if grads is None or dh is None or dlogits is None:
            continue
        if sums.weight != weight_sum:  # gradient of the piece's mean, to its share of the batch's mean
            dlogits *= dlogits.dtype.type(sums.weight / weight_sum)
        linear_backward_weight(dlogits, rows[piece], *grads)
        dh[piece] = linear_backward_input(dlogits, weight)
    return total, None if dh is None else dh.reshape(h.shape)
