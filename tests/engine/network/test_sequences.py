"""Rows of different lengths, two directions and chunks: what a model computes for a sequence depends on that sequence alone."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import models
import numpy as np
import pytest
from numpy.typing import NDArray
from tolerances import assert_close

from unrolled.engine.errors import ConfigError, ShapeError
from unrolled.engine.models.dropout import Dropout, Masks, dropout_masks
from unrolled.engine.models.inputs.batch import Batch
from unrolled.engine.models.language_model_config import language_model_of
from unrolled.engine.models.parameters import Params
from unrolled.engine.models.spec import ModelSpec
from unrolled.engine.network.network import Network

BACKENDS = ["numpy", "numba"]
T, B = 9, 7
LENGTHS = models.ragged(T, B)
MIXTURE = "tokens+categories+values+static"


def model_of(backend: str, dtype: type = np.float64, **settings: Any) -> Network:
    spec = models.spec(**settings)
    return Network(spec, models.params(spec, dtype), backend)


def assert_same(got: NDArray, expected: NDArray, backend: str, what: str) -> None:
    """Compare bit for bit on the compiled engine, whose products do not depend on the rows beside them."""
    if backend == "numba":
        np.testing.assert_array_equal(got, expected, err_msg=what, strict=True)
    else:
        assert_close(got, expected, "invariant", what=what)


def row_of(spec: ModelSpec, batch: Batch, b: int) -> Batch:
    """Return one row of a batch alone, without its padding."""
    n = T if batch.lengths is None else int(batch.lengths[b])
    part = slice(0, n), slice(b, b + 1)
    inputs = {
        column.name: np.ascontiguousarray(batch.inputs[column.name][part if "time" in column.axes else part[1:]])
        for column in spec.inputs
    }
    return Batch(inputs, batch.targets[part].copy(), batch.weights[part].copy(), None, False)


def masks_of_row(masks: Masks | None, n: int, b: int) -> Masks | None:
    """Return the part of dropout masks that is for the valid steps of one row."""
    if masks is None:
        return None
    cut = [None if mask is None else mask[:n, b : b + 1] for mask in (masks.inputs, masks.outputs)]
    between = None if masks.between is None else [mask[:n, b : b + 1] for mask in masks.between]
    return Masks(cut[0], between, cut[1])


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("cell", models.ALL_CELLS)
def test_outputs_and_state_of_a_padded_row_are_those_of_the_row_alone(
    cell: str, backend: str, bidirectional: bool, dtype: type
) -> None:
    model = model_of(backend, dtype, cell=cell, inputs=MIXTURE, bidirectional=bidirectional)
    batch, state = models.spec_batch(model.spec, T, B, lengths=LENGTHS), models.state(model.spec, B, dtype)
    outputs, final = model.run(batch.inputs, LENGTHS, state)
    for b, n in enumerate(LENGTHS):
        alone, end = model.run(row_of(model.spec, batch, b).inputs, None, np.ascontiguousarray(state[:, :, b : b + 1]))
        assert_same(outputs["logits"][:n, b : b + 1], alone["logits"], backend, f"logits of row {b}")
        assert_same(final[:, :, b : b + 1], end, backend, f"state of row {b}")


@pytest.mark.parametrize("dropout", [None, Dropout(0.2, 0.3), Dropout(0.2, 0.3, variational=True)])
@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("backend", BACKENDS)
def test_gradients_of_a_padded_batch_are_the_sum_over_its_rows(
    backend: str, bidirectional: bool, dropout: Dropout | None
) -> None:
    model = model_of(backend, inputs=MIXTURE, bidirectional=bidirectional, dropout=0.25 if dropout else 0.0)
    spec, batch, state = model.spec, models.spec_batch(model.spec, T, B, lengths=LENGTHS), models.state(model.spec, B)
    masks = dropout and dropout_masks(spec, T, B, np.random.default_rng(6), np.float64, dropout)
    together = model.gradients(batch, state, masks, 0.1)
    total, sums, loss = together.loss.weight, np.zeros_like(together.flat), 0.0
    assert total == pytest.approx(
        sum(float(row_of(spec, batch, b).weights.sum(dtype=np.float64)) for b in range(B)), rel=1e-12
    )
    for b, n in enumerate(LENGTHS):
        own = np.ascontiguousarray(state[:, :, b : b + 1])
        got = model.gradients(row_of(spec, batch, b), own, masks_of_row(masks, int(n), b), 0.1)
        sums += got.flat * (got.loss.weight / total)
        loss += got.loss.loss
        share = got.dstate * (got.loss.weight / total)
        assert_close(together.dstate[:, :, b : b + 1], share, "invariant", what=f"gradient of the state of row {b}")
    assert_close(np.array(together.loss.loss), np.array(loss), "invariant", what="loss")
    assert_close(together.flat, sums, "invariant", what="gradients")


@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("backend", BACKENDS)
def test_nothing_in_the_padding_changes_anything(backend: str, bidirectional: bool) -> None:
    model = model_of(backend, np.float32, inputs=MIXTURE, bidirectional=bidirectional)
    batch, state = models.spec_batch(model.spec, T, B, lengths=LENGTHS), models.state(model.spec, B, np.float32)
    padding = np.arange(T)[:, None] >= LENGTHS
    assert np.isnan(batch.inputs["values"][padding]).all()
    assert (batch.inputs["tokens"][padding] < 0).all()
    clean = {name: array.copy() for name, array in batch.inputs.items()}
    for name in ("tokens", "categories", "values"):
        clean[name][padding] = 0
    weights = np.where(padding, np.float32(0.5), batch.weights)
    other = Batch(clean, np.where(padding, 1, batch.targets), weights, LENGTHS, False)
    got, expected = model.gradients(batch, state), model.gradients(other, state)
    assert got.loss == expected.loss
    for one, another in ((got.flat, expected.flat), (got.state, expected.state), (got.dstate, expected.dstate)):
        np.testing.assert_array_equal(one, another, strict=True)
    assert model.evaluate(batch, state)[0] == model.evaluate(other, state)[0] == got.loss
    longer = np.minimum(LENGTHS + 1, T)
    with pytest.raises(ShapeError, match=r"values: \d+ values are NaN|ids from"):
        model.gradients(batch._replace(lengths=longer), state)


@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("backend", BACKENDS)
def test_lengths_of_all_time_steps_are_as_none(backend: str, bidirectional: bool) -> None:
    model = model_of(backend, np.float32, inputs=MIXTURE, bidirectional=bidirectional)
    batch, state = models.spec_batch(model.spec, T, B), models.state(model.spec, B, np.float32)
    plain, full = model.gradients(batch, state), model.gradients(batch._replace(lengths=np.full(B, T)), state)
    assert plain.loss == full.loss
    np.testing.assert_array_equal(plain.flat, full.flat, strict=True)
    np.testing.assert_array_equal(plain.dstate, full.dstate, strict=True)


def directions_exchanged(spec: ModelSpec, params: Params) -> Params:
    """Return parameters whose two directions have exchanged their weights, and what reads their outputs its columns."""
    found = {}
    for name, value in params.items():
        other = name.removesuffix("_reverse") if name.endswith("_reverse") else f"{name}_reverse"
        taken = params[other] if name.startswith("rnn.") else value
        if name == "output.weight" or (name.startswith("rnn.weight_ih") and "_l0" not in name):
            taken = np.concatenate(np.split(taken, 2, axis=1)[::-1], axis=1)
        found[name] = np.ascontiguousarray(taken)
    return found


def flipped(array: NDArray, lengths: NDArray[np.int64]) -> NDArray:
    """Return an array (T, B, …) with the valid steps of each row in the opposite order."""
    turned = array.copy()
    for b, n in enumerate(lengths):
        turned[:n, b] = array[:n, b][::-1]
    return turned


@pytest.mark.parametrize("layers", [1, 2, 3])
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("cell", models.ALL_CELLS)
def test_flipping_time_and_exchanging_the_directions_flips_the_output(cell: str, backend: str, layers: int) -> None:
    spec = models.spec(cell, MIXTURE, layers, bidirectional=True)
    params, batch, state = models.params(spec), models.spec_batch(spec, T, B, lengths=LENGTHS), models.state(spec, B)
    outputs, final = Network(spec, params, backend).run(batch.inputs, LENGTHS, state)
    turned = {
        column.name: flipped(batch.inputs[column.name], LENGTHS) if "time" in column.axes else batch.inputs[column.name]
        for column in spec.inputs
    }
    places = np.arange(2 * layers) ^ 1  # l·2 + d: the other direction of the same layer
    other = Network(spec, directions_exchanged(spec, params), backend)
    got, end = other.run(turned, LENGTHS, np.ascontiguousarray(state[:, places]))
    valid = np.arange(T)[:, None] < LENGTHS
    expected = flipped(outputs["logits"], LENGTHS)
    assert_close(got["logits"][valid], expected[valid], "engine", what="logits")
    assert_close(end[:, places], final, "engine", what="state")
    with pytest.raises(AssertionError):  # the alarm: without the flip they differ
        assert_close(got["logits"][valid], outputs["logits"][valid], "engine")


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("cell", models.ALL_CELLS)
def test_the_reverse_direction_is_the_other_one_on_the_flipped_row(cell: str, backend: str) -> None:
    """Both halves of the outputs are those of a model of one direction: forwards, and on the row in the opposite order."""
    spec, one = (models.spec(cell, "values", 1, bidirectional) for bidirectional in (True, False))
    params, batch = models.params(spec), models.spec_batch(spec, T, B, lengths=LENGTHS)
    params["output.bias"][:] = 0
    state = models.state(spec, B)
    logits = Network(spec, params, backend).run(batch.inputs, LENGTHS, state)[0]["logits"]
    halves = np.split(params["output.weight"], 2, axis=1)
    parts = []
    for direction, end in enumerate(("", "_reverse")):
        own = {name: params[f"{name}{end}" if name.startswith("rnn.") else name] for name in models.params(one)}
        own["output.weight"] = halves[direction]
        values = flipped(batch.inputs["values"], LENGTHS) if direction else batch.inputs["values"]
        initial = np.ascontiguousarray(state[:, direction : direction + 1])
        part = Network(one, own, backend).run({"values": values}, LENGTHS, initial)[0]["logits"]
        parts.append(flipped(part, LENGTHS) if direction else part)
    valid = np.arange(T)[:, None] < LENGTHS
    assert_close(logits[valid], (parts[0] + parts[1])[valid], "engine")
    with pytest.raises(AssertionError):
        assert_close(logits[valid], parts[0][valid], "engine")


@pytest.mark.parametrize("head", ["step_labels", "next_token"])
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("cell", models.ALL_CELLS)
def test_a_sequence_equals_its_chunks_and_its_steps(cell: str, backend: str, head: str) -> None:
    model = model_of(backend, cell=cell, inputs=MIXTURE, head=head)
    spec, inputs, state = model.spec, models.spec_batch(model.spec, T, B).inputs, models.state(model.spec, B)
    whole, end = model.run(inputs, None, state)
    for cuts in ((0, 4, 5, 9), tuple(range(T + 1))):
        parts, moved = [], state
        for first, last in pairwise(cuts):
            chunk = {
                column.name: np.ascontiguousarray(inputs[column.name][first:last]) if "time" in column.axes
                else inputs[column.name]
                for column in spec.inputs
            }  # fmt: skip
            outputs, moved = model.step(chunk, moved)
            parts.append(outputs["logits"])
        assert_close(np.concatenate(parts), whole["logits"], "invariant", what="logits")
        assert_close(moved, end, "invariant", what="state")
    with pytest.raises(AssertionError):
        assert_close(model.step(chunk, state)[0]["logits"], parts[-1], "invariant")


def test_a_bidirectional_model_says_why_it_has_no_steps_and_no_texts() -> None:
    model = model_of("numpy", bidirectional=True)
    batch, state = models.spec_batch(model.spec), models.state(model.spec)
    why = "because its core is bidirectional: the second direction reads a sequence from its end; it has run"
    with pytest.raises(ConfigError, match=f"this model has no step, {why}"):
        model.step(batch.inputs, state)
    with pytest.raises(ConfigError, match=f"this model has no generate, {why}"):
        model.spec.require("generate")
    with pytest.raises(ConfigError, match="carry: a bidirectional model cannot continue a sequence"):
        model.gradients(batch._replace(carry=True), state)
    with pytest.raises(ConfigError, match="carry: a bidirectional model cannot continue a sequence"):
        model.evaluate(batch._replace(carry=True), state)
    with pytest.raises(ConfigError, match="head: got step_labels; needs a language model"):
        language_model_of(model.spec)
    with pytest.raises(ConfigError, match="bidirectional: the head next_token predicts the token that follows"):
        models.spec(head="next_token", bidirectional=True)
    model.spec.require("run")


@pytest.mark.parametrize("lengths", [None, LENGTHS])
@pytest.mark.parametrize("backend", BACKENDS)
def test_weights_of_zero_everywhere_are_no_loss_and_no_gradients(
    backend: str, lengths: NDArray[np.int64] | None
) -> None:
    model = model_of(backend, inputs="tokens+values", bidirectional=True)
    batch, state = models.spec_batch(model.spec, T, B, lengths=lengths), models.state(model.spec, B)
    for weights in (np.zeros((T, B), np.float32), np.zeros((T, B), np.bool_)):
        got = model.gradients(batch._replace(weights=weights), state, smoothing=0.1)
        metrics = model.spec.head.metrics_of(got.loss)
        assert (got.loss.loss, got.loss.weight, metrics.loss, metrics.count) == (0, 0, 0, 0)
        assert not got.flat.any()
        assert not got.dstate.any()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"lengths": np.array([0, 1, 2])}, "lengths: from 0 to 2; needs 1 … 5"),
        ({"lengths": np.array([6, 1, 2])}, "lengths: from 1 to 6; needs 1 … 5"),
        ({"lengths": np.array([5, 1])}, r"lengths: got int64 \(2,\), needs int64 \(3,\)"),
        ({"lengths": np.array([5.0, 1, 2])}, r"lengths: got float64 \(3,\), needs int64 \(3,\)"),
        ({"lengths": [5, 1, 2]}, "lengths: got list"),
        ({"weights": np.full((5, 3), -1.0)}, "weights: needs finite numbers of at least 0"),
        ({"weights": np.full((5, 3), np.nan)}, "weights: needs finite numbers of at least 0"),
        ({"weights": np.ones(3)}, r"weights \(3,\); needs targets \(5, 3\) and weights \(5, 3\)"),
        ({"targets": [[1]]}, "targets: got list, needs an array"),
        ({"weights": np.ones((5, 3), np.int64)}, "weights: got dtype int64, needs bool or float"),
        ({"targets": np.zeros((5, 3), np.int32)}, "targets: got dtype int32, needs int64"),
        ({"targets": np.full((5, 3), models.C)}, "targets: ids outside"),
        ({"inputs": {"tokens": np.zeros((5, 3), np.int64)}}, "inputs: got tokens; needs tokens, values"),
        (
            {"inputs": {"tokens": np.zeros((5, 3), np.int64), "values": np.zeros((5, 3, 7))}},
            "values: got dtype float64",
        ),
        (
            {"inputs": {"tokens": np.zeros((5, 3), np.int64), "values": np.zeros((4, 3, 7), np.float32)}},
            r"values: got shape \(4, 3, 7\), needs an array of shape \(5, 3, 7\)",
        ),
    ],
)
def test_batches_that_do_not_fit_are_refused_by_name(change: dict[str, Any], message: str) -> None:
    model = model_of("numpy", inputs="tokens+values")
    batch, state = models.spec_batch(model.spec), models.state(model.spec)
    model.gradients(batch, state)
    with pytest.raises(ShapeError, match=message):
        model.gradients(batch._replace(**change), state)


@pytest.mark.parametrize("backend", BACKENDS)
def test_alarm_a_padded_batch_without_its_lengths_is_another(backend: str) -> None:
    model = model_of(backend, inputs="tokens", bidirectional=True)
    batch, state = models.spec_batch(model.spec, T, B), models.state(model.spec, B)
    outputs, final = model.run(batch.inputs, LENGTHS, state)
    ignored, other = model.run(batch.inputs, None, state)
    valid = np.arange(T)[:, None] < LENGTHS
    for got, expected in ((ignored["logits"][valid], outputs["logits"][valid]), (other, final)):
        with pytest.raises(AssertionError):
            assert_close(got, expected, "invariant")
