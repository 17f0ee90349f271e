"""Every engine against torch's modules, packed sequences and autograd: inputs, directions, lengths, layers, cells, heads."""

from __future__ import annotations

from collections.abc import Callable

import models
import numpy as np
import pytest
from numpy.typing import NDArray
from tolerances import assert_close

from unrolled.engine.models.inputs.batch import Batch
from unrolled.engine.models.parameters import Params
from unrolled.engine.models.spec import ModelSpec
from unrolled.engine.network.network import Network
from unrolled.engine.optimizers.config import OptimizerConfig

torch = pytest.importorskip("torch", reason="the torch extra is not installed")
import torch_oracle  # noqa: E402 - needs torch
from torch_oracle import Expected  # noqa: E402

from unrolled.export.torch.inference import run_network  # noqa: E402
from unrolled.export.torch.training import TorchTrainable  # noqa: E402

DIRECTIONS = pytest.mark.parametrize("bidirectional", [False, True], ids=["one direction", "two directions"])


def from_scratch(
    backend: str, spec: ModelSpec, params: Params, batch: Batch, state: NDArray, smoothing: float
) -> Expected:
    """Return the values of a backend of the network from scratch."""
    model = Network(spec, params, backend)
    outputs, final = model.run(batch.inputs, batch.lengths, state)
    got = model.gradients(batch, state, None, smoothing)
    assert_close(got.state, final, "engine", what="final state of the gradients")
    return Expected(outputs["logits"], final, got.loss.loss / got.loss.weight, got.params, got.dstate)


def numpy_values(*arguments: object) -> Expected:
    return from_scratch("numpy", *arguments)  # type: ignore[arg-type]


def numba_values(*arguments: object) -> Expected:
    return from_scratch("numba", *arguments)  # type: ignore[arg-type]


def torch_values(spec: ModelSpec, params: Params, batch: Batch, state: NDArray, smoothing: float) -> Expected:
    """Return the values of the twin in PyTorch."""
    trainable = TorchTrainable(spec, params, OptimizerConfig(label_smoothing=smoothing))
    outputs, final = run_network(trainable.model, batch.inputs, batch.lengths, state)
    grads = trainable.gradients(batch, state, None, smoothing)
    result = trainable.train_step(batch, state, 0.0)
    assert_close(result.state, final, "engine", what="state after the training step")
    return Expected(outputs["logits"], final, result.loss.loss / result.loss.weight, grads, initial_gradient(
        trainable, batch, state, smoothing
    ))  # fmt: skip


def initial_gradient(trainable: TorchTrainable, batch: Batch, state: NDArray, smoothing: float) -> NDArray:
    """Return the gradient of the mean loss with respect to the initial state."""
    from unrolled.engine.models.batch_checks import checked_batch

    checked = checked_batch(trainable.spec, batch, state, trainable.dtype)
    initial = torch.from_numpy(state.copy()).requires_grad_()
    loss, _ = trainable._loss(checked, initial, None, smoothing)
    (gradient,) = torch.autograd.grad(loss.total / checked.weight, initial)
    return gradient.numpy()


Values = Callable[[ModelSpec, Params, Batch, NDArray, float], Expected]
ENGINES: dict[str, Values] = {"numpy": numpy_values, "numba": numba_values, "torch": torch_values}


def assert_same(got: Expected, wanted: Expected, lengths: NDArray | None = None) -> None:
    """Compare all values of a batch; logits count in the valid time steps, since in the padding they are the bias."""
    valid = np.ones(wanted.logits.shape[:2], bool)
    if lengths is not None:
        valid = np.arange(len(valid))[:, None] < lengths
    assert_close(got.logits[valid], wanted.logits[valid], "engine", what="logits")
    assert_close(got.final, wanted.final, "engine", what="final state")
    assert_close(np.array(got.loss), np.array(wanted.loss), "engine", what="loss")
    assert set(got.grads) == set(wanted.grads)
    for name, value in wanted.grads.items():
        assert_close(got.grads[name], value, "autograd", what=name)
    assert_close(got.dstate, wanted.dstate, "autograd", what="gradient of the initial state")


