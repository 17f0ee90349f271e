"""Matrix products: every shape of tile, from any start, in either direction, against NumPy."""

from __future__ import annotations

import numpy as np
import pytest
from jit import compiled
from numba import get_num_threads
from numpy.typing import NDArray
from tolerances import assert_close

from unrolled.engine.kernels.gemm import matmul
from unrolled.engine.kernels.gemm.matmul import ROW_BLOCK, product, products
from unrolled.engine.kernels.gemm.microkernel import TILE_ROWS
from unrolled.engine.kernels.gemm.rhs_packing import pack, pack_transposed, panel_width

DTYPES = [np.float64, np.float32]
ROWS = sorted({1, 2, 3, 4, 5, 7, 8, 9, TILE_ROWS, 2 * TILE_ROWS + 3})
FAR = 600  # a depth over one block


@compiled
def multiply_part(
    a: NDArray, panels: NDArray, first: int, start: NDArray, start_at: int, start_row: int, c: NDArray, c_at: int,
    columns: int, back: bool,
) -> None:  # fmt: skip
    (M, K), N = a.shape, c.shape[1]
    matmul.multiply_part(
        a.reshape(-1), 0, K, 1, panels, first, start.reshape(-1), start_at, start_row, c.reshape(-1), c_at, N, M, columns,
        back,
    )  # fmt: skip


def multiply(a: NDArray, panels: NDArray, start: NDArray, start_row: int, c: NDArray, back: bool) -> None:
    multiply_part(a, panels, 0, np.atleast_2d(start), 0, start_row, c, 0, c.shape[1], back)


@compiled
def multiply_all(a: NDArray, panels: NDArray, start: NDArray, start_row: int, c: NDArray) -> None:
    (M, K), N = a.shape, c.shape[1]
    matmul.multiply(a.reshape(-1), 0, K, 1, panels, start.reshape(-1), 0, start_row, c.reshape(-1), 0, N, M, N, False)


def make_factors(M: int, K: int, N: int, dtype: type) -> tuple[NDArray, NDArray, NDArray]:
    rng = np.random.default_rng(M * K * N)
    return tuple(rng.standard_normal(shape).astype(dtype) for shape in ((M, K), (K, N), (M, N)))  # type: ignore[return-value]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("K", [1, 40, FAR])
@pytest.mark.parametrize("panels", [0, 1, 2, 3, 4, 5, 6])
def test_a_product_starts_from_one_row_from_rows_or_from_what_it_adds_to(panels: int, K: int, dtype: type) -> None:
    W = panel_width(np.dtype(dtype))
    for N in {max(panels * W + more, 1) for more in (0, 1, W // 2, W - 1)}:
        for M in ROWS:
            a, b, start = make_factors(M, K, N, dtype)
            scale = np.sqrt(K + 1)
            packed, exact = pack(b), a.astype(np.float64) @ b
            for back in (False, True):
                from_row, from_rows, added = np.full((M, N), 7, dtype), np.full((M, N), 7, dtype), start.copy()
                multiply(a, packed, start[0], 0, from_row, back)
                multiply(a, packed, start, N, from_rows, back)
                multiply(a, packed, added, N, added, back)
                assert_close(from_row / scale, (start[0] + exact) / scale, "engine", dtype, f"{M} {N} from a row")
                assert_close(from_rows / scale, (start + exact) / scale, "engine", dtype, f"{M} {N} from rows")
                np.testing.assert_array_equal(added, from_rows)


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_row_has_the_same_bits_in_tiles_of_every_shape(dtype: type) -> None:
    W = panel_width(np.dtype(dtype))
    a, b, start = make_factors(2 * TILE_ROWS + 3, FAR, 7 * W, dtype)
    every = np.empty((len(a), 7 * W), dtype)
    multiply(a, pack(b), start, 7 * W, every, False)
    for M in ROWS:
        for columns in (W // 2, W, 2 * W, 3 * W, 4 * W, 5 * W):
            some = np.empty((M, columns), dtype)
            start_of_some = np.ascontiguousarray(start[-M:, :columns])
            multiply(a[-M:], pack(np.ascontiguousarray(b[:, :columns])), start_of_some, columns, some, True)
            np.testing.assert_array_equal(some, every[-M:, :columns])


def test_many_rows_go_in_blocks() -> None:
    M = 2 * ROW_BLOCK + 3
    a, b, start = make_factors(M, 20, 40, np.float32)
    exact = a.astype(np.float64) @ b
    for from_one in (False, True):
        c = np.empty((M, 40), np.float32)
        multiply_all(a, pack(b), start, 0 if from_one else 40, c)
        assert_close(c / 5, ((start[0] if from_one else start) + exact) / 5, "engine", np.float32, "product")


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_part_of_the_columns_is_that_of_all(dtype: type) -> None:
    W = panel_width(np.dtype(dtype))
    a, b, start = make_factors(9, 70, 6 * W, dtype)
    whole, part = start.copy(), start.copy()
    packed = pack(b)
    multiply(a, packed, whole, 6 * W, whole, False)
    multiply_part(a, packed, 2, part, 2 * W, 6 * W, part, 2 * W, 3 * W + 5, False)
    first, last = 2 * W, 5 * W + 5
    np.testing.assert_array_equal(part[:, first:last], whole[:, first:last])
    np.testing.assert_array_equal(part[:, :first], start[:, :first])
    np.testing.assert_array_equal(part[:, last:], start[:, last:])
    own = np.full((9, 3 * W + 20), np.nan, dtype)  # which lies elsewhere, and so far apart
    own[:, 7 : 3 * W + 12] = start[:, first:last]
    part[:] = 7
    multiply_part(a, packed, 2, own, 7, 3 * W + 20, part, first, 3 * W + 5, True)
    np.testing.assert_array_equal(part[:, first:last], whole[:, first:last])
    assert (part[:, :first] == 7).all()
    assert (part[:, last:] == 7).all()


@pytest.mark.parametrize("dtype", DTYPES)
def test_products_of_ranges_of_columns_are_added_up(dtype: type) -> None:
    a, b, _ = make_factors(ROW_BLOCK * get_num_threads() + 22, 90, 70, dtype)
    bias = np.arange(70, dtype=dtype)
    exact = a.astype(np.float64) @ b + bias
    factors = [(k0, k1, pack(np.ascontiguousarray(b[k0:k1]))) for k0, k1 in ((0, 50), (50, 90))]
    whole = product(a, pack_transposed(np.ascontiguousarray(b.T)), bias)
    for got in (products(a, factors, bias), whole):
        assert_close(got / 10, exact / 10, "engine", dtype, "product")
    with pytest.raises(AssertionError):
        assert_close(products(a, factors[:1], bias) / 10, exact / 10, "engine", dtype, "part of the product")
