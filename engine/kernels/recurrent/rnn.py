"""The Elman network compiled: contract and formulas in ``unrolled.engine.models.cells.rnn``.

Threads share it as in the LSTM's kernel.
"""

from __future__ import annotations

from typing import Any

from numpy.typing import NDArray

from unrolled.engine.kernels.gemm.lhs_packing import new_operand, operand
from unrolled.engine.kernels.gemm.matmul import add_product_part
from unrolled.engine.kernels.gemm.packing import Packing
from unrolled.engine.kernels.gemm.rhs_packing import pack, pack_transposed
from unrolled.engine.kernels.jit.compilation import compiled
from unrolled.engine.kernels.recurrent.work_partition import (
    Gathered,
    as_gathered,
    by_state,
    hidden_product,
    new_states,
    share,
    split,
)
from unrolled.engine.kernels.simd.activations import tanh
from unrolled.engine.kernels.simd.vectors import Vector, elementwise, select
from unrolled.engine.kernels.threads.spin_barrier import wait
from unrolled.engine.kernels.threads.thread_pool import compiled_parallel

_tanh_all = elementwise(lambda a, x: tanh(a + x))
_relu_all = elementwise(lambda a, x: (a + x).at_least(0))


@compiled
def activate(a: NDArray, x: NDArray, relu: bool) -> None:
    """Units (n,) of one row: ``a`` from the hidden product to h; ``x`` (n,) is the input's."""
    if relu:
        _relu_all((a, x), (a,), (), a.shape[0])
    else:
        _tanh_all((a, x), (a,), (), a.shape[0])


@compiled_parallel
def _run(
    part: int, parts: int, by_units: bool, team: NDArray, table: NDArray, rows: NDArray, panels: NDArray, b_hh: NDArray,
    states: NDArray, relu: bool,
) -> None:  # fmt: skip
    """``states`` (1, T + 1, B, H)."""
    _, steps, B, H = states.shape
    h = states[0]
    flat = h.reshape(-1)
    active, first, last, u0, u1 = share(part, parts, by_units, team, B, H, panels.shape[2])
    if active == 0:
        return
    memory = new_operand(panels, last - first)
    for t in range(steps - 1):
        n, to = last - first, ((t + 1) * B + first) * H
        before, at, row = operand(flat, (t * B + first) * H, H, n, H, panels, memory)
        hidden_product(before, at, row, panels, b_hh, flat, to, H, n, H, 1, u0, u1, t % 2 == 1)
        for b in range(first, last):
            activate(h[t + 1, b, u0:u1], table[rows[t, b], u0:u1], relu)
        if by_units:
            wait(team, active, t + 1)


def _differentiate_tanh(h: Vector, dh: Vector, dh_next: Vector) -> tuple[Any, ...]:
    """The argument's gradient, and 0, from where the product sums up dh_next."""
    return (dh + dh_next) * (1 - h * h), 0


def _differentiate_relu(h: Vector, dh: Vector, dh_next: Vector) -> tuple[Any, ...]:
    dh = dh + dh_next
    return select(h > 0, dh, dh.constant(0)), 0


_differentiate_tanh_all, _differentiate_relu_all = elementwise(_differentiate_tanh), elementwise(_differentiate_relu)


@compiled
def _backward_row(h: NDArray, dh: NDArray, dh_next: NDArray, relu: bool) -> None:
    """dh becomes the gradient of the activation's argument."""
    if relu:
        _differentiate_relu_all((h, dh, dh_next), (dh, dh_next), (), h.shape[0])
    else:
        _differentiate_tanh_all((h, dh, dh_next), (dh, dh_next), (), h.shape[0])


@compiled_parallel
def _run_back(
    part: int, parts: int, by_units: bool, team: NDArray, dh: NDArray, ds: NDArray, states: NDArray, panels: NDArray,
    relu: bool,
) -> None:  # fmt: skip
    """``ds`` (1, B, H) is the gradient of the state, walking backwards; dh becomes dxg."""
    T, B, H = dh.shape
    flat_dh, flat_ds = dh.reshape(-1), ds.reshape(-1)
    W = panels.shape[2]
    active, first, last, u0, u1 = share(part, parts, by_units, team, B, H, W)
    if active == 0:
        return
    memory = new_operand(panels, last - first)
    for step in range(T):
        t = T - 1 - step
        for b in range(first, last):
            _backward_row(states[0, t + 1, b, u0:u1], dh[t, b, u0:u1], ds[0, b, u0:u1], relu)
        if by_units:
            wait(team, active, step + 1)
        n, c_at = last - first, first * H + u0
        d, at, d_row = operand(flat_dh, (t * B + first) * H, H, n, H, panels, memory)
        add_product_part(d, at, d_row, 1, panels, u0 // W, flat_ds, c_at, H, n, u1 - u0, t % 2 == 1)


def _forward(
    xg: NDArray | Gathered, s0: NDArray, w_hh: NDArray, b_hh: NDArray, relu: bool, packing: Packing
) -> tuple[NDArray, NDArray]:  # fmt: skip
    table, rows = as_gathered(xg)
    (T, B), H = rows.shape, w_hh.shape[1]
    states = new_states(s0, T)
    panels = pack_transposed(w_hh, packing)
    _run(*split(B, H, panels), table, rows, panels, b_hh, by_state(states), relu)
    return states, states[1:, 0]


def _backward(
    dh: NDArray, ds_T: NDArray, states: NDArray, w_hh: NDArray, relu: bool, packing: Packing
) -> tuple[NDArray, NDArray, NDArray]:
    """As ``cells.rnn.backward``, but ``dh`` is used up: dxg takes its memory."""
    ds = ds_T.copy()
    _, B, H = dh.shape
    panels = pack(w_hh, packing)
    _run_back(*split(B, H, panels), dh, ds, by_state(states), panels, relu)
    return dh, dh, ds


def forward_tanh(
    xg: NDArray | Gathered, s0: NDArray, w_hh: NDArray, b_hh: NDArray, packing: Packing = Packing.FULL
) -> tuple[NDArray, NDArray]:
    return _forward(xg, s0, w_hh, b_hh, False, packing)


def backward_tanh(
    dh: NDArray,
    ds_T: NDArray,
    states: NDArray,
    gates: NDArray,
    w_hh: NDArray,
    b_hh: NDArray,
    packing: Packing = Packing.FULL,
) -> tuple[NDArray, NDArray, NDArray]:
    return _backward(dh, ds_T, states, w_hh, False, packing)


def forward_relu(
    xg: NDArray | Gathered, s0: NDArray, w_hh: NDArray, b_hh: NDArray, packing: Packing = Packing.FULL
) -> tuple[NDArray, NDArray]:
    return _forward(xg, s0, w_hh, b_hh, True, packing)


def backward_relu(
    dh: NDArray,
    ds_T: NDArray,
    states: NDArray,
    gates: NDArray,
    w_hh: NDArray,
    b_hh: NDArray,
    packing: Packing = Packing.FULL,
) -> tuple[NDArray, NDArray, NDArray]:
    return _backward(dh, ds_T, states, w_hh, True, packing)
