"""The embedding, compiled; contract and formulas in ``unrolled.engine.models.layers``."""

from __future__ import annotations

from numpy.typing import NDArray

from unrolled.engine.kernels.simd.row_sums import add_row_at
from unrolled.engine.kernels.threads.row_copies import take_rows
from unrolled.engine.kernels.threads.thread_pool import compiled_on_all_threads


def embedding_forward(weight: NDArray, tokens: NDArray) -> NDArray:
    """Return the rows (T, B, E) of ``weight`` (V, E) for ``tokens`` (T, B)."""
    return take_rows(weight, tokens.reshape(-1)).reshape(*tokens.shape, weight.shape[1])


@compiled_on_all_threads
def _add_rows_at(part: int, parts: int, rows: NDArray, places: NDArray, total: NDArray) -> None:
    """np.add.at(total, places, rows) without the rows whose place is -1; threads share the columns, so no two write to one."""
    N = total.shape[1]
    first, last = part * N // parts, (part + 1) * N // parts
    for m in range(rows.shape[0]):
        if places[m] >= 0:
            add_row_at(rows[m], first, 0, total[places[m]], first, last - first)


def embedding_backward(dx: NDArray, tokens: NDArray, dweight: NDArray) -> None:
    """Add the rows of ``dx`` (T, B, E) to the rows of ``dweight`` (V, E) that they came from; those from -1 to none."""
    _add_rows_at(dx.reshape(-1, dx.shape[-1]), tokens.reshape(-1), dweight)
