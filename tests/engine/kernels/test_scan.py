"""The scan runs any cell: for a cell of this file, two functions over rows are compiled, but no scan."""

from __future__ import annotations

import inspect
from pathlib import Path

import numba
import numpy as np
import pytest
from numba_threads import on_threads
from numpy.typing import NDArray
from tolerances import assert_close

from unrolled.engine.kernels.recurrent import layer, pointwise, scan
from unrolled.engine.kernels.recurrent.cells import CELL_FORMULAS
from unrolled.engine.kernels.recurrent.formulas import Formulas, Outputs, Vectors
from unrolled.engine.kernels.recurrent.packed_steps import plan
from unrolled.engine.kernels.simd.activations import tanh
from unrolled.engine.models.cells import lstm

T, B, H = 5, 7, 19
KEPT = 0.75


def activate(hidden: Vectors, inputs: Vectors, before: Vectors) -> Outputs:
    (a,), (x,), (h_prev,) = hidden, inputs, before
    n = tanh(a + x)
    return (n,), (KEPT * h_prev + (1 - KEPT) * n,)


def differentiate(gates: Vectors, before: Vectors, after: Vectors, dh: Vectors, dstate: Vectors) -> Outputs:
    (n,), (dh,), (dh_next,) = gates, dh, dstate
    dh = dh + dh_next
    return ((1 - KEPT) * dh * (1 - n * n),), (KEPT * dh,)


def forward_reference(xg: NDArray, s0: NDArray, w_hh: NDArray, b_hh: NDArray) -> tuple[NDArray, NDArray]:
    states, gates = [s0], []
    for x in xg:
        gates.append(np.tanh(x + states[-1][0] @ w_hh.T + b_hh))
        states.append(KEPT * states[-1] + (1 - KEPT) * gates[-1])
    return np.stack(states), np.stack(gates)


def backward_reference(dh: NDArray, ds_T: NDArray, gates: NDArray, w_hh: NDArray) -> tuple[NDArray, NDArray]:
    da, ds = np.empty_like(gates), ds_T[0]
    for t in reversed(range(len(dh))):
        total = dh[t] + ds
        da[t] = (1 - KEPT) * total * (1 - gates[t] ** 2)
        ds = KEPT * total + da[t] @ w_hh
    return da, ds[None]


@pytest.fixture
def leaky(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> str:
    """Return the name of a cell that is registered, and cached on disk, for one test."""
    name = "leaky"
    run_lstm()  # loads the scan from the folder of the kernels
    monkeypatch.setattr(numba.config, "CACHE_DIR", str(tmp_path))
    monkeypatch.setitem(CELL_FORMULAS, name, Formulas(activate, differentiate, 1, 1, 1, ((0, 1),)))
    monkeypatch.setattr(pointwise, "_compiled", dict(pointwise._compiled))
    monkeypatch.setattr(pointwise, "_addresses", dict(pointwise._addresses))
    return name


def run(
    cell: str, xg: NDArray, s0: NDArray, w: NDArray, b: NDArray, dy: NDArray | None = None, dfinal: NDArray | None = None
) -> tuple[NDArray, ...]:  # fmt: skip
    """Return outputs and final state of one direction over full rows and, given theirs, the gradients dxg, dhg and ds0."""
    steps = plan(*xg.shape[:2], None)
    y, final, tape = layer.forward(cell, [xg], s0[:, None], [w], [b], steps)
    if dy is None or dfinal is None:
        return y, final[:, 0]
    [gradients], ds0 = layer.backward(cell, dy.copy(), dfinal[:, None], tape, [w], [b], steps)
    return y, final[:, 0], np.asarray(gradients.dxg), np.asarray(gradients.dhg), ds0[:, 0]


def run_lstm() -> None:
    rng = np.random.default_rng(0)
    xg, s0, w, b = (rng.standard_normal(shape) for shape in ((T, B, 4 * H), (2, B, H), (4 * H, H), (4 * H,)))
    y, final, *_ = run("lstm", xg, s0, w, b, xg[..., :H], s0)
    expected, _ = lstm.forward(xg, s0, w, b)
    assert_close(y, expected[1:, 0], "engine", what="outputs")
    assert_close(final, expected[-1], "engine", what="final state")


def compiled_signatures() -> list[int]:
    """Return for how many types each of the two scans is compiled."""
    bodies = [inspect.getclosurevars(one).nonlocals["body"] for one in (scan._forward, scan._backward)]
    return [len(body.signatures) for body in bodies]


@pytest.mark.parametrize("threads", [1, 2])
def test_a_cell_that_is_only_here(leaky: str, threads: int) -> None:
    rng = np.random.default_rng(0)
    xg, dh, s0, ds_T = (rng.standard_normal(shape) for shape in ((T, B, H), (T, B, H), (1, B, H), (1, B, H)))
    w, b = rng.standard_normal((H, H)) / 4, rng.standard_normal(H)
    compiled = compiled_signatures()
    with on_threads(threads):
        y, final, dxg, dhg, ds0 = run(leaky, xg, s0, w, b, dh, ds_T)
    expected_states, expected_gates = forward_reference(xg, s0, w, b)
    assert_close(y, expected_states[1:, 0], "engine", what="outputs")
    assert_close(final, expected_states[-1], "engine", what="final state")
    da, expected_ds0 = backward_reference(dh, ds_T, expected_gates, w)
    for got in (dxg, dhg):
        assert_close(got, da, "engine", what="gradient of the products")
    assert_close(ds0, expected_ds0, "engine", what="gradient of the state")
    assert compiled_signatures() == compiled


def test_alarm_other_formulas_are_noticed() -> None:
    rng = np.random.default_rng(0)
    xg, s0, w, b = (rng.standard_normal(shape) for shape in ((T, B, H), (1, B, H), (H, H), (H,)))
    y, _ = run("rnn", xg, s0, w, b)
    with pytest.raises(AssertionError):
        assert_close(y, forward_reference(xg, s0, w, b)[0][1:, 0], "engine")
