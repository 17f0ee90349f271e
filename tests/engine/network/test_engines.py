"""Numba against the NumPy reference, array by array, and the invariants that every engine keeps."""

from __future__ import annotations

import models
import numpy as np
import pytest
from numpy.typing import NDArray
from tolerances import assert_close

from unrolled.engine.errors import ShapeError
from unrolled.engine.kernels.gemm.weight_gradient import add_transposed_product
from unrolled.engine.kernels.recurrent.layouts import ColumnRanges
from unrolled.engine.models.cells import CELLS
from unrolled.engine.models.heads.step_labels import StepLabelsHead
from unrolled.engine.models.inputs.batch import TOKENS, Batch
from unrolled.engine.models.layers.output_loss import LossSums, softmax_cross_entropy
from unrolled.engine.models.step_contract import StepModel, zero_state
from unrolled.engine.network.backends import get_backend
from unrolled.engine.network.network import Network
from unrolled.runtime import ENGINES
from unrolled.runtime.models.engines import make_model

DTYPES = [np.float64, np.float32]
# Rows and widths around the tiles of 8, 4, 2, 1 rows and the panels of 32 and 16 columns, and a depth over one block.
SIZES = [(3, 1, 5), (4, 7, 33), (3, 17, 64), (2, 5, 300)]


def open_engine(engine: str, cell: str, layers: int = 2) -> StepModel:
    if engine in ("torch", "torchscript"):
        pytest.importorskip("torch", reason="the torch extra is not installed")
    return make_model(models.checkpoint(cell, layers), engine)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("cell", models.ALL_CELLS)
def test_kernels_equal_the_reference_array_by_array(cell: str, size: tuple[int, int, int], dtype: type) -> None:
    T, B, H = size
    spec = CELLS[cell]
    reference, compiled = get_backend("numpy").recurrent, get_backend("numba").recurrent
    rng = np.random.default_rng(T * B * H)
    xg = rng.standard_normal((T, B, spec.gates * H)).astype(dtype)
    s0 = rng.standard_normal((spec.states, B, H)).astype(dtype)
    w_hh = (rng.standard_normal((spec.gates * H, H)) / np.sqrt(H)).astype(dtype)
    b_hh = rng.standard_normal(spec.gates * H).astype(dtype)
    dh, ds_T = rng.standard_normal((T, B, H)).astype(dtype), rng.standard_normal(s0.shape).astype(dtype)
    results = []
    for functions in (reference, compiled):
        steps = functions.plan(T, B, None)
        y, final, tape = functions.forward(cell, [xg], s0[:, None], [w_hh], [b_hh], steps)
        (gradient,), ds0 = functions.backward(cell, dh.copy(), ds_T[:, None], tape, [w_hh], [b_hh], steps)
        dxg, dhg, h_prev = (functions.unpack(np.asarray(array), steps) for array in gradient)
        results.append({"y": y, "final": final, "h_prev": h_prev, "dxg": dxg, "dhg": dhg, "ds0": ds0})
    expected, got = results
    for name, one in got.items():
        other = expected[name]
        # Sums over H terms of size 1: the error grows with the largest entry, not with each.
        scale = max(float(np.abs(other).max()), 1.0)
        assert_close(one / scale, other / scale, "engine", dtype, name)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("places", [1, 5])
