"""The first layer's product of embeddings, compiled; contract and formulas in ``unrolled.engine.models.layers``.

The readable form is a linear layer after an embedding. Here each row of the embedding is multiplied once, however often its
token occurs: the forward pass gathers rows from a table of products, the backward pass adds gradients up in such a table.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from unrolled.engine.kernels.gemm.packing import Packing
from unrolled.engine.kernels.gemm.weight_gradient import add_transposed_product
from unrolled.engine.kernels.layers.embedding import embedding_backward, embedding_forward
from unrolled.engine.kernels.layers.linear import (
    add_input_gradient,
    as_columns,
    as_rows,
    batch_rows,
    linear_backward_input,
    linear_backward_weight,
    linear_forward,
)
from unrolled.engine.kernels.recurrent.layouts import ColumnRanges, Gathered
from unrolled.engine.kernels.simd.row_sums import add_row_at
from unrolled.engine.kernels.threads.buffer_pool import zeros
from unrolled.engine.kernels.threads.recording import keeps_constants, refuse_recording
from unrolled.engine.kernels.threads.thread_pool import compiled_on_all_threads

TABLE_BYTES = 1 << 25  # of the largest table of products that is kept
# Multiplying all rows costs less than finding out which occur if they are at most this many times the tokens, or if the product
# is that small.
MORE_ROWS, SMALL_PRODUCT = 2, 1 << 21


def _used_rows(embedding: NDArray, tokens: NDArray, weight: NDArray) -> tuple[NDArray, NDArray]:
    """Return the rows of the embedding that take part in a product with ``weight``, and each token's place among them.

    These are all rows where the vocabulary is not much larger than the batch, else those that occur: a choice that depends on
    the tokens, so that a recording cannot make it.
    """
    if len(embedding) <= MORE_ROWS * tokens.size or len(embedding) * weight.size <= SMALL_PRODUCT:
        return np.arange(len(embedding)), tokens
    refuse_recording("the rows of the embedding that occur are multiplied, and they are others in each batch")
    # ``np.unique`` sorts the tokens: 9 µs for 64 of a vocabulary of 65 where marks take 3 µs, 91 and 22 for 2,048 of 10,000.
    occurs = np.zeros(len(embedding), np.bool_)
    occurs[tokens] = True
    used = np.flatnonzero(occurs)
    numbers = np.empty(len(embedding), np.int64)
    numbers[used] = np.arange(len(used))
    return used, numbers[tokens]


@compiled_on_all_threads
def _add_rows(part: int, parts: int, rows: NDArray, total: NDArray) -> None:
    """total (W,) += rows (N, W).sum(axis=0), row by row; threads share the columns."""
    N, W = rows.shape
    first, last = part * W // parts, (part + 1) * W // parts
    own = np.zeros(last - first, rows.dtype)
    for n in range(N):
        add_row_at(rows[n], first, 0, own, 0, last - first)
    add_row_at(own, 0, 0, total, first, last - first)


def embedded_linear_forward(
    embedding: NDArray, tokens: NDArray, weight: NDArray, bias: NDArray, packing: Packing = Packing.FULL
) -> Gathered:
    """Return the input product as a table of the products of tokens, from which the scan gathers its rows."""
    if keeps_constants():
        return _kept_table(embedding, tokens, weight, bias, packing)
    used, places = _used_rows(embedding, tokens, weight)
    rows = embedding if len(used) == len(embedding) else embedding_forward(embedding, used)
    return Gathered(linear_forward(rows, weight, bias, packing), np.ascontiguousarray(places.reshape(-1), np.int64))


def _kept_table(
    embedding: NDArray, tokens: NDArray, weight: NDArray, bias: NDArray, packing: Packing
) -> Gathered:  # fmt: skip
    """Return the input product for a recording: a table of all tokens, computed once, or, if it is large, of these alone."""
    flat = tokens.reshape(-1)
    if len(embedding) * bias.nbytes <= TABLE_BYTES:
        return Gathered(linear_forward(embedding, weight, bias, packing), flat)
    return Gathered(linear_forward(embedding_forward(embedding, flat), weight, bias, packing), np.arange(len(flat)))


def first_layer_backward(
    dxg: NDArray | ColumnRanges, dhg: NDArray | ColumnRanges, h_prev: NDArray, embedding: NDArray, tokens: NDArray,
    w_ih: NDArray, grads: tuple[NDArray, NDArray, NDArray, NDArray, NDArray], packing: Packing = Packing.FULL,
) -> None:  # fmt: skip
    """Add the gradients of embedding (V, E), w_ih, b_ih, w_hh and b_hh to the arrays of ``grads``, in this order.

    If both gradients are columns of one array, it is read once for the weights and the table of tokens.
    """
    dembedding, dw_ih, db_ih, dw_hh, db_hh = grads
    dxg, dhg = as_columns(dxg), as_columns(dhg)
    used, places = _used_rows(embedding, tokens, w_ih)
    if dxg.array is dhg.array:
        rows = as_rows(dhg.array)
        sums = zeros(len(used) * rows.shape[1], rows.dtype).reshape(len(used), -1)
        add_transposed_product(
            rows, as_rows(h_prev), dw_hh, sums, places.reshape(-1), packing, batch=batch_rows(h_prev)
        )  # fmt: skip
        _add_rows(np.asarray(dhg._replace(array=sums)), db_hh)
        dtable = dxg._replace(array=sums)
    else:
        linear_backward_weight(dhg, h_prev, dw_hh, db_hh, packing)
        plain = np.asarray(dxg)
        table = zeros(len(used) * plain.shape[-1], plain.dtype).reshape(len(used), -1)
        embedding_backward(plain, places, table)
        dtable = as_columns(table)
    _table_backward(dtable, used, embedding, w_ih, (dembedding, dw_ih, db_ih), packing)


def _table_backward(
    dtable: ColumnRanges, used: NDArray, embedding: NDArray, weight: NDArray, grads: tuple[NDArray, NDArray, NDArray],
    packing: Packing,
) -> None:  # fmt: skip
    """Add the gradients of embedding, weight and bias, given those of the table's rows (R, G·H) for the tokens ``used``."""
    dembedding, dweight, dbias = grads
    if len(used) == len(embedding):
        linear_backward_weight(dtable, embedding, dweight, dbias, packing)
        add_input_gradient(dtable, weight, dembedding, packing)
    else:
        linear_backward_weight(dtable, embedding_forward(embedding, used), dweight, dbias, packing)
        dembedding[used] += linear_backward_input(dtable, weight, packing=packing)
