"""Hand-written gradients against two oracles: central differences in float64, and torch autograd."""

from __future__ import annotations

import models
import numpy as np
import pytest
from numpy.typing import NDArray
from tolerances import GRADIENT_SLACK, assert_close, relative_error

from unrolled.engine.errors import ConfigError
from unrolled.engine.models.dropout import NO_DROPOUT, Dropout, Masks, dropout_masks
from unrolled.engine.models.inputs.batch import Batch
from unrolled.engine.models.language_model_config import LanguageModelConfig
from unrolled.engine.models.parameters import Params, layer_names, layer_params
from unrolled.engine.network.backends import get_backend
from unrolled.engine.network.core import add_layer_gradients, core_backward, core_forward, input_gradient
from unrolled.engine.network.network import Network
from unrolled.engine.optimizers.config import OptimizerConfig

STEP = 1e-6

VARIANTS = {
    "one layer": (1, {}),
    "two layers": (2, {}),
    "dropout": (2, {"dropout": 0.4}),
    "tied": (2, {"tie_weights": True}),
    "tied, dropout": (2, {"tie_weights": True, "dropout": 0.4}),
}


EVERYWHERE = {
    "one layer": (1, {}, Dropout(inputs=0.3, outputs=0.4)),
    "two layers": (2, {"dropout": 0.4}, Dropout(inputs=0.3, outputs=0.4)),
    "variational": (2, {"dropout": 0.4}, Dropout(0.3, 0.4, variational=True)),
    "tied, outputs": (2, {"tie_weights": True}, Dropout(outputs=0.4)),
}


def masks_for(config: LanguageModelConfig, dtype: type = np.float64, dropout: Dropout = NO_DROPOUT) -> Masks | None:
    return dropout_masks(config.spec, models.T, models.B, np.random.default_rng(5), dtype, dropout)


def mean_loss(model: Network, batch: Batch, state: NDArray, masks: Masks | None) -> float:
    result = model.gradients(batch, state, masks).loss
    return result.loss / result.weight


def differences(function, array: NDArray) -> NDArray:  # type: ignore[no-untyped-def]
    """Return the central differences of ``function()``, which reads ``array``, in every entry of the array."""
    gradient = np.empty_like(array)
    for index in np.ndindex(array.shape):
        kept = array[index]
        array[index] = kept + STEP
        above = function()
        array[index] = kept - STEP
        below = function()
        array[index] = kept
        gradient[index] = (above - below) / (2 * STEP)
    return gradient


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("cell", models.ALL_CELLS)
def test_every_parameter_and_the_state_match_differences(cell: str, variant: str) -> None:
    layers, settings = VARIANTS[variant]
    config = models.config(cell, layers, **settings)
    params = models.params(config)
    model = Network(config.spec, params)
    batch, state, masks = models.batch(config), models.state(config), masks_for(config)
    got = model.gradients(batch, state, masks)

    def loss() -> float:
        return mean_loss(model, batch, state, masks)

    for name, value in params.items():
        assert_close(got.params[name], differences(loss, value), "difference", what=name)
    assert_close(got.dstate, differences(loss, state), "difference", what="initial state")


@pytest.mark.parametrize("variant", EVERYWHERE)
@pytest.mark.parametrize("cell", models.ALL_CELLS)
def test_gradients_under_every_kind_of_dropout(cell: str, variant: str) -> None:
    layers, settings, dropout = EVERYWHERE[variant]
    config = models.config(cell, layers, **settings)
    params, batch, state = models.params(config), models.batch(config), models.state(config)
    masks = masks_for(config, dropout=dropout)
    model = Network(config.spec, params)
    got = model.gradients(batch, state, masks)
    for name, value in params.items():
        expected = differences(lambda: mean_loss(model, batch, state, masks), value)
        assert_close(got.params[name], expected, "difference", what=name)
    twins = {
        "numba": Network(config.spec, params, "numba").gradients(batch, state, masks).params,
        "torch": torch_gradients(config, params, batch, state, dropout),
    }
    for engine, grads in twins.items():
        for name, value in got.params.items():
            assert_close(grads[name], value, "autograd", what=f"{engine} {name}")


