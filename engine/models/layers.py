"""Input, output and loss of the network in NumPy: every layer a forward and a backward function.

The Numba kernels have the same names and signatures (``unrolled.engine.kernels.layers``).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

LOGITS_BYTES = 1 << 24  # of the positions whose logits are in memory at one time, on any engine


class LossResult(NamedTuple):
    """Sums over the counted positions of a batch; means are the caller's, who knows what they are over."""

    loss: float  # Σ -ln p(target), nats
    correct: int  # positions whose most probable token is the target
    tokens: int  # positions counted

    def plus(self, other: LossResult) -> LossResult:
        """The sums of both."""
        return LossResult(self.loss + other.loss, self.correct + other.correct, self.tokens + other.tokens)


def zeros(size: int, dtype: np.dtype) -> NDArray:
    """A flat array of zeros for a step's gradients."""
    return np.zeros(size, dtype)


def embedding_forward(weight: NDArray, tokens: NDArray) -> NDArray:
    """Rows (T, B, E) of ``weight`` (V, E) for ``tokens`` (T, B)."""
    return weight[tokens]


def embedding_backward(dx: NDArray, tokens: NDArray, dweight: NDArray) -> None:
    """Add the rows of ``dx`` (T, B, E) to the rows of ``dweight`` (V, E) that they came from."""
    np.add.at(dweight, tokens.reshape(-1), dx.reshape(-1, dx.shape[-1]))


def linear_forward(x: NDArray, weight: NDArray, bias: NDArray) -> NDArray:
    """x·Wᵀ + b over the last axis: (..., in) to (..., out), with ``weight`` (out, in)."""
    return x @ weight.T + bias


def linear_backward_input(dy: NDArray, weight: NDArray) -> NDArray:
    """Gradient of the input of ``linear_forward``: (..., out) to (..., in)."""
    return dy @ weight


def linear_backward_weight(dy: NDArray, x: NDArray, dweight: NDArray, dbias: NDArray) -> None:
    """Add the gradients of weight (out, in) and bias (out,), summed over all leading axes."""
    rows = dy.reshape(-1, dy.shape[-1])
    dweight += rows.T @ x.reshape(-1, x.shape[-1])
    dbias += rows.sum(axis=0)


def embedded_linear_forward(embedding: NDArray, tokens: NDArray, weight: NDArray, bias: NDArray) -> NDArray:
    """Input product of the first layer, (T, B, G·H), from tokens (T, B): ``linear_forward`` of their embeddings."""
    return linear_forward(embedding_forward(embedding, tokens), weight, bias)


def embedded_linear_backward(
    dy: NDArray, embedding: NDArray, tokens: NDArray, weight: NDArray, grads: tuple[NDArray, NDArray, NDArray]
) -> None:
    """Add the gradients of embedding (V, E), weight and bias to the arrays of ``grads``, in this order."""
    dembedding, dweight, dbias = grads
    linear_backward_weight(dy, embedding_forward(embedding, tokens), dweight, dbias)
    embedding_backward(linear_backward_input(dy, weight), tokens, dembedding)


def first_layer_backward(
    dxg: NDArray,
    dhg: NDArray,
    h_prev: NDArray,
    embedding: NDArray,
    tokens: NDArray,
    w_ih: NDArray,
    grads: tuple[NDArray, NDArray, NDArray, NDArray, NDArray],
) -> None:
    """Add the gradients of embedding (V, E), w_ih, b_ih, w_hh and b_hh to the arrays of ``grads``, in this order.

    Args:
        dxg, dhg: (T, B, G·H), gradients of the layer's input and hidden products.
        h_prev: (T, B, H), the states that the hidden products were made of.
    """
    dembedding, dw_ih, db_ih, dw_hh, db_hh = grads
    linear_backward_weight(dhg, h_prev, dw_hh, db_hh)
    embedded_linear_backward(dxg, embedding, tokens, w_ih, (dembedding, dw_ih, db_ih))


def softmax_cross_entropy(
    logits: NDArray, targets: NDArray, mask: NDArray, gradient: bool, smoothing: float = 0.0
) -> tuple[LossResult, NDArray | None]:
    """Cross-entropy of softmax(logits) summed over the positions where ``mask`` is true.

    loss = Σ (ln Σ_v e^{x_v} - (1 - s)·x_target - s·mean(x)),   d loss / d x_v = p_v - (1 - s)·[v = target] - s/V

    Args:
        logits: (T, B, V).
        targets: (T, B) token ids; not read where ``mask`` is false.
        mask: (T, B) bool.
        gradient: whether to return the gradient of the *mean* loss over the counted positions.
        smoothing: s, the share of the target's probability that is spread evenly over all V tokens.

    Returns:
        Sums, accumulated in float64, and the gradient (T, B, V) in the logits' dtype, zero where ``mask`` is false.
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
    """N positions in pieces of about ``LOGITS_BYTES`` of logits each; one piece where all of them fit."""
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
    """Loss of the output layer on ``h`` (T, B, H), and its gradient (T, B, H) where gradients are asked for.

    There is no array of all logits (T, B, V) where it would be large: ``logit_pieces`` of positions at a time.

    Args:
        weight, bias: (V, H) and (V,).
        targets, mask, smoothing: as of ``softmax_cross_entropy``.
        grads: arrays to which the gradients of weight and bias are added; None: only the loss.
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
        if loss.tokens != count:  # the piece's own mean becomes its share of the whole batch's
            dlogits *= dlogits.dtype.type(loss.tokens / count)
        linear_backward_weight(dlogits, rows[piece], *grads)
        dh[piece] = linear_backward_input(dlogits, weight)
    return total, None if dh is None else dh.reshape(h.shape)
