"""Initial parameters: PyTorch's, uniform, Xavier, orthogonal, and the LSTM's forget-gate bias.

Sources: uniform in a range for everything, W. Zaremba et al., "Recurrent Neural Network Regularization" (2014); Xavier,
X. Glorot and Y. Bengio, "Understanding the difficulty of training deep feedforward neural networks" (2010); orthogonal,
A. M. Saxe et al., "Exact solutions to the nonlinear dynamics of learning in deep linear neural networks" (2014); bias of
the forget gate, R. Jozefowicz et al., "An Empirical Exploration of Recurrent Network Architectures" (2015).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import DTypeLike

from unrolled.engine.checks import check_choice
from unrolled.engine.errors import ConfigError, SettingName
from unrolled.engine.models.language_model_config import LanguageModelConfig
from unrolled.engine.models.parameters import Params, layer_names, parameter_shapes

FORGET_GATE = "f"


@dataclass(frozen=True)
class InitializerConfig:
    """Initialisation of the parameters.

    Args:
        kind: a key of ``INITIALIZERS``.
        scale: bound of "uniform", gain of "xavier" and "orthogonal"; None: the kind's default.
        forget_bias: initial value of b_ih + b_hh of the forget gate; None: the values that the kind gives.

    Raises:
        ConfigError: a value is out of range, or the kind has no scale.
    """

    kind: str = "pytorch"
    scale: float | None = None
    forget_bias: float | None = None

    def __post_init__(self) -> None:
        check_choice("init", self.kind, INITIALIZERS)
        if self.scale is not None and not 0 < self.scale < math.inf:
            raise ConfigError(SettingName("init_scale"), f": got {self.scale}, needs a number above 0")
        if self.scale is not None and self.kind == "pytorch":
            raise ConfigError(SettingName("init_scale"), f": got {self.scale}, which init pytorch takes none of")
        if self.forget_bias is not None and not math.isfinite(self.forget_bias):
            raise ConfigError(SettingName("forget_bias"), f": got {self.forget_bias}, needs a number")


def pytorch_params(config: LanguageModelConfig, seed: int, dtype: DTypeLike = np.float32) -> Params:
    """Return random parameters with PyTorch's distributions, the same for every engine.

    Recurrent and output layers: uniform in ±1/√H. Embedding: normal with unit variance, or with variance 1/H if it also
    serves as the output matrix, where unit variance would give logits of size √H.
    """
    rng = np.random.default_rng(seed)
    bound = 1.0 / np.sqrt(config.hidden_size)
    params: Params = {}
    for name, shape in parameter_shapes(config).items():
        if name == "embedding.weight":
            values = rng.standard_normal(shape) * (bound if config.tie_weights else 1.0)
        else:
            values = rng.uniform(-bound, bound, shape)
        params[name] = values.astype(dtype)
    return params


def _keep_pytorch(config: LanguageModelConfig, params: Params, rng: np.random.Generator, scale: float) -> None:
    """Keep the values of ``pytorch_params``."""


def _fill_uniform(config: LanguageModelConfig, params: Params, rng: np.random.Generator, scale: float) -> None:
    """Fill all parameters with uniform values in ±scale."""
    for value in params.values():
        value[...] = rng.uniform(-scale, scale, value.shape)


def _fill_xavier(config: LanguageModelConfig, params: Params, rng: np.random.Generator, scale: float) -> None:
    """Fill matrices in ±scale·√(6 / (in + out)), each gate's by itself, and biases with 0; keep the embedding."""
    for name, value in params.items():
        if name == "embedding.weight":
            continue
        if value.ndim == 1:
            value[...] = 0
            continue
        rows = config.hidden_size if name.startswith("rnn.") else len(value)
        value[...] = rng.uniform(-1, 1, value.shape) * scale * math.sqrt(6 / (value.shape[1] + rows))


def _fill_orthogonal(config: LanguageModelConfig, params: Params, rng: np.random.Generator, scale: float) -> None:
    """Fill recurrent matrices with orthogonal ones times scale, each gate's by itself; keep everything else."""
    for layer in range(config.num_layers):
        blocks = params[layer_names(layer).w_hh].reshape(config.spec.gates, config.hidden_size, config.hidden_size)
        for block in blocks:
            q, r = np.linalg.qr(rng.standard_normal(block.shape))
            block[...] = scale * q * np.sign(np.diag(r))  # the signs make it uniform over all orthogonal matrices


# Each kind with its default scale.
INITIALIZERS: dict[str, tuple[Callable[[LanguageModelConfig, Params, np.random.Generator, float], None], float]] = {
    "pytorch": (_keep_pytorch, 1.0),
    "uniform": (_fill_uniform, 0.1),
    "xavier": (_fill_xavier, 1.0),
    "orthogonal": (_fill_orthogonal, 1.0),
}


def initialize_params(config: LanguageModelConfig, seed: int, initializer: InitializerConfig) -> Params:
    """Return random float32 parameters, the same for every engine.

    Raises:
        ConfigError: a forget-gate bias is given for a cell without a forget gate.
    """
    params = pytorch_params(config, seed)
    fill, default_scale = INITIALIZERS[initializer.kind]
    fill(config, params, np.random.default_rng((seed, 3)), initializer.scale or default_scale)
    if initializer.forget_bias is not None:
        _set_forget_bias(config, params, initializer.forget_bias)
    return params


def _set_forget_bias(config: LanguageModelConfig, params: Params, bias: float) -> None:
    """Set the forget gate's b_ih to ``bias`` and its b_hh to 0, in every layer."""
    if FORGET_GATE not in config.spec.gate_names:
        raise ConfigError(
            SettingName("forget_bias"), f": got {bias}, but cell {config.cell} has no forget gate; lstm has one"
        )
    gate = config.spec.gate_names.index(FORGET_GATE)
    rows = slice(gate * config.hidden_size, (gate + 1) * config.hidden_size)
    for layer in range(config.num_layers):
        names = layer_names(layer)
        params[names.b_ih][rows], params[names.b_hh][rows] = bias, 0
