"""Directions and lengths of the compiled scan: against the reference, and bit by bit against each row alone."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import models
import numpy as np
import pytest
from numba_threads import on_threads
from numpy.typing import NDArray
from tolerances import assert_close, relative_error

from unrolled.engine.kernels.recurrent import scan, work_partition
from unrolled.engine.kernels.recurrent.layer import backward, forward
from unrolled.engine.kernels.recurrent.packed_steps import pack, plan, unpack
from unrolled.engine.kernels.simd import bf16
from unrolled.engine.models.cells import CELLS
from unrolled.engine.models.dropout import Dropout, dropout_masks
from unrolled.engine.models.inputs.batch import Batch
from unrolled.engine.models.layers.recurrent import RECURRENT
from unrolled.engine.models.spec import ModelSpec
from unrolled.engine.network.network import Gradients, Network

T, B = 9, 13
THREADS = (1, 2)


def spec_of(cell: str, layers: int, bidirectional: bool, H: int = 37, inputs: str = "tokens") -> ModelSpec:
    """Return a model whose units are no multiple of a register, or of whole panels with H = 64."""
    model = models.spec(cell, inputs, layers, bidirectional)
    return replace(model, core=replace(model.core, hidden_size=H))


def gradients(spec: ModelSpec, batch: Batch, dtype: type, engine: str, smoothing: float = 0.1) -> Gradients:
    """Return the gradients from a state that is not zero."""
    backend, _, precision = engine.partition("-")
    model = Network(spec, models.params(spec, dtype), backend, precision or "float32")
    return model.gradients(batch, models.state(spec, batch.batch_size, dtype), None, smoothing)


def assert_equal_gradients(got: Gradients, expected: Gradients, dtype: type) -> None:
    """Compare loss, details, states and the gradients of all parameters."""
    assert got.loss.details == expected.loss.details
    assert_close(got.loss.loss, expected.loss.loss, "engine", dtype, "loss")
    assert_close(got.loss.weight, expected.loss.weight, "engine", dtype, "weight")
    for what in ("state", "dstate"):
        assert_close(getattr(got, what), getattr(expected, what), "engine", dtype, what)
    for name, value in expected.params.items():
        assert_close(got.params[name], value, "engine", dtype, name)


def assert_same(got: NDArray, expected: NDArray, what: str) -> None:
    """Compare bit by bit: 0 and -0 differ."""
    kind = f"i{got.itemsize}"
    np.testing.assert_array_equal(np.ascontiguousarray(got).view(kind), np.ascontiguousarray(expected).view(kind), what)


@pytest.mark.parametrize("threads", THREADS)
@pytest.mark.parametrize("ragged", [False, True], ids=["full", "lengths"])
@pytest.mark.parametrize("bidirectional", [False, True], ids=["one", "two"])
@pytest.mark.parametrize("layers", [1, 2, 3])
@pytest.mark.parametrize("cell", models.ALL_CELLS)
def test_gradients_equal_the_reference(cell: str, layers: int, bidirectional: bool, ragged: bool, threads: int) -> None:
    spec = spec_of(cell, layers, bidirectional)
    batch = models.spec_batch(spec, T, B, lengths=models.ragged(T, B) if ragged else None)
    for dtype in (np.float64, np.float32):
        expected = gradients(spec, batch, dtype, "numpy")
        with on_threads(threads):
            assert_equal_gradients(gradients(spec, batch, dtype, "numba"), expected, dtype)


@pytest.mark.parametrize("inputs", models.MIXTURES)
def test_gradients_of_other_inputs_equal_the_reference(inputs: str) -> None:
    spec = spec_of("gru", 2, True, inputs=inputs)
    batch = models.spec_batch(spec, T, B, lengths=models.ragged(T, B))
    expected = gradients(spec, batch, np.float64, "numpy")
    assert_equal_gradients(gradients(spec, batch, np.float64, "numba"), expected, np.float64)


@pytest.mark.parametrize("variational", [False, True])
@pytest.mark.parametrize("ragged", [False, True], ids=["full", "lengths"])
def test_dropout_masks_equal_the_reference(ragged: bool, variational: bool) -> None:
    spec = spec_of("lstm", 2, True)
    spec = replace(spec, core=replace(spec.core, dropout=0.3))
    settings = Dropout(inputs=0.2, outputs=0.25, variational=variational)
    batch = models.spec_batch(spec, T, B, lengths=models.ragged(T, B) if ragged else None)
    masks = dropout_masks(spec, T, B, np.random.default_rng(8), np.float64, settings)
    state, params = models.state(spec, B), models.params(spec)
    got, expected = (Network(spec, params, engine).gradients(batch, state, masks, 0.0) for engine in ("numba", "numpy"))
    assert_equal_gradients(got, expected, np.float64)


@pytest.mark.skipif(not bf16.available(), reason="this processor has no products of bfloat16")
@pytest.mark.parametrize("cell", ["gru", "lstm"])
def test_gradients_in_bf16_are_near_the_reference(cell: str) -> None:
    spec = spec_of(cell, 2, True)
    batch = models.spec_batch(spec, T, B, lengths=models.ragged(T, B))
    expected = gradients(spec, batch, np.float32, "numpy")
    got = gradients(spec, batch, np.float32, "numba-bf16")
    assert 1e-5 < relative_error(got.params, expected.params) < 0.05
    assert_close(got.state, expected.state, "bf16 model", np.float32, "state")


class _Layer:
    """One layer of random arrays in the layout (T, B, …), run by the compiled engine over rows of its choice."""

    def __init__(self, cell: str, H: int, D: int, dtype: type = np.float32) -> None:
        rng = np.random.default_rng(H)
        self.cell, G, S = cell, CELLS[cell].gates * H, CELLS[cell].states

        def draw(*shape: int) -> NDArray:
            return rng.standard_normal(shape).astype(dtype)

        self.xgs, self.s0 = [draw(T, B, G) for _ in range(D)], draw(S, D, B, H)
        self.w_hhs, self.b_hhs = [draw(G, H) / np.sqrt(H).astype(dtype) for _ in range(D)], [draw(G) for _ in range(D)]
        self.dy, self.dfinal = draw(T, B, D * H), draw(S, D, B, H)
        self.lengths = models.ragged(T, B)

    def run(self, rows: Any, steps: int = T, lengths: NDArray[np.int64] | None = None) -> list[NDArray]:
        """Return y, the final state and, per direction, dxg, dhg and h_prev in (T, B, …), and the initial state's gradient."""
        count = len(self.s0[0, 0][rows])
        steps_of = plan(steps, count, lengths)

        def rows_of(array: NDArray) -> NDArray:
            return pack(np.ascontiguousarray(array[:steps, rows]), steps_of)

        y, final, tape = forward(
            self.cell, [rows_of(xg) for xg in self.xgs], self.s0[:, :, rows], self.w_hhs, self.b_hhs, steps_of
        )
        found, ds0 = backward(
            self.cell, rows_of(self.dy).copy(), self.dfinal[:, :, rows], tape, self.w_hhs, self.b_hhs, steps_of
        )
        results = [unpack(y, steps_of).copy(), final, ds0]
        for one in found:
            results += [unpack(np.ascontiguousarray(array), steps_of) for array in one]
        return results


