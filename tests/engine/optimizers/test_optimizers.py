"""The optimizers of every backend against PyTorch's, their settings, and the scaling of gradients."""

from __future__ import annotations

import math

import numpy as np
import pytest
from tolerances import assert_close

from unrolled.engine.errors import ConfigError
from unrolled.engine.kernels.optimizers import RULES
from unrolled.engine.network.backends import BACKENDS, get_backend
from unrolled.engine.optimizers.config import OPTIMIZERS, OptimizerConfig
from unrolled.engine.optimizers.gradient_scaling import clip_scale, grad_norm, gradient_factor
from unrolled.engine.optimizers.optimizer import Optimizer
from unrolled.engine.optimizers.update_rules import UPDATE_RULES

OTHER_CONSTANTS = {"momentum": 0.8, "alpha": 0.7, "beta1": 0.6, "beta2": 0.8, "eps": 0.1}


@pytest.mark.parametrize("usual", [True, False])
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_optimizers_equal_torch_over_ten_steps(optimizer: str, backend: str, usual: bool) -> None:
    torch = pytest.importorskip("torch", reason="the torch extra is not installed")
    from unrolled.export.torch.training import TORCH_OPTIMIZERS

    rng = np.random.default_rng(0)
    constants = {} if usual else {name: OTHER_CONSTANTS[name] for name in OPTIMIZERS[optimizer].hyperparameters}
    config = OptimizerConfig(optimizer, 0.03, weight_decay=0.02, **constants)
    params = rng.standard_normal(37)
    twin = torch.nn.Parameter(torch.from_numpy(params.copy()))
    ours = Optimizer(config, params, functions=get_backend(backend).update)
    theirs = TORCH_OPTIMIZERS[optimizer](config, [twin])
    for step in range(10):
        grads, rate, scale = rng.standard_normal(37), 0.03 / (1 + step), 1 / (1 + step)
        twin.grad = torch.from_numpy(grads * scale)
        theirs.param_groups[0]["lr"] = rate
        theirs.step()
        ours.update(grads, rate, scale)
    assert_close(params, twin.detach().numpy(), "engine", what=optimizer)


def test_every_engine_has_every_optimizer() -> None:
    assert set(RULES) == set(OPTIMIZERS) == set(UPDATE_RULES)


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_norm_of_all_gradients(backend: str) -> None:
    grads = np.random.default_rng(0).standard_normal(50_001).astype(np.float32)
    params, kept = np.zeros_like(grads), grads.copy()
    norm, updated = Optimizer(OptimizerConfig("sgd"), params, functions=get_backend(backend).update).update(grads, 1.0)
    assert updated
    assert norm == pytest.approx(float(np.linalg.norm(kept.astype(np.float64))), rel=1e-12)
    np.testing.assert_array_equal(params, -kept)
    assert not grads.any()


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("backend", BACKENDS)
def test_gradients_and_losses_that_are_not_finite_change_nothing(backend: str, name: str) -> None:
    params, grads = np.ones(3), np.ones(3)
    optimizer = Optimizer(OptimizerConfig(name), params, functions=get_backend(backend).update)
    for spoiled, loss in (
        (np.array([1.0, np.nan, 1.0]), 1.0),
        (np.array([1.0, np.inf, 1.0]), 1.0),
        (grads.copy(), np.nan),
    ):
        outcome = optimizer.count(optimizer.apply(spoiled, optimizer.prepare(0.1), np.array([loss, 1.0])))
        assert not outcome.updated
        assert not spoiled.any()  # zeros for the next step to add to
        assert not optimizer.updates.any()
        assert not optimizer.moments.first.any()
        np.testing.assert_array_equal(params, 1.0)
    assert optimizer.update(grads, 0.1).updated
    assert (params < 1).all()


@pytest.mark.parametrize("backend", BACKENDS)
def test_clipping_by_value_comes_before_the_norm_and_bounds_what_the_factor_leaves(backend: str) -> None:
    params, grads = np.zeros(3), np.array([8.0, -3.0, 0.5])
    config = OptimizerConfig("sgd", clip_value=2.0)
    optimizer = Optimizer(config, params, max_norm=1.0, functions=get_backend(backend).update)
    norm, _ = optimizer.update(grads, 1.0, factor=0.5)
    assert norm == pytest.approx(0.5 * np.sqrt(16 + 9 + 0.25))
    assert_close(params, -0.5 * np.array([4.0, -3.0, 0.5]) / (norm + 1e-6), "engine")  # at most 2 times the factor


def test_clipping_scales_to_the_norm_and_leaves_small_gradients() -> None:
    grads = np.array([3.0, 0.0, 4.0])
    assert grad_norm(grads) == 5.0
    assert clip_scale(5.0, 10.0) == 1.0
    np.testing.assert_allclose(grads * clip_scale(5.0, 1.0), [0.6, 0.0, 0.8], rtol=1e-6)
    assert clip_scale(5.0, None) == clip_scale(np.inf, 1.0) == 1.0


def test_the_factor_of_a_loss_summed_over_time() -> None:
    assert gradient_factor(OptimizerConfig(sum_over_time=True), weight=28, rows=4) == 7.0
    assert gradient_factor(OptimizerConfig(), weight=28, rows=4) == 1.0


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"name": "adagrad"}, "optimizer: got 'adagrad'"),
        ({"learning_rate": 0.0}, "learning_rate: got 0.0"),
        ({"beta1": 1.0}, "beta1: got 1.0"),
        ({"momentum": 0.9}, "momentum: got 0.9, which goes with sgd; adam takes none"),
        ({"name": "rmsprop", "momentum": 0.9}, "momentum: got 0.9, which goes with sgd; rmsprop takes none"),
        ({"name": "rmsprop", "alpha": 1.0}, "alpha: got 1.0"),
        ({"name": "adamw", "beta2": -0.1}, "beta2: got -0.1"),
        ({"alpha": 0.9}, "alpha: got 0.9, which goes with rmsprop; adam takes none"),
        ({"name": "rmsprop", "beta1": 0.8}, "beta1: got 0.8, which goes with adam and adamw; rmsprop takes none"),
        ({"name": "sgd", "eps": 1e-6}, "eps: got 1e-06, which goes with rmsprop and adam and adamw; sgd takes none"),
        ({"weight_decay": -1.0}, "weight_decay: got -1.0"),
        ({"eps": 0.0}, "eps: got 0.0"),
        ({"eps": 1e-40}, "eps: got 1e-40, needs a number of at least 1.2e-38"),
        ({"label_smoothing": 1.0}, "label_smoothing: got 1.0"),
        ({"clip_value": 0.0}, "clip_value: got 0.0"),
        ({"learning_rate": math.nan}, "learning_rate: got nan"),
    ],
)
def test_bad_optimizer_settings_are_named(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        OptimizerConfig(**settings)  # type: ignore[arg-type]


def test_settings_that_are_left_out_are_those_of_the_optimizer() -> None:
    assert (OptimizerConfig("sgd").base_learning_rate, OptimizerConfig("sgd").effective_weight_decay) == (1.0, 0.0)
    assert (OptimizerConfig("adamw").base_learning_rate, OptimizerConfig("adamw").effective_weight_decay) == (
        4e-3,
        0.01,
    )
    given = OptimizerConfig("adamw", 0.5, weight_decay=0.0)
    assert (given.base_learning_rate, given.effective_weight_decay) == (0.5, 0.0)
