"""The output layer and its cross-entropy, compiled; contract and formulas in ``unrolled.engine.models.layers``.

The readable form is the reference's ``output_loss``. Here a thread computes the logits of a few positions, turns them into
gradients and multiplies these with the weight again while they are in cache, so no array of all logits exists.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from unrolled.engine.kernels.gemm.lhs_packing import new_operand, operand
from unrolled.engine.kernels.gemm.matmul import multiply
from unrolled.engine.kernels.gemm.microkernel import HALVES, TILE_ROWS, VECTORS
from unrolled.engine.kernels.gemm.packing import Packing, by_packing
from unrolled.engine.kernels.gemm.rhs_packing import pack, pack_transposed, padded_columns
from unrolled.engine.kernels.gemm.strips import SUM_ROWS
from unrolled.engine.kernels.gemm.weight_gradient import Depth, add_transposed_product
from unrolled.engine.kernels.jit.compilation import compiled, compiled_sum
from unrolled.engine.kernels.layers.linear import batch_rows, one_sum
from unrolled.engine.kernels.simd.elementwise import elementwise
from unrolled.engine.kernels.simd.softmax import exp_below, largest_of
from unrolled.engine.kernels.threads.array_copies import as_rows, padded
from unrolled.engine.kernels.threads.buffer_pool import empty
from unrolled.engine.kernels.threads.thread_pool import compiled_parallel, get_num_threads
from unrolled.engine.models.layers.output_loss import LOGITS_BYTES


@compiled_sum
def _total(x: NDArray) -> float:
    """Return the sum of ``x`` (V,)."""
    total = 0.0
    for v in range(x.shape[0]):
        total += x[v]
    return total


GROUP = 8  # rows whose passes alternate: the processor works on several rows at once where no result waits for another

_scaled = elementwise(lambda p, scale, spread: p * scale - spread)


@compiled
def _differentiate_rows(
    logits: NDArray, first: int, last: int, V: int, targets: NDArray, weights: NDArray, losses: NDArray, hits: NDArray,
    total_weight: float, smoothing: float, highest: NDArray, totals: NDArray,
) -> None:  # fmt: skip
    """Turn rows first … last of logits (N, width ≥ V), at most GROUP, into gradients; fill their losses and hits."""
    number, width, flat = logits.dtype.type, logits.shape[1], logits.reshape(-1)
    spread, rest = number(smoothing / (V * total_weight)), number((1 - smoothing) / total_weight)
    for n in range(first, last):
        losses[n], hits[n], row = 0, False, logits[n]
        if weights[n] > 0:
            target, most = row[targets[n]], largest_of(flat, n * width, V)
            # a hit is the first of the largest numbers
            hits[n] = target == most and (targets[n] == 0 or largest_of(flat, n * width, targets[n]) < most)
            highest[n - first], losses[n] = most, most - target
            if smoothing > 0:
                losses[n] += smoothing * (target - _total(row[:V]) / V)
    for n in range(first, last):
        if weights[n] > 0:
            totals[n - first] = exp_below(flat, n * width, V, highest[n - first])
    for n in range(first, last):
        row, w = logits[n], weights[n]
        if w > 0:
            total = totals[n - first]
            losses[n] = (losses[n] + math.log(total)) * w
            _scaled((row,), (row,), (number(w / (total * total_weight)), w * spread), width)
            row[targets[n]] -= w * rest
        else:
            row[:] = 0


@compiled
def _in_halves(panels: NDArray, V: int) -> int:
    """Return V rounded up to whole halves of a register where tiles have halves (``microkernel.HALVES``)."""
    part = panels.shape[2] // (2 * VECTORS if HALVES else VECTORS)
    return (V + part - 1) // part * part


@compiled
def _in_registers(panels: NDArray, V: int) -> int:
    """Return V rounded up to whole registers, which AMX tiles have."""
    lanes = panels.shape[2] // VECTORS
    return (V + lanes - 1) // lanes * lanes


_computed_columns = by_packing("panels", _in_halves, _in_halves, _in_registers)
"""Return how many columns of logits are computed, so that the last need no mask."""

SMALL = 1 << 18  # bytes of weights that stay in any core's cache
OUTPUT_ROWS = 72  # positions that a thread works on at a time, so that their logits stay in cache


@compiled_parallel
def _output_rows(
    part: int, parts: int, h: NDArray, panels: NDArray, bias: NDArray, back: NDArray, targets: NDArray, weights: NDArray,
    losses: NDArray, hits: NDArray, sums: NDArray, dlogits: NDArray, dh: NDArray, V: int, smoothing: float, ranges: int,
) -> None:  # fmt: skip
    """Fill losses, hits and, where ``dh`` has rows, dlogits (N, width ≥ V) and dh (N, H) of N positions ``h`` (N, H).

    ``bias`` (width,) is as wide as a row of logits; the second of ``sums`` is the weight of all positions. Positions are
    ``ranges`` of equal length, and all parts share each range.
    """
    (N, H), width, total_weight = h.shape, dlogits.shape[1], sums[1] if sums[1] > 0 else 1.0
    flat_h, flat_logits, flat_dh = h.reshape(-1), dlogits.reshape(-1), dh.reshape(-1)
    stride = N // ranges
    begin, own = part * stride // parts, (part + 1) * stride // parts - part * stride // parts
    highest, totals, nothing = np.empty(GROUP, h.dtype), np.empty(GROUP), np.zeros(H, h.dtype)
    columns = _computed_columns(panels, V)
    h_memory, dlogits_memory = new_operand(panels, OUTPUT_ROWS), new_operand(back, OUTPUT_ROWS)
    # even pieces in whole tiles: a last piece of few rows would read all weights for those few
    pieces = max(1, (own + OUTPUT_ROWS - 1) // OUTPUT_ROWS)
    piece = max(1, ((own + pieces - 1) // pieces + TILE_ROWS - 1) // TILE_ROWS) * TILE_ROWS
    pieces = (own + piece - 1) // piece
    for i in range(ranges * pieces):
        first = i // pieces * stride + begin
        n0 = first + i % pieces * piece
        n1 = min(n0 + piece, first + own)
        x, at, row_items = operand(flat_h, n0 * H, H, n1 - n0, H, panels, h_memory)
        multiply(x, at, row_items, 1, panels, bias, 0, 0, flat_logits, n0 * width, width, n1 - n0, columns, False)
        for n in range(n0, n1, GROUP):
            _differentiate_rows(
                dlogits, n, min(n + GROUP, n1), V, targets, weights, losses, hits, total_weight, smoothing, highest, totals
            )  # fmt: skip
        if dh.shape[0] > 0:
            d, at, row_items = operand(flat_logits, n0 * width, width, n1 - n0, V, back, dlogits_memory)
            multiply(d, at, row_items, 1, back, nothing, 0, 0, flat_dh, n0 * H, H, n1 - n0, H, False)


@compiled_sum
def _total_and_count(values: NDArray) -> tuple[float, float]:
    """Return the sum in float64, and the number of positive values."""
    total, count = 0.0, 0.0
    for n in range(len(values)):
        total += np.float64(values[n])
        count += 1.0 if values[n] > 0 else 0.0
    return total, count


@compiled_parallel
def _take_weights(part: int, parts: int, weights: NDArray, numbers: NDArray, sums: NDArray) -> None:
    """Fill numbers = weights, sums[1] = Σ w, and sums[3], the number of positive weights."""
    for n in range(len(weights)):
        numbers[n] = weights[n]
    sums[1], sums[3] = _total_and_count(weights)


@compiled_parallel
def _add_up(part: int, parts: int, losses: NDArray, hits: NDArray, sums: NDArray) -> None:
    """Set the first and the third of ``sums``: that of the losses, and the number of hits."""
    sums[0] = _total_and_count(losses)[0]
    sums[2] = _total_and_count(hits)[0]


def output_loss(
    h: NDArray,
    weight: NDArray,
    bias: NDArray,
    targets: NDArray,
    weights: NDArray,
    grads: tuple[NDArray, NDArray] | None,
    smoothing: float = 0.0,
    packing: Packing = Packing.FULL,
) -> tuple[NDArray[np.float64], NDArray | None]:
    """Return the sums and the gradient of the loss of ``h`` (T, B, H), with ``LOGITS_BYTES`` of logits in memory at a time.

    The sums are those of ``LossSums.to_array``.
    """
    rows, dtype, (V, H) = as_rows(h), h.dtype, weight.shape
    N, width = len(rows), padded_columns(V, dtype)
    losses, hits, sums = np.empty(N, np.float64), np.empty(N, np.bool_), np.empty(4)
    flat_targets, flat_weights = targets.reshape(-1), np.empty(N, dtype)
    _take_weights(1, weights.reshape(-1), flat_weights, sums)
    dh = empty((N if grads else 0, H), dtype)
    panels, back = pack_transposed(weight, packing), pack(weight if grads else weight[:0], packing)
    padded_bias = padded(bias, width)
    # whole groups of rows that are summed together; independent of the number of threads, as all results are
    chunk = max(1, -(-LOGITS_BYTES // (width * dtype.itemsize * SUM_ROWS))) * SUM_ROWS
    dlogits = empty((min(chunk, N), width), dtype)
    batch = batch_rows(h) if chunk >= N else 1
    parts = get_num_threads()
    # Each thread takes its own rows of the batch, as in the recurrence, if that is at least two tiles a time step and
    # weights are so small that reading them more often does not matter.
    own_rows = parts > 1 and batch % (2 * TILE_ROWS * parts) == 0 and weight.nbytes <= SMALL
    ranges = N // batch if N and own_rows else 1
    for n in range(0, N, chunk):
        part = slice(n, min(n + chunk, N))
        some = dlogits[: part.stop - n]
        _output_rows(
            parts, rows[part], panels, padded_bias, back, flat_targets[part], flat_weights[part], losses[part], hits[part],
            sums, some, dh[part], V, smoothing, ranges,
        )  # fmt: skip
        if grads:
            add_transposed_product(some, rows[part], grads[0], *one_sum(grads[1], some), packing, depth=Depth(batch))
    _add_up(1, losses, hits, sums)
    return sums, dh.reshape(h.shape) if grads else None
