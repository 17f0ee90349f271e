"""Initial parameters: ranges, orthogonality, the forget gate; the same for every engine."""

from __future__ import annotations

import math

import models
import numpy as np
import pytest

from unrolled.engine.errors import ConfigError
from unrolled.engine.models.initializers import INITIALIZERS, InitializerConfig, initialize_params, pytorch_params
from unrolled.engine.models.language_model_config import LanguageModelConfig
from unrolled.engine.models.parameters import Params, check_params

CONFIG = models.config("lstm", 2, hidden_size=30, embedding_size=20, vocab_size=40)


def made(config: LanguageModelConfig = CONFIG, **settings: object) -> Params:
    params = initialize_params(config.spec, 5, InitializerConfig(**settings))  # type: ignore[arg-type]
    check_params(config.spec, params)
    return params


@pytest.mark.parametrize("kind", INITIALIZERS)
def test_a_seed_decides(kind: str) -> None:
    one, again, other = (initialize_params(CONFIG.spec, seed, InitializerConfig(kind)) for seed in (5, 5, 6))
    for name in one:
        np.testing.assert_array_equal(one[name], again[name])
    assert (one["rnn.weight_hh_l1"] != other["rnn.weight_hh_l1"]).any()


def test_without_a_word_it_is_as_pytorch() -> None:
    for name, value in pytorch_params(CONFIG.spec, 5).items():
        np.testing.assert_array_equal(made()[name], value)


def test_uniform_fills_its_range() -> None:
    for name, value in made(kind="uniform", scale=0.05).items():
        assert 0.03 < np.abs(value).max() <= 0.05, name
        assert abs(value.mean()) < 0.02, name


def test_xavier_is_by_the_size_of_each_gate() -> None:
    params = made(kind="xavier", scale=0.5)
    for name, inputs, outputs in (
        ("rnn.weight_ih_l0", 20, 30),
        ("rnn.weight_hh_l1", 30, 30),
        ("output.weight", 30, 40),
    ):
        bound = 0.5 * math.sqrt(6 / (inputs + outputs))
        assert 0.95 * bound < np.abs(params[name]).max() <= bound
        assert params[name].std() == pytest.approx(bound / math.sqrt(3), rel=0.1)
    assert not params["rnn.bias_hh_l0"].any()
    np.testing.assert_array_equal(params["embedding.weight"], pytorch_params(CONFIG.spec, 5)["embedding.weight"])


def test_orthogonal_gates() -> None:
    blocks = made(kind="orthogonal", scale=2.0)["rnn.weight_hh_l1"].reshape(4, 30, 30).astype(np.float64)
    for block in blocks:
        np.testing.assert_allclose(block @ block.T, 4 * np.eye(30), atol=1e-5)
    assert np.abs(blocks[0] - blocks[1]).max() > 0.1


def test_the_forget_gate_is_open_and_the_others_as_they_were() -> None:
    params, before = made(forget_bias=1.5), made()
    for layer in range(2):
        both = params[f"rnn.bias_ih_l{layer}"] + params[f"rnn.bias_hh_l{layer}"]
        assert (both[30:60] == 1.5).all()
        other = before[f"rnn.bias_ih_l{layer}"] + before[f"rnn.bias_hh_l{layer}"]
        np.testing.assert_array_equal(np.delete(both, slice(30, 60)), np.delete(other, slice(30, 60)))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"kind": "he"}, "init: got 'he', choose one of pytorch"),
        ({"kind": "uniform", "scale": 0.0}, "init_scale: got 0.0"),
        ({"scale": 0.1}, "which init pytorch takes none of"),
        ({"forget_bias": math.nan}, "forget_bias: got nan"),
    ],
)
def test_what_cannot_be(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        made(**settings)


def test_a_cell_without_a_forget_gate_is_said() -> None:
    with pytest.raises(ConfigError, match="cell gru has no forget gate"):
        made(models.config("gru"), forget_bias=1.0)