@pytest.mark.parametrize("backend", ["numpy", "numba"])
def test_gradients_of_smoothed_labels_match_differences(backend: str) -> None:
    config = models.config("lstm", 1)
    params = models.params(config)
    model = Network(config.spec, params, backend)
    batch, state = models.batch(config), models.state(config)
    got = model.gradients(batch, state, smoothing=0.3)

    def loss() -> float:
        """Return the loss by its definition: the cross-entropy with a target that is spread out."""
        model.parameters_changed()
        logits = model.step(batch.inputs, state)[0]["logits"]
        log_p = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
        target = 0.7 * np.eye(models.V)[batch.targets] + 0.3 / models.V
        return float(-(target * log_p).sum(-1)[batch.weights].mean())

    assert got.loss.loss / got.loss.weight == pytest.approx(loss(), rel=1e-9)
    for name in ("output.weight", "output.bias", "rnn.weight_hh_l0"):
        assert_close(got.params[name], differences(loss, params[name]), "difference", what=name)


def test_masks_keep_their_share_and_their_mean() -> None:
    config = models.config("gru", 3, dropout=0.25)
    masks = dropout_masks(config.spec, 40, 50, np.random.default_rng(0), np.float32, Dropout(0.1, 0.6))
    assert masks is not None
    assert masks.between is not None
    assert len(masks.between) == 2
    for mask, p, width in (
        (masks.inputs, 0.1, models.E),
        (masks.between[1], 0.25, models.H),
        (masks.outputs, 0.6, models.H),
    ):
        assert mask is not None
        assert (mask.shape, mask.dtype) == ((40, 50, width), np.float32)
        error = 4 * (p * (1 - p) / mask.size) ** 0.5
        assert (mask == 0).mean() == pytest.approx(p, abs=error)
        assert set(np.unique(mask)) == {0, np.float32(65536 / round(65536 * (1 - p)))}
    assert (masks.between[0] != masks.between[1]).any()
    one = dropout_masks(config.spec, 40, 50, np.random.default_rng(0), np.float32, Dropout(0.1, variational=True))
    assert one is not None
    assert one.inputs is not None
    assert (one.inputs.shape, one.outputs) == ((1, 50, models.E), None)
    assert dropout_masks(models.config("gru").spec, 4, 5, np.random.default_rng(0)) is None
    for settings in ({"inputs": 1.0}, {"outputs": -0.1}, {"outputs": np.nan}):
        with pytest.raises(ConfigError, match="put_dropout: got"):
            Dropout(**settings)


@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("cell", models.ALL_CELLS)
def test_input_of_the_layers_matches_differences_with_random_cotangents(cell: str, layers: int) -> None:
    config = models.config(cell, layers)
    backend, params, core = get_backend("numpy"), models.params(config), config.spec.core
    steps = backend.recurrent.plan(models.T, models.B, None)
    rng = np.random.default_rng(7)
    x = rng.standard_normal((models.T, models.B, models.E))
    state = models.state(config)
    dh, dstate = rng.standard_normal((models.T, models.B, models.H)), rng.standard_normal(state.shape)

    first = layer_names(0)

    def product() -> NDArray:
        return backend.layers.linear_forward(x, params[first.w_ih], params[first.b_ih])

    def projected() -> float:
        h, final, _ = core_forward(backend, core, params, [product()], state, steps)
        return float((h * dh).sum() + (final * dstate).sum())

    _, _, tape = core_forward(backend, core, params, [product()], state, steps)
    grads = {name: np.zeros_like(value) for name, value in params.items()}
    ends, dstate_0 = core_backward(backend, core, params, dh, dstate, tape, grads)
    add_layer_gradients(backend, 0, ends, x, grads)
    dx = input_gradient(backend, ends, [layer_params(params, 0)])
    assert_close(dx, differences(projected, x), "difference", what="input")
    assert_close(dstate_0, differences(projected, state), "difference", what="initial state")
    for name in params:
        if name.startswith("rnn."):
            assert_close(grads[name], differences(projected, params[name]), "difference", what=name)