@pytest.mark.parametrize(
    ("column", "K", "M", "N", "width"), [(0, 1203, 37, 45, 60), (3, 1203, 37, 45, 60), (5, 570, 600, 100, 640)]
)
def test_a_transposed_product_takes_columns_and_sums_more(
    column: int, K: int, M: int, N: int, width: int, places: int, dtype: type
) -> None:
    """Columns before ``column`` are not read; columns after the product's are only summed, if ``sums`` has them."""
    rng = np.random.default_rng(column + places)
    a, b = rng.standard_normal((K, width)).astype(dtype), rng.standard_normal((K, N)).astype(dtype)
    where, scale = rng.integers(0, places, K), np.sqrt(K)
    exact = a.astype(np.float64)
    for last in (column + M, width):  # the columns of ``sums``
        c, sums = np.ones((M, N), dtype), np.ones((places, last), dtype)
        add_transposed_product(a, b, c, sums, where, column=column)
        product = 1 + exact[:, column : column + M].T @ b
        assert_close(c / scale, product / scale, "engine", dtype, "product")
        expected = np.ones((places, last))
        np.add.at(expected[:, column:], where, exact[:, column:last])
        assert_close(sums / scale, expected / scale, "engine", dtype, "sums")
        with pytest.raises(AssertionError):
            assert_close(np.roll(sums, 1, axis=1) / scale, expected / scale, "engine", dtype, "sums of other columns")


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_gradient_in_ranges_of_columns_is_like_one_in_one_piece(dtype: type) -> None:
    rng = np.random.default_rng(8)
    T, B, H, E = 5, 3, 8, 11
    whole = rng.standard_normal((T, B, 4 * H)).astype(dtype)
    weight, x = rng.standard_normal((3 * H, E)).astype(dtype), rng.standard_normal((T, B, E)).astype(dtype)
    apart = ColumnRanges(whole, ((0, 2 * H), (3 * H, 4 * H)))
    plain = np.concatenate([whole[..., : 2 * H], whole[..., 3 * H :]], axis=-1)
    np.testing.assert_array_equal(np.asarray(apart), plain)
    layers = get_backend("numba").layers
    got = layers.linear_backward_input(apart, weight)
    assert_close(got, layers.linear_backward_input(plain, weight), "engine", dtype, "dx")
    grads = []
    for dy in (apart, plain):
        dweight, dbias = np.ones_like(weight), np.ones(3 * H, dtype)
        layers.linear_backward_weight(dy, x, dweight, dbias)
        grads.append((dweight, dbias))
    assert_close(grads[0][0], grads[1][0], "engine", dtype, "dweight")
    assert_close(grads[0][1], grads[1][1], "engine", dtype, "dbias")


def cross_entropy(backend: str, logits: NDArray, targets: NDArray, mask: NDArray) -> tuple[LossSums, NDArray | None]:
    """Return the loss of logits and its gradient, by an output layer whose weight is the identity."""
    V, dtype = logits.shape[-1], logits.dtype
    params = {"output.weight": np.eye(V, dtype=dtype), "output.bias": np.zeros(V, dtype)}
    grads = {name: np.zeros_like(value) for name, value in params.items()}
    batch, state = Batch({}, targets, mask, None, False), np.zeros((1, 1, *logits.shape[1:]), dtype)
    found = get_backend(backend).heads["step_labels"].loss(StepLabelsHead(V), params, logits, state, batch, grads, 0.0)
    return LossSums.from_array(found.sums), found.dy


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("V", [2, 31, 100, 1000])
def test_cross_entropy_equals_the_reference(V: int, dtype: type) -> None:
    rng = np.random.default_rng(V)
    logits = (rng.standard_normal((4, 3, V)) * 5).astype(dtype)
    logits[0, 0] = 0  # a tie: the lowest index counts
    targets, mask = rng.integers(0, V, (4, 3)), rng.random((4, 3)) > 0.3
    expected, dexpected = softmax_cross_entropy(logits, targets, mask, True)
    got, dgot = cross_entropy("numba", logits, targets, mask)
    assert (got.weight, got.details) == (expected.weight, expected.details)
    assert_close(np.array(got.loss, dtype), np.array(expected.loss, dtype), "engine", dtype, "loss")
    assert dgot is not None
    assert dexpected is not None
    assert_close(dgot, dexpected, "engine", dtype, "gradient")


