"""The first layer's product of embeddings, compiled; contract and formulas in ``unrolled.engine.models.layers``.

The readable form is a linear layer after an embedding. Here each row of the embedding is multiplied once, however often its
token occurs: the forward pass gathers rows from a table of products, the backward pass adds gradients up in such a table.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from unrolled.engine.kernels.gemm.matmul import NO_LIMIT, product
from unrolled.engine.kernels.gemm.packing import Packing
from unrolled.engine.kernels.gemm.rhs_packing import pack_transposed
from unrolled.engine.kernels.gemm.weight_gradient import Depth, add_transposed_product
from unrolled.engine.kernels.layers.embedding import embedding_backward, embedding_forward
from unrolled.engine.kernels.layers.linear import (
    add_weight_gradient,
    as_columns,
    batch_rows,
    input_gradient,
    linear_backward_weight,
    linear_forward,
)
from unrolled.engine.kernels.recurrent.layouts import ColumnRanges, Gathered
from unrolled.engine.kernels.simd.row_sums import add_row_at
from unrolled.engine.kernels.threads.array_copies import as_rows
from unrolled.engine.kernels.threads.buffer_pool import zeros
from unrolled.engine.kernels.threads.recording import keeps_constants
from unrolled.engine.kernels.threads.thread_pool import compiled_on_all_threads, compiled_parallel

TABLE_BYTES = 1 << 25  # of the largest table of products that is kept


class _Rows(NamedTuple):
    """The rows of an embedding that take part in a product.

    Args:
        used: (R,), their numbers, rising, and -1 after the last; None: all rows.
        places: (T, B), the place of each token's row among them.
        number: (1,), how many there are.
    """

    used: NDArray[np.int64] | None
    places: NDArray[np.int64]
    number: NDArray[np.int64]

    def of(self, embedding: NDArray) -> NDArray:
        """Return the rows, and zeros after the last."""
        return embedding if self.used is None else embedding_forward(embedding, self.used)


@compiled_parallel
def _find_rows(
    part: int, parts: int, tokens: NDArray, numbers: NDArray, used: NDArray, places: NDArray, number: NDArray
) -> None:  # fmt: skip
    """Fill ``used``, ``places`` and ``number`` of ``_Rows`` for flat tokens; ``numbers`` (V,) is scratch.

    The readable form is ``np.unique(tokens, return_inverse=True)``, which sorts the tokens: 91 µs for 2,048 of 10,000.
    """
    numbers[:] = -1
    for n in range(len(tokens)):
        numbers[tokens[n]] = 0
    found = 0
    for v in range(len(numbers)):
        if numbers[v] == 0:
            numbers[v], used[found] = found, v
            found += 1
    used[found:] = -1
    for n in range(len(tokens)):
        places[n] = numbers[tokens[n]]
    number[0] = found


def _used_rows(embedding: NDArray, tokens: NDArray) -> _Rows:
    """Return the rows that take part: all where the vocabulary is no larger than the batch, else those that occur."""
    V, N = len(embedding), tokens.size
    if V <= N:
        return _Rows(None, tokens, NO_LIMIT)
    used, places, number = np.empty(N, np.int64), np.empty(N, np.int64), np.empty(1, np.int64)
    _find_rows(1, tokens.reshape(-1), np.empty(V, np.int64), used, places, number)
    return _Rows(used, places.reshape(tokens.shape), number)


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
    rows = _used_rows(embedding, tokens)
    table = product(rows.of(embedding), pack_transposed(weight, packing), bias, rows.number)
    return Gathered(table, np.ascontiguousarray(rows.places.reshape(-1), np.int64))


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
    used = _used_rows(embedding, tokens)
    R = len(embedding) if used.used is None else len(used.used)
    if dxg.array is dhg.array:
        rows = as_rows(dhg.array)
        sums = zeros(R * rows.shape[1], rows.dtype).reshape(R, -1)
        add_transposed_product(
            rows, as_rows(h_prev), dw_hh, sums, used.places.reshape(-1), packing, depth=Depth(batch_rows(h_prev))
        )  # fmt: skip
        _add_rows(np.asarray(dhg._replace(array=sums)), db_hh)
        dtable = dxg._replace(array=sums)
    else:
        linear_backward_weight(dhg, h_prev, dw_hh, db_hh, packing)
        plain = np.asarray(dxg)
        table = zeros(R * plain.shape[-1], plain.dtype).reshape(R, -1)
        embedding_backward(plain, used.places, table)
        dtable = as_columns(table)
    _table_backward(dtable, used, embedding, w_ih, (dembedding, dw_ih, db_ih), packing)


def _table_backward(
    dtable: ColumnRanges, used: _Rows, embedding: NDArray, weight: NDArray, grads: tuple[NDArray, NDArray, NDArray],
    packing: Packing,
) -> None:  # fmt: skip
    """Add the gradients of embedding, weight and bias, given those of the table's rows (R, G·H)."""
    dembedding, dweight, dbias = grads
    add_weight_gradient(dtable, used.of(embedding), dweight, dbias, packing, Depth(limit=used.number))
    if used.used is None:
        input_gradient(dtable, weight, dembedding, packing, dembedding)
    else:
        nothing = np.zeros(embedding.shape[1], embedding.dtype)
        embedding_backward(input_gradient(dtable, weight, nothing, packing, limit=used.number), used.used, dembedding)
