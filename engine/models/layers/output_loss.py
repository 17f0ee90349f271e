"""The output layer and its loss: linear, softmax and cross-entropy."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from unrolled.engine.models.layers.linear import linear_backward_input, linear_backward_weight, linear_forward

LOGITS_BYTES = 1 << 24  # upper bound of the logits that any engine holds in memory at one time


class LossResult(NamedTuple):
    """Sums over the counted positions of a batch; the caller divides by its own count."""

    loss: float  # Σ -ln p(target), nats
    correct: int  # positions whose most probable token is the target
    tokens: int  # positions counted

    def plus(self, other: LossResult) -> LossResult:
        """Return the sums over both."""
        return LossResult(self.loss + other.loss, self.correct + other.correct, self.tokens + other.tokens)


def softmax_cross_entropy(
    logits: NDArray, targets: NDArray, mask: NDArray, gradient: bool, smoothing: float = 0.0
) -> tuple[LossResult, NDArray | None]:
    """Return the cross-entropy of softmax(logits), summed over the positions where ``mask`` is true, and its gradient.

    loss = Σ (ln Σ_v e^{x_v} - (1 - s)·x_target - s·mean(x)),   d loss / d x_v = p_v - (1 - s)·[v = target] - s/V

    Args:
        logits: (T, B, V).
        targets: (T, B) token ids; ignored where ``mask`` is false.
        mask: (T, B) bool.
        gradient: whether to compute the gradient of the *mean* loss over the counted positions.
        smoothing: s, the share of the target's probability that is spread evenly over all V tokens.

    Returns:
        Sums, accumulated in float64, and the gradient (T, B, V) in the logits' dtype, zero where ``mask`` is false;
        None without ``gradient``.
    """
    shifted = logits - logits.max(axis=-1, keepdims=True)  # e^x cannot overflow
    exp = np.exp(shifted)
    total = exp.sum(axis=-1, keepdims=True)
    safe_targets = np.where(mask, targets, 0)[..., None]
    picked = np.take_along_axis(shifted, safe_targets, axis=-1)
    losses = (np.log(total) - picked)[..., 0]  # (T, B)
    if smoothing:
        losses = losses + smoothing * (picked[..., 0] - shifted.mean(axis=-1))
    count = int(mask.sum())
    result = LossResult(
        loss=float(losses[mask].sum(dtype=np.float64)),
        correct=int((logits.argmax(axis=-1) == targets)[mask].sum()),
        tokens=count,
    )
    if not gradient:
        return result, None
    dlogits = exp / total
    np.put_along_axis(dlogits, safe_targets, np.take_along_axis(dlogits, safe_targets, -1) - (1 - smoothing), -1)
    if smoothing:
        dlogits -= dlogits.dtype.type(smoothing / logits.shape[-1])
    dlogits *= mask[..., None] / dlogits.dtype.type(max(count, 1))
    return result, dlogits


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
    mask: NDArray,
    grads: tuple[NDArray, NDArray] | None,
    smoothing: float = 0.0,
) -> tuple[LossResult, NDArray | None]:
    """Return the loss of the output layer on ``h`` (T, B, H), and with ``grads`` also the gradient (T, B, H) of ``h``.

    Logits exist for ``logit_pieces`` of positions at a time, so that a large vocabulary needs no array (T, B, V).

    Args:
        weight, bias: (V, H) and (V,).
        targets, mask, smoothing: as in ``softmax_cross_entropy``.
        grads: arrays to which the gradients of weight and bias are added; None: the loss only.
    """
    rows, flat_targets, flat_mask = h.reshape(-1, h.shape[-1]), targets.reshape(-1), mask.reshape(-1)  # (N, H), (N,)
    total, count = LossResult(0.0, 0, 0), int(mask.sum())
    dh = None if grads is None else np.empty_like(rows)
    for piece in logit_pieces(len(rows), len(bias), h.dtype):
        logits = linear_forward(rows[piece], weight, bias)
        loss, dlogits = softmax_cross_entropy(
            logits, flat_targets[piece], flat_mask[piece], grads is not None, smoothing
        )
        total = total.plus(loss)
        if grads is None or dh is None or dlogits is None:
            continue
        if loss.tokens != count:  # gradient of the piece's mean, to its share of the batch's mean
            dlogits *= dlogits.dtype.type(loss.tokens / count)
        linear_backward_weight(dlogits, rows[piece], *grads)
        dh[piece] = linear_backward_input(dlogits, weight)
    return total, None if dh is None else dh.reshape(h.shape)
