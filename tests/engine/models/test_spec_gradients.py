"""Gradients of models of any inputs, directions and lengths against central differences in float64.

Each array is compared along random directions: the derivative of the loss along v is the sum of gradient times v.
"""

from __future__ import annotations

from collections.abc import Callable

import models
import numpy as np
import pytest
from numpy.typing import NDArray
from tolerances import assert_close

from unrolled.engine.models.dropout import Dropout, Masks, dropout_masks
from unrolled.engine.models.inputs.batch import Batch
from unrolled.engine.models.spec import ModelSpec
from unrolled.engine.network.network import Gradients, Network

STEP, SMOOTHING, DIRECTIONS = 1e-6, 0.15, 2


def assert_derivatives(
    loss: Callable[[], float], arrays: dict[str, NDArray], gradients: dict[str, NDArray]
) -> None:  # fmt: skip
    """Compare the derivatives of ``loss()``, which reads ``arrays``, with their gradients along random directions."""
    rng = np.random.default_rng(11)
    assert set(arrays) == set(gradients)
    for name, array in arrays.items():
        for _ in range(DIRECTIONS):
            direction = rng.standard_normal(array.shape)
            kept = array.copy()
            array += STEP * direction
            above = loss()
            array[...] = kept - STEP * direction
            below = loss()
            array[...] = kept
            derivative = (above - below) / (2 * STEP)
            assert_close((gradients[name] * direction).sum(), derivative, "difference", np.float64, name)


def check(
    spec: ModelSpec, batch: Batch, state: NDArray, masks: Masks | None = None, backend: str = "numpy"
) -> Gradients:  # fmt: skip
    """Check all gradients of a batch, and that of the initial state; return them."""
    params = models.params(spec)
    model = Network(spec, params, backend)  # keeps the arrays, so that a change of them is one of the model's
    got = model.gradients(batch, state, masks, SMOOTHING)

    def loss() -> float:
        sums = model.gradients(batch, state, masks, SMOOTHING).loss
        return sums.loss / sums.weight

    assert_derivatives(loss, {**params, "initial state": state}, {**got.params, "initial state": got.dstate})
    return got


@pytest.mark.parametrize("layers", [1, 2, 3])
@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("inputs", models.MIXTURES)
@pytest.mark.parametrize("cell", models.ALL_CELLS)
def test_every_input_direction_and_depth_with_rows_of_different_lengths(
    cell: str, inputs: str, bidirectional: bool, layers: int
) -> None:
    spec = models.spec(cell, inputs, layers, bidirectional)
    got = check(spec, models.spec_batch(spec, lengths=models.ragged()), models.state(spec))
    assert all(value.any() for value in got.params.values())
    assert got.dstate.any()


@pytest.mark.parametrize("lengths", [None, models.ragged()])
@pytest.mark.parametrize("cell", models.ALL_CELLS)
def test_next_tokens_with_further_inputs(cell: str, lengths: NDArray[np.int64] | None) -> None:
    spec = models.spec(cell, "tokens+categories+values", head="next_token")
    check(spec, models.spec_batch(spec, lengths=lengths), models.state(spec))


@pytest.mark.parametrize("backend", ["numpy", "numba"])
@pytest.mark.parametrize("dropout", [Dropout(0.3, 0.4), Dropout(0.3, 0.4, variational=True)])
@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("inputs", ["tokens", "tokens+values+static"])
def test_dropout_with_rows_of_different_lengths(
    inputs: str, bidirectional: bool, dropout: Dropout, backend: str
) -> None:
    spec = models.spec("gru", inputs, 2, bidirectional, dropout=0.4)
    batch = models.spec_batch(spec, lengths=models.ragged())
    masks = dropout_masks(spec, models.T, models.B, np.random.default_rng(5), np.float64, dropout)
    got = check(spec, batch, models.state(spec), masks, backend)
    plain = Network(spec, models.params(spec), backend).gradients(batch, models.state(spec), None, SMOOTHING)
    with pytest.raises(AssertionError):
        assert_close(got.flat, plain.flat, "difference")


def _wrong(kind: str, spec: ModelSpec, got: Gradients) -> dict[str, NDArray]:
    """Return gradients with a common mistake."""
    params = {name: value.copy() for name, value in got.params.items()}
    if kind == "directions exchanged":
        forwards, reverse = "rnn.weight_hh_l1", "rnn.weight_hh_l1_reverse"
        params[forwards], params[reverse] = params[reverse], params[forwards]
    elif kind == "gates exchanged":
        blocks = np.split(params["rnn.weight_ih_l0"], spec.core.cell_definition.gates)
        params["rnn.weight_ih_l0"] = np.concatenate([blocks[1], blocks[0], *blocks[2:]])
    elif kind == "inputs exchanged":
        columns = np.roll(params["rnn.weight_ih_l0"], 1, axis=1)
        params["rnn.weight_ih_l0"] = columns
    else:
        params["embedding.weight"] *= 1.001
    return params


@pytest.mark.parametrize("kind", ["directions exchanged", "gates exchanged", "inputs exchanged", "one part in 1,000"])
def test_alarm_wrong_gradients_are_noticed(kind: str) -> None:
    spec = models.spec("lstm", "tokens+values", 2, bidirectional=True)
    params, batch, state = models.params(spec), models.spec_batch(spec, lengths=models.ragged()), models.state(spec)
    model = Network(spec, params)
    got = model.gradients(batch, state)

    def loss() -> float:
        sums = model.gradients(batch, state).loss
        return sums.loss / sums.weight

    assert_derivatives(loss, params, got.params)
    with pytest.raises(AssertionError, match=r"rnn\.weight|embedding"):
        assert_derivatives(loss, params, _wrong(kind, spec, got))


@pytest.mark.parametrize("change", ["lengths ignored", "longer row", "other weights"])
def test_alarm_gradients_of_another_batch_are_noticed(change: str) -> None:
    spec = models.spec("gru", "tokens", 1, bidirectional=True)
    params, state = models.params(spec), models.state(spec)
    model = Network(spec, params)
    batch = models.spec_batch(spec)._replace(lengths=models.ragged())
    other = {
        "lengths ignored": batch._replace(lengths=None),
        "longer row": batch._replace(lengths=np.minimum(models.ragged() + 1, models.T)),
        "other weights": batch._replace(weights=batch.weights[::-1].copy()),
    }[change]

    def loss() -> float:
        sums = model.gradients(batch, state).loss
        return sums.loss / sums.weight

    targets = batch.targets.copy()
    targets[targets < 0] = 0  # where the weight was 0
    assert_derivatives(loss, params, model.gradients(batch, state).params)
    with pytest.raises(AssertionError):
        assert_derivatives(loss, params, model.gradients(other._replace(targets=targets), state).params)