@pytest.mark.parametrize("cell", models.ALL_CELLS)
def test_a_layer_equals_the_reference(cell: str) -> None:
    layer = _Layer(cell, 19, 2, np.float64)
    arguments = layer.w_hhs, layer.b_hhs, RECURRENT.plan(T, B, layer.lengths)
    y, final, tape = RECURRENT.forward(cell, layer.xgs, layer.s0, *arguments)
    found, ds0 = RECURRENT.backward(cell, layer.dy, layer.dfinal, tape, *arguments)
    expected = [y, final, ds0, *(array for one in found for array in one)]
    got = layer.run(slice(None), T, layer.lengths)
    for n, (one, other) in enumerate(zip(got, expected, strict=True)):
        assert_close(one, other, "engine", what=f"result {n}")


@pytest.mark.parametrize("few", [2, 17], ids=["by_rows", "by_units"])
@pytest.mark.parametrize("H", [37, 64])
@pytest.mark.parametrize("D", [1, 2])
@pytest.mark.parametrize("cell", models.ALL_CELLS)
def test_a_row_is_the_same_alone_in_padded_batches_and_on_any_threads(
    cell: str, D: int, H: int, few: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    layer, seen = _Layer(cell, H, D), []
    lengths, padded = layer.lengths, None

    def share(*arguments: Any) -> work_partition.Split:
        seen.append(work_partition.split(*arguments))
        return seen[-1]

    monkeypatch.setattr(scan, "split", share)
    monkeypatch.setattr(work_partition, "_LARGE", 0)
    monkeypatch.setattr(work_partition, "_FEW_ROWS", few)
    for threads in (1, 2, 3, 4, 5, 16):  # with more parts than threads, a thread does several
        monkeypatch.setattr(work_partition, "get_num_threads", lambda threads=threads: threads)
        got = layer.run(slice(None), T, lengths)
        for n, one in enumerate(got):
            assert_same(one, padded[n] if padded else one, f"result {n}, {threads} threads")
        padded = padded or got
    assert padded is not None
    assert {found.by_units for found in seen} == ({True, False} if few > B / 2 and H == 64 else {False})
    assert {found.directions for found in seen} == {1, D}
    others = np.array([5, 2, 11, 7])  # in an order of their own
    for n, one in enumerate(layer.run(others, T, lengths[others])):
        rows = (slice(None), slice(None), others) if n in (1, 2) else (slice(None), others)
        assert_same(one, padded[n][rows], f"result {n} of some rows")
    for b in range(B):
        for n, alone in enumerate(layer.run([b], lengths[b])):  # full rows, which are not packed
            if n in (1, 2):  # states
                assert_same(alone[:, :, 0], padded[n][:, :, b], f"state {n} of row {b}")
            else:
                assert_same(alone[:, 0], padded[n][: lengths[b], b], f"result {n} of row {b}")
                assert not padded[n][lengths[b] :, b].any()


@pytest.mark.parametrize("H", [37, 64])
@pytest.mark.parametrize("bidirectional", [False, True], ids=["one", "two"])
def test_training_steps_do_not_depend_on_the_threads(bidirectional: bool, H: int) -> None:
    spec = spec_of("lstm", 2, bidirectional, H)
    for rows in (2, B, 48):
        batch = models.spec_batch(spec, T, rows, lengths=models.ragged(T, rows))
        with on_threads(1):
            expected = gradients(spec, batch, np.float32, "numba")
        with on_threads(2):
            got = gradients(spec, batch, np.float32, "numba")
        assert_same(got.flat, expected.flat, f"{rows} rows")
        assert_same(got.dstate, expected.dstate, f"{rows} rows")


def test_gradients_are_the_sums_of_those_of_each_row_alone() -> None:
    spec = spec_of("lstm", 2, True)
    batch, state = models.spec_batch(spec, T, B, lengths=models.ragged(T, B)), models.state(spec, B)
    model = Network(spec, models.params(spec), "numba")
    whole = model.gradients(batch, state)
    total, loss = np.zeros_like(whole.flat), 0.0
    assert batch.lengths is not None
    for b, n in enumerate(batch.lengths):
        one = Batch(
            {name: array[:n, b : b + 1] for name, array in batch.inputs.items()}, batch.targets[:n, b : b + 1],
            batch.weights[:n, b : b + 1], None, False,
        )  # fmt: skip
        alone = model.gradients(one, np.ascontiguousarray(state[:, :, b : b + 1]))
        total += alone.flat * (alone.loss.weight / whole.loss.weight)
        loss += alone.loss.loss
    assert_close(total, whole.flat, "invariant", what="gradients")
    assert_close(loss, whole.loss.loss, "invariant", what="loss")


@pytest.mark.parametrize("engine", ["numpy", "numba"])
def test_logits_of_padded_steps_are_the_bias(engine: str) -> None:
    spec = spec_of("gru", 1, True)
    params, lengths = models.params(spec), models.ragged(T, B)
    batch = models.spec_batch(spec, T, B, lengths=lengths)
    outputs, _ = Network(spec, params, engine).run(batch.inputs, lengths, models.state(spec, B))
    reference, _ = Network(spec, params, "numpy").run(batch.inputs, lengths, models.state(spec, B))
    assert_close(outputs["logits"], reference["logits"], "engine", what="logits")
    padding = np.arange(T)[:, None] >= lengths
    bias = np.broadcast_to(params["output.bias"], outputs["logits"].shape)
    np.testing.assert_array_equal(outputs["logits"][padding], bias[padding])


def test_a_batch_without_weights_has_no_gradient() -> None:
    spec = spec_of("lstm", 1, True)
    batch = models.spec_batch(spec, T, B, lengths=models.ragged(T, B))
    batch = batch._replace(weights=np.zeros_like(batch.weights))
    got = gradients(spec, batch, np.float64, "numba")
    assert got.loss == (0.0, 0.0, (0, 0))
    assert not got.flat.any()


@pytest.mark.parametrize("damage", ["length", "direction", "order", "initial state"])
def test_alarm_a_wrong_layout_is_noticed(damage: str) -> None:
    layer = _Layer("lstm", 19, 2)
    expected, lengths, rows = layer.run(slice(None), T, layer.lengths), layer.lengths.copy(), slice(None)
    if damage == "length":
        lengths[3] += 1 if lengths[3] < T else -1
    elif damage == "direction":
        layer.xgs, layer.w_hhs = layer.xgs[::-1], layer.w_hhs[::-1]
    elif damage == "order":
        rows = np.roll(np.arange(B), 1)
    else:
        layer.s0[0, 1, 4] += 0.01
    wrong = layer.run(rows, T, lengths)
    for n in (0, 1):
        with pytest.raises(AssertionError):
            assert_same(wrong[n], expected[n], "results")
