"""Input, output and loss compiled: names, signatures and formulas of ``unrolled.engine.models.layers``."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from unrolled.engine.kernels.gemm.lhs_packing import new_operand, operand
from unrolled.engine.kernels.gemm.matmul import multiply, product, products
from unrolled.engine.kernels.gemm.microkernel import TILE_ROWS
from unrolled.engine.kernels.gemm.packing import Packing
from unrolled.engine.kernels.gemm.rhs_packing import pack, pack_transposed, padded_columns
from unrolled.engine.kernels.gemm.weight_gradient import SUM_ROWS, add_transposed_product
from unrolled.engine.kernels.jit.compilation import compiled, compiled_sum
from unrolled.engine.kernels.recurrent.work_partition import Columns, Gathered
from unrolled.engine.kernels.simd.activations import exp_negative
from unrolled.engine.kernels.simd.bits import largest
from unrolled.engine.kernels.simd.copies import copy_row
from unrolled.engine.kernels.simd.vectors import elementwise
from unrolled.engine.kernels.threads.buffer_pool import empty
from unrolled.engine.kernels.threads.thread_pool import compiled_parallel, get_num_threads
from unrolled.engine.models.layers import LOGITS_BYTES, LossResult


@compiled_parallel
def _gather(part: int, parts: int, weight: NDArray, tokens: NDArray, rows: NDArray) -> None:
    N = len(tokens)
    for n in range(part * N // parts, (part + 1) * N // parts):
        copy_row(weight[tokens[n]], rows[n])


@compiled_parallel
def _clear(part: int, parts: int, array: NDArray) -> None:
    N = array.shape[0]
    array[part * N // parts : (part + 1) * N // parts] = 0


def zeros(size: int, dtype: np.dtype) -> NDArray:
    array = empty((size,), dtype)
    _clear(get_num_threads(), array)
    return array


def embedding_forward(weight: NDArray, tokens: NDArray) -> NDArray:
    x = empty((*tokens.shape, weight.shape[1]), weight.dtype)
    _gather(get_num_threads(), weight, tokens.reshape(-1), _rows(x))
    return x


def _rows(x: NDArray) -> NDArray:
    return x.reshape(-1, x.shape[-1])


@compiled_parallel
def _add_rows_at(part: int, parts: int, rows: NDArray, places: NDArray, total: NDArray) -> None:
    """total[places[m]] += rows[m]; the columns are shared out to the threads, so no two write to one place."""
    N = total.shape[1]
    first, last = part * N // parts, (part + 1) * N // parts
    for m in range(rows.shape[0]):
        row, into = rows[m, first:last], total[places[m], first:last]
        for j in range(last - first):  # from 0: a start that might be negative keeps the loop scalar
            into[j] += row[j]


def embedding_backward(dx: NDArray, tokens: NDArray, dweight: NDArray) -> None:
    _add_rows_at(get_num_threads(), _rows(dx), tokens.reshape(-1), dweight)


def linear_forward(x: NDArray, weight: NDArray, bias: NDArray, packing: Packing = Packing.FULL) -> NDArray:
    return product(_rows(x), pack_transposed(weight, packing), bias).reshape(*x.shape[:-1], len(bias))


def linear_backward_input(dy: NDArray | Columns, weight: NDArray, packing: Packing = Packing.FULL) -> NDArray:
    dy = _as_columns(dy)
    rows, factors, first = _rows(dy.array), [], 0
    for k0, k1 in dy.ranges:
        factors.append((k0, k1, pack(weight[first : first + k1 - k0], packing)))
        first += k1 - k0
    return products(rows, factors, np.zeros(weight.shape[1], weight.dtype)).reshape(*dy.array.shape[:-1], -1)


def linear_backward_weight(
    dy: NDArray | Columns, x: NDArray, dweight: NDArray, dbias: NDArray, packing: Packing = Packing.FULL
) -> None:  # fmt: skip
    dy = _as_columns(dy)
    rows, x, first = _rows(dy.array), _rows(x), 0
    for k0, k1 in dy.ranges:
        last = first + k1 - k0
        sums, places = _one_sum(np.zeros(k1, rows.dtype), rows)
        add_transposed_product(rows, x, dweight[first:last], sums, places, packing, k0, _batch(dy.array))
        dbias[first:last] += sums[0, k0:]
        first = last


def _as_columns(dy: NDArray | Columns) -> Columns:
    return dy if isinstance(dy, Columns) else Columns(dy, ((0, dy.shape[-1]),))


def _batch(x: NDArray) -> int:
    """Rows of the batch of (T, B, N), or 1 where an array has no steps."""
    return x.shape[1] if x.ndim == 3 else 1


def _one_sum(dbias: NDArray, dy: NDArray) -> tuple[NDArray, NDArray]:
    """All rows of ``dy`` added to one: the table and the places that a product of its takes."""
    return dbias.reshape(1, -1), np.zeros(dy.size // dy.shape[-1], np.int64)


def _used_rows(embedding: NDArray, tokens: NDArray) -> tuple[NDArray, NDArray]:
    """The rows of the embedding that take part in a product, and each token's place among them.

    All of them where the vocabulary is smaller than the batch, else those that occur.
    """
    if len(embedding) <= tokens.size:
        return np.arange(len(embedding)), tokens
    used, places = np.unique(tokens, return_inverse=True)
    return used, places.reshape(tokens.shape)


def embedded_linear_forward(
    embedding: NDArray, tokens: NDArray, weight: NDArray, bias: NDArray, packing: Packing = Packing.FULL
) -> Gathered:
    """As the reference, as a table of the products of each token, from which the layer gathers its rows."""
    used, places = _used_rows(embedding, tokens)
    rows = embedding if len(used) == len(embedding) else embedding_forward(embedding, used)
    return Gathered(linear_forward(rows, weight, bias, packing), places)


def embedded_linear_backward(
    dy: NDArray, embedding: NDArray, tokens: NDArray, weight: NDArray, grads: tuple[NDArray, NDArray, NDArray],
    packing: Packing = Packing.FULL,
) -> None:  # fmt: skip
    used, places = _used_rows(embedding, tokens)
    dtable = np.zeros((len(used), dy.shape[-1]), dy.dtype)
    embedding_backward(dy, places, dtable)
    _table_backward(dtable, used, embedding, weight, grads, packing)


def first_layer_backward(
    dxg: NDArray | Columns, dhg: NDArray | Columns, h_prev: NDArray, embedding: NDArray, tokens: NDArray, w_ih: NDArray,
    grads: tuple[NDArray, NDArray, NDArray, NDArray, NDArray], packing: Packing = Packing.FULL,
) -> None:  # fmt: skip
    """As the reference; where both gradients lie in one array, it is read once for the weights and the table of tokens."""
    dembedding, dw_ih, db_ih, dw_hh, db_hh = grads
    dxg, dhg = _as_columns(dxg), _as_columns(dhg)
    if dxg.array is not dhg.array:
        linear_backward_weight(dhg, h_prev, dw_hh, db_hh, packing)
        embedded_linear_backward(np.asarray(dxg), embedding, tokens, w_ih, (dembedding, dw_ih, db_ih), packing)
        return
    rows, (used, places) = _rows(dhg.array), _used_rows(embedding, tokens)
    sums = np.zeros((len(used), rows.shape[1]), rows.dtype)
    add_transposed_product(rows, _rows(h_prev), dw_hh, sums, places.reshape(-1), packing, batch=_batch(h_prev))
    _table_backward(np.asarray(dxg._replace(array=sums)), used, embedding, w_ih, (dembedding, dw_ih, db_ih), packing)
    db_hh += np.asarray(dhg._replace(array=sums)).sum(axis=0)


def _table_backward(
    dtable: NDArray, used: NDArray, embedding: NDArray, weight: NDArray, grads: tuple[NDArray, NDArray, NDArray],
    packing: Packing,
) -> None:  # fmt: skip
    """Gradients of embedding, weight and bias from those of the table's rows (R, G·H), which are of the tokens ``used``."""
    dembedding, dweight, dbias = grads
    if len(used) == len(embedding):
        linear_backward_weight(dtable, embedding, dweight, dbias, packing)
        dembedding += linear_backward_input(dtable, weight, packing)
    else:
        linear_backward_weight(dtable, embedding_forward(embedding, used), dweight, dbias, packing)
        dembedding[used] += linear_backward_input(dtable, weight, packing)


