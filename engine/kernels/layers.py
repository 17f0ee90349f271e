"""Input, output and loss compiled: names, signatures and formulas of ``unrolled.engine.layers``."""

from __future__ import annotations

import math

import numpy as np
from numba import get_num_threads, prange
from numpy.typing import NDArray

from unrolled.engine.kernels.activations import exp_negative
from unrolled.engine.kernels.gemm import add_transposed_product, pack, pack_transposed, product
from unrolled.engine.kernels.kernel import compiled, compiled_parallel
from unrolled.engine.kernels.pool import empty
from unrolled.engine.layers import LossResult


@compiled_parallel
def _gather(weight: NDArray, tokens: NDArray, rows: NDArray, parts: int) -> None:
    N = len(tokens)
    for part in prange(parts):
        for n in range(part * N // parts, (part + 1) * N // parts):
            rows[n] = weight[tokens[n]]


def embedding_forward(weight: NDArray, tokens: NDArray) -> NDArray:
    x = empty((*tokens.shape, weight.shape[1]), weight.dtype)
    _gather(weight, tokens.reshape(-1), _rows(x), get_num_threads())
    return x


def _rows(x: NDArray) -> NDArray:
    return x.reshape(-1, x.shape[-1])


@compiled_parallel
def _add_rows_at(rows: NDArray, places: NDArray, total: NDArray, parts: int) -> None:
    """total[places[m]] += rows[m]; the columns are shared out to the threads, so no two write to one place."""
    N = total.shape[1]
    for part in prange(parts):
        first, last = part * N // parts, (part + 1) * N // parts
        for m in range(rows.shape[0]):
            row, into = rows[m], total[places[m]]
            for j in range(first, last):
                into[j] += row[j]


def embedding_backward(dx: NDArray, tokens: NDArray, dweight: NDArray) -> None:
    _add_rows_at(_rows(dx), tokens.reshape(-1), dweight, get_num_threads())


def linear_forward(x: NDArray, weight: NDArray, bias: NDArray) -> NDArray:
    return product(_rows(x), pack_transposed(weight), bias).reshape(*x.shape[:-1], len(bias))


def linear_backward_input(dy: NDArray, weight: NDArray) -> NDArray:
    no_bias = np.zeros(weight.shape[1], weight.dtype)
    return product(_rows(dy), pack(weight), no_bias).reshape(*dy.shape[:-1], weight.shape[1])


@compiled
def _add_rows(rows: NDArray, total: NDArray) -> None:
    for m in range(rows.shape[0]):
        row = rows[m]
        for j in range(total.shape[0]):
            total[j] += row[j]


def linear_backward_weight(dy: NDArray, x: NDArray, dweight: NDArray, dbias: NDArray) -> None:
    add_transposed_product(_rows(dy), pack(_rows(x)), dweight)
    _add_rows(_rows(dy), dbias)


def embedded_linear_forward(embedding: NDArray, tokens: NDArray, weight: NDArray, bias: NDArray) -> NDArray:
    # with fewer tokens in the vocabulary than in the batch it pays to multiply each of them once
    if len(embedding) > tokens.size:
        return linear_forward(embedding_forward(embedding, tokens), weight, bias)
    return embedding_forward(linear_forward(embedding, weight, bias), tokens)


def embedded_linear_backward(
    dy: NDArray, embedding: NDArray, tokens: NDArray, weight: NDArray, grads: tuple[NDArray, NDArray, NDArray]
) -> None:
    dembedding, dweight, dbias = grads
    if len(embedding) > tokens.size:
        linear_backward_weight(dy, embedding_forward(embedding, tokens), dweight, dbias)
        embedding_backward(linear_backward_input(dy, weight), tokens, dembedding)
        return
    dtable = np.zeros((len(embedding), dy.shape[-1]), dy.dtype)  # of each token's product
    embedding_backward(dy, tokens, dtable)
    linear_backward_weight(dtable, embedding, dweight, dbias)
    dembedding += linear_backward_input(dtable, weight)


@compiled
def _softmax_row(x: NDArray, target: int, p: NDArray) -> tuple[float, float, bool]:
    """p (V,) becomes e^(x - max); returns the row's loss, the sum of p, and whether the target is the first largest."""
    best = 0
    for v in range(x.shape[0]):
        if x[v] > x[best]:
            best = v
    largest = x[best]
    for v in range(x.shape[0]):
        p[v] = exp_negative(x[v] - largest)
    total = 0.0
    for v in range(x.shape[0]):
        total += p[v]
    return math.log(total) - (x[target] - largest), total, best == target


@compiled_parallel
def _softmax_cross_entropy(
    logits: NDArray, targets: NDArray, mask: NDArray, losses: NDArray, hits: NDArray, dlogits: NDArray, count: int,
    parts: int,
) -> None:  # fmt: skip
    """Losses (N,), hits (N,) and gradient (N, V) of ``logits`` (N, V); a gradient of no rows is not computed."""
    N, V = logits.shape
    one = logits.dtype.type(1)
    for part in prange(parts):
        p = np.empty(V, logits.dtype)
        for n in range(part * N // parts, (part + 1) * N // parts):
            losses[n], hits[n] = 0, False
            if mask[n]:
                losses[n], total, hits[n] = _softmax_row(logits[n], targets[n], p)
                if dlogits.shape[0] > 0:
                    factor = logits.dtype.type(1.0 / (total * count))
                    row = dlogits[n]
                    for v in range(V):
                        row[v] = p[v] * factor
                    row[targets[n]] -= one / logits.dtype.type(count)
            elif dlogits.shape[0] > 0:
                dlogits[n] = 0


def softmax_cross_entropy(
    logits: NDArray, targets: NDArray, mask: NDArray, gradient: bool
) -> tuple[LossResult, NDArray | None]:
    rows, count = _rows(logits), int(mask.sum())
    losses, hits = np.empty(len(rows), np.float64), np.empty(len(rows), np.bool_)
    dlogits = empty(rows.shape if gradient else (0, rows.shape[1]), logits.dtype)
    flat_targets, flat_mask = targets.reshape(-1), mask.reshape(-1)
    _softmax_cross_entropy(rows, flat_targets, flat_mask, losses, hits, dlogits, max(count, 1), get_num_threads())
    result = LossResult(float(losses.sum()), int(hits.sum()), count)
    return result, dlogits.reshape(logits.shape) if gradient else None