def torch_gradients(
    config: LanguageModelConfig, params: Params, batch: Batch, state: NDArray, dropout: Dropout = NO_DROPOUT
) -> Params:
    pytest.importorskip("torch", reason="the torch extra is not installed")
    from unrolled.export.torch.training import TorchTrainable

    trainable = TorchTrainable(config.spec, params, OptimizerConfig())
    return trainable.gradients(batch, state, masks_for(config, state.dtype.type, dropout))


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("backend", ["numpy", "numba"])
@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("cell", models.ALL_CELLS)
def test_every_parameter_matches_autograd_by_name(cell: str, variant: str, backend: str, dtype: type) -> None:
    layers, settings = VARIANTS[variant]
    config = models.config(cell, layers, **settings)
    params, batch, state = models.params(config, dtype), models.batch(config), models.state(config, dtype=dtype)
    expected = torch_gradients(config, params, batch, state)
    got = Network(config.spec, params, backend).gradients(batch, state, masks_for(config, dtype)).params
    assert set(got) == set(expected)
    for name in expected:
        assert_close(got[name], expected[name], "autograd", dtype, name)


def float32_errors(cell: str) -> tuple[float, float]:
    """Return the largest errors of Numba's and torch's float32 gradients against float64, over three seeds."""
    config = models.config(cell, hidden_size=64, embedding_size=20, vocab_size=60)
    ours, theirs = [], []
    for seed in range(3):
        params, batch = models.params(config, np.float32, seed), models.batch(config, 40, 16, seed + 10)
        state = models.state(config, 16, np.float32, seed + 20)
        exact = Network(config.spec, {name: value.astype(np.float64) for name, value in params.items()})
        expected = exact.gradients(batch, state.astype(np.float64)).params
        ours.append(relative_error(Network(config.spec, params, "numba").gradients(batch, state).params, expected))
        theirs.append(relative_error(torch_gradients(config, params, batch, state), expected))
    return max(ours), max(theirs)


@pytest.mark.parametrize("cell", models.ALL_CELLS)
def test_float32_gradients_are_as_close_to_float64_as_those_of_torch(cell: str) -> None:
    ours, theirs = float32_errors(cell)
    assert ours <= GRADIENT_SLACK * theirs


def test_alarm_an_error_of_a_few_units_is_more_than_torch_makes() -> None:
    _, theirs = float32_errors("lstm")
    exact = {"one": np.random.default_rng(0).standard_normal(100)}
    wrong = {"one": exact["one"] * (1 + 1e-5)}
    assert relative_error(exact, exact) == 0
    assert relative_error(wrong, exact) > GRADIENT_SLACK * theirs
    wrong["one"][3] = np.nan
    assert np.isnan(relative_error({**exact, **wrong}, exact))


def _swapped(array: NDArray, first: int, second: int, gates: int) -> NDArray:
    blocks = np.split(array, gates)
    blocks[first], blocks[second] = blocks[second], blocks[first]
    return np.concatenate(blocks)


def test_alarm_two_gates_exchanged_are_noticed() -> None:
    config = models.config("lstm", 1)
    params, batch, state = models.params(config), models.batch(config), models.state(config)
    expected = torch_gradients(config, params, batch, state)
    wrong = {**params, "rnn.weight_hh_l0": _swapped(params["rnn.weight_hh_l0"], 0, 1, 4)}
    got = Network(config.spec, wrong).gradients(batch, state).params
    with pytest.raises(AssertionError, match=r"rnn\.weight_ih_l0"):
        assert_close(got["rnn.weight_ih_l0"], expected["rnn.weight_ih_l0"], "autograd", what="rnn.weight_ih_l0")


@pytest.mark.parametrize("damage", ["zero", "nan", "scale", "shape"])
def test_alarm_the_comparator_fails(damage: str) -> None:
    expected = np.random.default_rng(0).standard_normal((4, 3))
    got = expected.copy()
    if damage == "zero":
        got[:] = 0
    elif damage == "nan":
        got[1, 1] = np.nan
    elif damage == "scale":
        got[2, 0] *= 1 + 1e-3
    else:
        got = got.T
    for kind in ("engine", "autograd", "difference", "invariant", "curve"):
        with pytest.raises(AssertionError):
            assert_close(got, expected, kind, np.float64)


def test_gradient_of_a_batch_without_counted_positions_is_zero() -> None:
    config = models.config("gru", 1)
    batch = models.batch(config)._replace(weights=np.zeros((models.T, models.B), bool))
    for backend in ("numpy", "numba"):
        got = Network(config.spec, models.params(config), backend).gradients(batch, models.state(config))
        assert got.loss == (0.0, 0, (0, 0))
        assert all(not value.any() for value in got.params.values())