@compiled_sum
def _total(p: NDArray) -> float:
    total = 0.0
    for v in range(p.shape[0]):
        total += p[v]
    return total


_exp_below = elementwise(lambda x, highest: exp_negative(x - highest))


@compiled
def _softmax_row(x: NDArray, target: int, p: NDArray) -> tuple[float, float, bool]:
    """p (V,) becomes e^(x - max); returns the row's loss, the sum of p, and whether the target is the first largest."""
    highest = largest(x)  # a NaN may be passed over here; p and the loss have it
    _exp_below((x,), (p,), (highest,), x.shape[0])
    total = _total(p)
    first = x[target] == highest
    if first:
        for v in range(target):
            first &= x[v] != highest
    return math.log(total) - (x[target] - highest), total, first


@compiled_parallel
def _softmax_cross_entropy(
    part: int, parts: int, logits: NDArray, targets: NDArray, mask: NDArray, losses: NDArray, hits: NDArray,
    dlogits: NDArray, count: int,
) -> None:  # fmt: skip
    """Losses (N,), hits (N,) and gradient (N, V) of ``logits`` (N, V); a gradient of no rows is not computed."""
    N, V = logits.shape
    one = logits.dtype.type(1)
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
    rows, count = _rows(logits), int(np.count_nonzero(mask))
    losses, hits = np.empty(len(rows), np.float64), np.empty(len(rows), np.bool_)
    dlogits = empty(rows.shape if gradient else (0, rows.shape[1]), logits.dtype)
    flat_targets, flat_mask = targets.reshape(-1), mask.reshape(-1)
    _softmax_cross_entropy(get_num_threads(), rows, flat_targets, flat_mask, losses, hits, dlogits, max(count, 1))
    result = LossResult(float(losses.sum()), int(np.count_nonzero(hits)), count)
    return result, dlogits.reshape(logits.shape) if gradient else None