@pytest.mark.parametrize("V", [5, 40])
def test_the_first_product_equals_the_reference_for_small_and_large_vocabularies(V: int) -> None:
    """With fewer tokens than positions the compiled engine multiplies each token of the vocabulary once."""
    rng = np.random.default_rng(V)
    tokens = rng.integers(0, V, (4, 3))
    embedding, weight, bias = rng.standard_normal((V, 6)), rng.standard_normal((7, 6)), rng.standard_normal(7)
    dxg, dhg = rng.standard_normal((4, 3, 7)), rng.standard_normal((4, 3, 7))
    h_prev = rng.standard_normal((4, 3, 2))
    results = []
    for name in ("numpy", "numba"):
        layers = get_backend(name).layers
        grads = tuple(np.ones_like(value) for value in (embedding, weight, bias))
        y = layers.embedded_linear_forward(embedding, tokens, weight, bias)
        if name == "numba":  # a table and the rows of it
            y = y.table[y.rows].reshape(4, 3, 7)
        hidden = np.ones((7, 2)), np.ones(7)
        layers.first_layer_backward(dxg, dhg, h_prev, embedding, tokens, weight, (*grads, *hidden))
        results.append((y, *grads))
    for expected, got in zip(*results, strict=True):
        assert_close(got, expected, "engine")


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("V", [5, 40])
def test_gradients_of_the_first_layer_equal_the_reference(V: int, shared: bool) -> None:
    """If input and hidden product have the same gradient, the compiled engine reads it once for both."""
    rng = np.random.default_rng(V)
    tokens, dxg = rng.integers(0, V, (9, 3)), rng.standard_normal((9, 3, 21))
    dhg = dxg if shared else rng.standard_normal((9, 3, 21))
    h_prev, embedding, w_ih = (rng.standard_normal(shape) for shape in ((9, 3, 7), (V, 6), (21, 6)))
    shapes = ((V, 6), (21, 6), (21,), (21, 7), (21,))
    results = []
    for name in ("numpy", "numba"):
        grads = tuple(np.ones(shape) for shape in shapes)
        get_backend(name).layers.first_layer_backward(dxg, dhg, h_prev, embedding, tokens, w_ih, grads)
        results.append(grads)
    for expected, got in zip(*results, strict=True):
        assert_close(got, expected, "engine")


def test_recycled_memory_is_never_that_of_a_living_array() -> None:
    from unrolled.engine.kernels.threads.buffer_pool import empty

    held = [empty((200, 300), np.float32) for _ in range(5)]
    for number, array in enumerate(held):
        array[:] = number
    view = held[3][7:9]
    address = held[1].ctypes.data
    del held[3], held[1]
    new = [empty((200, 300), np.float32) for _ in range(3)]
    for array in new:
        array[:] = -1
    assert [float(array.mean()) for array in held] == [0.0, 2.0, 4.0]
    assert (view == 3).all()
    assert address in [array.ctypes.data for array in new]