@DIRECTIONS
@pytest.mark.parametrize("inputs", models.MIXTURES)
@pytest.mark.parametrize("cell", models.ALL_CELLS)
@pytest.mark.parametrize("engine", ENGINES)
def test_every_value_is_that_of_packed_sequences(engine: str, cell: str, inputs: str, bidirectional: bool) -> None:
    for layers in (1, 2, 3):
        spec = models.spec(cell, inputs, layers, bidirectional)
        params, state = models.params(spec), models.state(spec, 4)
        for lengths, smoothing in ((models.ragged(7, 4), 0.1), (None, 0.0)):
            batch = models.spec_batch(spec, 7, 4, lengths=lengths)
            wanted = torch_oracle.expected(spec, params, batch, state, smoothing)
            assert_same(ENGINES[engine](spec, params, batch, state, smoothing), wanted, lengths)


@pytest.mark.parametrize("cell", models.ALL_CELLS)
@pytest.mark.parametrize("engine", ENGINES)
def test_next_tokens_of_ragged_rows_have_the_values_of_packed_sequences(engine: str, cell: str) -> None:
    for inputs in ("tokens", "tokens+categories+values+static"):
        spec = models.spec(cell, inputs, head="next_token")
        params, state, lengths = models.params(spec), models.state(spec), models.ragged()
        batch = models.spec_batch(spec, lengths=lengths)
        wanted = torch_oracle.expected(spec, params, batch, state, 0.2)
        assert_same(ENGINES[engine](spec, params, batch, state, 0.2), wanted, lengths)


@pytest.mark.parametrize("cell", models.ALL_CELLS)
@pytest.mark.parametrize("engine", ENGINES)
def test_lengths_that_no_row_reaches_leave_the_last_time_steps_to_the_padding(engine: str, cell: str) -> None:
    spec = models.spec(cell, "values+static", 2, True)
    params, state, lengths = models.params(spec), models.state(spec, 4), np.array([2, 5, 1, 3])
    batch = models.spec_batch(spec, 7, 4, lengths=lengths)
    wanted = torch_oracle.expected(spec, params, batch, state)
    assert_same(ENGINES[engine](spec, params, batch, state, 0.0), wanted, lengths)


def _exchanged(params: Params) -> Params:
    """Return parameters with the weights of the two directions exchanged."""
    return {
        name: params[name.removesuffix("_reverse") if name.endswith("_reverse") else f"{name}_reverse"]
        if name.startswith("rnn.") else value
        for name, value in params.items()
    }  # fmt: skip


def _gates_exchanged(params: Params) -> Params:
    """Return parameters with the first two gates of one recurrent matrix exchanged."""
    name, H = "rnn.weight_hh_l0_reverse", models.H
    first, second, rest = np.split(params[name], [H, 2 * H])
    return {**params, name: np.concatenate([second, first, rest])}


@pytest.mark.parametrize("damage", ["directions", "gates", "lengths", "a length", "state", "smoothing", "weights"])
@pytest.mark.parametrize("engine", ENGINES)
def test_alarm_every_mistake_is_noticed(engine: str, damage: str) -> None:
    spec = models.spec("lstm", "tokens+values", 1, True)
    params, state, lengths = models.params(spec), models.state(spec, 4), models.ragged(7, 4)
    batch = models.spec_batch(spec, 7, 4, lengths=lengths)
    clean = batch._replace(
        inputs={name: np.nan_to_num(np.maximum(array, 0)) for name, array in batch.inputs.items()},
        targets=np.maximum(batch.targets, 0),
    )
    wanted = torch_oracle.expected(spec, params, clean, state, 0.1)
    assert_same(ENGINES[engine](spec, params, clean, state, 0.1), wanted, lengths)
    wrong = {
        "directions": (_exchanged(params), clean, state, 0.1),
        "gates": (_gates_exchanged(params), clean, state, 0.1),
        "lengths": (params, clean._replace(lengths=None), state, 0.1),
        "a length": (params, clean._replace(lengths=np.maximum(lengths - np.arange(4), 1)), state, 0.1),
        "state": (params, clean, state[:, ::-1].copy(), 0.1),
        "smoothing": (params, clean, state, 0.0),
        "weights": (params, clean._replace(weights=clean.weights > 0), state, 0.1),
    }
    with pytest.raises(AssertionError):
        assert_same(ENGINES[engine](spec, *wrong[damage]), wanted, lengths)