SMALL = 1 << 18  # bytes of weights that stay in any core's cache
OUTPUT_ROWS = 72  # positions whose logits a thread makes, turns into gradients and sends back while they are in cache


@compiled_parallel
def _output_rows(
    part: int, parts: int, h: NDArray, panels: NDArray, bias: NDArray, back: NDArray, targets: NDArray, mask: NDArray,
    losses: NDArray, hits: NDArray, dlogits: NDArray, dh: NDArray, V: int, count: int, smoothing: float, ranges: int,
) -> None:  # fmt: skip
    """Losses, hits and, where ``dh`` has rows, dlogits (N, width ≥ V) and dh (N, H) of N positions ``h`` (N, H).

    ``bias`` (width,) is as wide as a row of logits. Positions are ``ranges`` of equal length, each shared out to all parts.
    """
    (N, H), width = h.shape, dlogits.shape[1]
    flat_h, flat_logits, flat_dh = h.reshape(-1), dlogits.reshape(-1), dh.reshape(-1)
    spread, rest = h.dtype.type(smoothing / (V * count)), h.dtype.type((1 - smoothing) / count)
    stride = N // ranges
    begin, own = part * stride // parts, (part + 1) * stride // parts - part * stride // parts
    p, nothing = np.empty(V, h.dtype), np.zeros(H, h.dtype)
    h_memory, dlogits_memory = new_operand(panels, OUTPUT_ROWS), new_operand(back, OUTPUT_ROWS)
    # even pieces in whole tiles: a last piece of few rows would read all weights for them
    pieces = max(1, (own + OUTPUT_ROWS - 1) // OUTPUT_ROWS)
    piece = max(1, ((own + pieces - 1) // pieces + TILE_ROWS - 1) // TILE_ROWS) * TILE_ROWS
    pieces = (own + piece - 1) // piece
    for i in range(ranges * pieces):
        first = i // pieces * stride + begin
        n0 = first + i % pieces * piece
        n1 = min(n0 + piece, first + own)
        x, at, row_items = operand(flat_h, n0 * H, H, n1 - n0, H, panels, h_memory)
        multiply(x, at, row_items, 1, panels, bias, 0, 0, flat_logits, n0 * width, width, n1 - n0, width, False)
        for n in range(n0, n1):
            losses[n], hits[n] = 0, False
            row = dlogits[n, :V]
            if mask[n]:
                target = row[targets[n]]
                losses[n], total, hits[n] = _softmax_row(row, targets[n], p)
                if smoothing > 0:
                    losses[n] += smoothing * (target - _total(row) / V)
                scale = h.dtype.type(1.0 / (total * count))
                for v in range(V):
                    row[v] = p[v] * scale - spread
                row[targets[n]] -= rest
            else:
                row[:] = 0
        if dh.shape[0] > 0:
            d, at, row_items = operand(flat_logits, n0 * width, width, n1 - n0, V, back, dlogits_memory)
            multiply(d, at, row_items, 1, back, nothing, 0, 0, flat_dh, n0 * H, H, n1 - n0, H, False)


def output_loss(
    h: NDArray,
    weight: NDArray,
    bias: NDArray,
    targets: NDArray,
    mask: NDArray,
    grads: tuple[NDArray, NDArray] | None,
    smoothing: float = 0.0,
    packing: Packing = Packing.FULL,
) -> tuple[LossResult, NDArray | None]:
    """As the reference, without an array of all logits: ``LOGITS_BYTES`` of positions at a time."""
    rows, dtype, (V, H) = _rows(h), h.dtype, weight.shape
    N, count = len(rows), int(np.count_nonzero(mask))
    width = padded_columns(V, dtype)
    losses, hits = np.empty(N, np.float64), np.empty(N, np.bool_)
    flat_targets, flat_mask = targets.reshape(-1), mask.reshape(-1)
    dh = empty((N if grads else 0, H), dtype)
    panels, back = pack_transposed(weight, packing), pack(weight if grads else weight[:0], packing)
    padded_bias = np.zeros(width, dtype)
    padded_bias[:V] = bias
    # whole groups of rows that are summed together; the number of threads is not in it, on which no result depends
    chunk = max(1, -(-LOGITS_BYTES // (width * dtype.itemsize * SUM_ROWS))) * SUM_ROWS
    dlogits = empty((min(chunk, N), width), dtype)
    batch = _batch(h) if chunk >= N else 1
    parts = get_num_threads()
    # Each thread its own rows of the batch, as in the recurrence: two tiles of a step at least, where it does not matter
    # that weights are read more often.
    own_rows = parts > 1 and batch % (2 * TILE_ROWS * parts) == 0 and weight.nbytes <= SMALL
    ranges = N // batch if N and own_rows else 1
    for n in range(0, N, chunk):
        part = slice(n, min(n + chunk, N))
        some = dlogits[: part.stop - n]
        _output_rows(
            parts, rows[part], panels, padded_bias, back, flat_targets[part], flat_mask[part], losses[part], hits[part],
            some, dh[part], V, max(count, 1), smoothing, ranges,
        )  # fmt: skip
        if grads:
            add_transposed_product(some, rows[part], grads[0], *_one_sum(grads[1], some), packing, batch=batch)
    result = LossResult(float(losses.sum()), int(np.count_nonzero(hits)), count)
    return result, dh.reshape(h.shape) if grads else None