def test_large_arrays_start_at_a_line_of_the_cache() -> None:
    from unrolled.engine.kernels.threads.buffer_pool import LINE, SMALLEST, empty

    sizes = [SMALLEST, SMALLEST + 4, 5 * SMALLEST + 12]
    held = [empty((size // 4,), np.float32) for size in sizes for _ in range(3)]
    assert [array.ctypes.data % LINE for array in held] == [0] * 9
    assert [array.nbytes for array in held] == [size for size in sizes for _ in range(3)]


def test_cross_entropy_of_known_probabilities() -> None:
    p = np.array([[[0.5, 0.25, 0.25], [0.1, 0.2, 0.7]]])
    for backend in ("numpy", "numba"):
        loss, gradient = cross_entropy(backend, np.log(p), np.array([[1, 2]]), np.array([[True, True]]))
        assert loss.loss == pytest.approx(np.log(4) - np.log(0.7), rel=1e-12)
        assert (loss.weight, loss.details) == (2, (1, 2))
        np.testing.assert_allclose(gradient, [[[0.25, -0.375, 0.125], [0.05, 0.1, -0.15]]], rtol=1e-12, atol=1e-15)


def test_cross_entropy_survives_huge_logits() -> None:
    logits = np.array([[[1e4, 0.0, -1e4]]])
    for backend in ("numpy", "numba"):
        loss, gradient = cross_entropy(backend, logits, np.array([[1]]), np.array([[True]]))
        assert loss.loss == pytest.approx(1e4)
        np.testing.assert_allclose(gradient, [[[1.0, -1.0, 0.0]]], atol=1e-12)


ENGINE_NAMES = list(ENGINES)


@pytest.mark.parametrize("cell", models.ALL_CELLS)
@pytest.mark.parametrize("engine", ENGINE_NAMES)
def test_a_sequence_equals_its_chunks(engine: str, cell: str) -> None:
    model = open_engine(engine, cell)
    tokens = models.batch(model.config, steps=9).inputs[TOKENS]
    state = models.state(model.config, dtype=np.float32)
    whole, end = model.step(tokens, state)
    parts, moved = [], state
    for first, last in ((0, 1), (1, 5), (5, 9)):
        logits, moved = model.step(np.ascontiguousarray(tokens[first:last]), moved)
        parts.append(logits)
    assert_close(np.concatenate(parts), whole, "invariant", what="logits")
    assert_close(moved, end, "invariant", what="state")


@pytest.mark.parametrize("cell", models.ALL_CELLS)
@pytest.mark.parametrize("engine", ENGINE_NAMES)
def test_a_batch_equals_its_rows(engine: str, cell: str) -> None:
    model = open_engine(engine, cell)
    tokens = models.batch(model.config, steps=4, rows=11).inputs[TOKENS]
    state = models.state(model.config, rows=11, dtype=np.float32)
    whole, end = model.step(tokens, state)
    for b in range(11):
        row = slice(b, b + 1)
        logits, moved = model.step(np.ascontiguousarray(tokens[:, row]), np.ascontiguousarray(state[:, :, row]))
        assert_close(logits, whole[:, row], "invariant", what=f"logits of row {b}")
        assert_close(moved, end[:, :, row], "invariant", what=f"state of row {b}")


@pytest.mark.parametrize("cell", models.ALL_CELLS)
@pytest.mark.parametrize("engine", ENGINE_NAMES)
def test_every_engine_gives_the_logits_of_numpy(engine: str, cell: str) -> None:
    model, reference = open_engine(engine, cell), open_engine("numpy", cell)
    tokens = models.batch(model.config, steps=7, rows=5).inputs[TOKENS]
    state = models.state(model.config, rows=5, dtype=np.float32)
    expected, expected_state = reference.step(tokens, state)
    logits, moved = model.step(tokens, state)
    assert_close(logits, expected, "export", what="logits")
    assert_close(moved, expected_state, "export", what="state")


@pytest.mark.parametrize("backend", ["numpy", "numba"])
@pytest.mark.parametrize("cell", models.ALL_CELLS)
def test_a_padded_record_equals_the_record_alone(cell: str, backend: str) -> None:
    config = models.config(cell)
    model = Network(config.spec, models.params(config), backend)
    batch = models.batch(config, steps=6, rows=4)
    lengths = batch.weights.sum(axis=0)
    assert len(set(lengths.tolist())) > 1
    together = model.gradients(batch, zero_state(config, 4, np.float64))
    loss, sums = 0.0, {name: np.zeros_like(value) for name, value in model.params.items()}
    for b, n in enumerate(lengths):
        part = slice(0, n), slice(b, b + 1)
        alone = Batch.of_tokens(np.ascontiguousarray(batch.inputs[TOKENS][part]), batch.targets[part])
        got = model.gradients(alone, zero_state(config, 1, np.float64))
        loss += got.loss.loss
        for name, value in got.params.items():
            sums[name] += value * n / batch.weight
    assert_close(np.array(together.loss.loss), np.array(loss), "invariant", what="loss")
    for name, value in sums.items():
        assert_close(together.params[name], value, "invariant", what=name)


def test_alarm_a_state_that_is_dropped_is_noticed() -> None:
    model = open_engine("numpy", "lstm")
    tokens = models.batch(model.config, steps=6).inputs[TOKENS]
    state = models.state(model.config, dtype=np.float32)
    whole, _ = model.step(tokens, state)
    second, _ = model.step(np.ascontiguousarray(tokens[3:]), np.zeros_like(state))
    with pytest.raises(AssertionError):
        assert_close(second, whole[3:], "invariant")


@pytest.mark.parametrize("backend", ["numpy", "numba"])
def test_targets_that_do_not_count_may_be_anything_and_others_only_tokens(backend: str) -> None:
    config = models.config("gru")
    model, batch, state = (
        Network(config.spec, models.params(config), backend),
        models.batch(config),
        models.state(config),
    )
    mask = batch.weights.copy()
    mask[1, 0] = False
    expected = model.gradients(batch._replace(weights=mask), state)
    for strange in (-100, config.vocab_size, np.iinfo(np.int64).max):
        targets = batch.targets.copy()
        targets[1, 0] = strange
        got = model.gradients(batch._replace(targets=targets, weights=mask), state)
        assert got.loss == expected.loss
        assert (got.flat == expected.flat).all()
        with pytest.raises(ShapeError, match="targets: ids outside the vocabulary's 0"):
            model.gradients(batch._replace(targets=targets, weights=np.ones_like(mask)), state)
        with pytest.raises(ShapeError, match=f"tokens: ids from .*{strange}"):
            model.gradients(batch._replace(inputs={TOKENS: targets}), state)
