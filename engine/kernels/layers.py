"""Input, output and loss compiled: names, signatures and formulas of ``unrolled.engine.layers``."""

from __future__ import annotations

import math

import numpy as np
from numba import get_num_threads, prange
from numpy.typing import NDArray

from unrolled.engine.kernels.activations import exp_negative
from unrolled.engine.kernels.gemm import add_transposed_product, pack, pack_transposed, product
from unrolled.engine.kernels.kernel import compiled, compiled_parallel
from unrolled.engine.layers import LossResult


@compiled
def _gather(weight: NDArray, tokens: NDArray) -> NDArray:
    T, B = tokens.shape
    x = np.empty((T, B, weight.shape[1]), weight.dtype)
    for t in range(T):
        for b in range(B):
            x[t, b] = weight[tokens[t, b]]
    return x


def embedding_forward(weight: NDArray, tokens: NDArray) -> NDArray:
    return _gather(weight, tokens)


@compiled
def embedding_backward(dx: NDArray, tokens: NDArray, dweight: NDArray) -> None:
    T, B, E = dx.shape
    for t in range(T):
        for b in range(B):
            row, add = dweight[tokens[t, b]], dx[t, b]
            for e in range(E):
                row[e] += add[e]


def _rows(x: NDArray) -> NDArray:
    return x.reshape(-1, x.shape[-1])


def linear_forward(x: NDArray, weight: NDArray, bias: NDArray) -> NDArray:
    return product(_rows(x), pack_transposed(weight), bias, get_num_threads()).reshape(*x.shape[:-1], len(bias))


def linear_backward_input(dy: NDArray, weight: NDArray) -> NDArray:
    no_bias = np.zeros(weight.shape[1], weight.dtype)
    return product(_rows(dy), pack(weight), no_bias, get_num_threads()).reshape(*dy.shape[:-1], weight.shape[1])


@compiled
def _add_rows(rows: NDArray, total: NDArray) -> None:
    for m in range(rows.shape[0]):
        row = rows[m]
        for j in range(total.shape[0]):
            total[j] += row[j]


def linear_backward_weight(dy: NDArray, x: NDArray, dweight: NDArray, dbias: NDArray) -> None:
    add_transposed_product(_rows(dy), pack(_rows(x)), dweight, get_num_threads())
    _add_rows(_rows(dy), dbias)


@compiled
def _softmax_row(x: NDArray, target: int, p: NDArray) -> tuple[float, bool]:
    """p (V,) becomes e^(x - max); returns the row's loss and whether the target is the first of the largest."""
    best = 0
    for v in range(x.shape[0]):
        if x[v] > x[best]:
            best = v
    largest = x[best]
    for v in range(x.shape[0]):
        p[v] = exp_negative(x[v] - largest)
    return math.log(p.sum()) - (x[target] - largest), best == target


@compiled_parallel
def _softmax_cross_entropy(
    logits: NDArray, targets: NDArray, mask: NDArray, count: int, gradient: bool, parts: int
) -> tuple[NDArray, NDArray, NDArray]:
    """Losses (N,), hits (N,) and gradient (N, V) of ``logits`` (N, V); the gradient is left empty where not wanted."""
    N, V = logits.shape
    losses, hits = np.zeros(N, np.float64), np.zeros(N, np.bool_)
    dlogits = np.empty((N if gradient else 0, V), logits.dtype)
    for part in prange(parts):
        p = np.empty(V, logits.dtype)
        for n in range(part * N // parts, (part + 1) * N // parts):
            if mask[n]:
                losses[n], hits[n] = _softmax_row(logits[n], targets[n], p)
                if gradient:
                    factor = logits.dtype.type(1) / (p.sum() * logits.dtype.type(count))
                    row = dlogits[n]
                    for v in range(V):
                        row[v] = p[v] * factor
                    row[targets[n]] -= logits.dtype.type(1) / logits.dtype.type(count)
            elif gradient:
                dlogits[n] = 0
    return losses, hits, dlogits


def softmax_cross_entropy(
    logits: NDArray, targets: NDArray, mask: NDArray, gradient: bool
) -> tuple[LossResult, NDArray | None]:
    count = int(mask.sum())
    losses, hits, dlogits = _softmax_cross_entropy(
        _rows(logits), targets.reshape(-1), mask.reshape(-1), max(count, 1), gradient, get_num_threads()
    )
    result = LossResult(float(losses.sum()), int(hits.sum()), count)
    return result, dlogits.reshape(logits.shape) if gradient else None
