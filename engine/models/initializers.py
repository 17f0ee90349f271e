"""Initial parameters other than PyTorch's: uniform, Xavier, orthogonal, and the LSTM's open forget gate.

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

from unrolled.engine.checks import check_choice
from unrolled.engine.errors import ConfigError
from unrolled.engine.models.config import ModelConfig
from unrolled.engine.models.parameters import Params, initial_params, layer_names

FORGET = "f"


@dataclass(frozen=True)
class Initial:
    """How parameters begin.

    Args:
        kind: a key of ``INITIALS``.
        scale: of "uniform" the largest size, of "xavier" and "orthogonal" the gain; None takes the kind's usual one.
        forget_bias: what the forget gate's two biases sum to at first; None leaves them as the kind makes them.
    """

    kind: str = "pytorch"
    scale: float | None = None
    forget_bias: float | None = None

    def __post_init__(self) -> None:
        check_choice("init", self.kind, INITIALS)
        if self.scale is not None and not 0 < self.scale < math.inf:
            raise ConfigError(f"init_scale: got {self.scale}, needs a number above 0")
        if self.scale is not None and self.kind == "pytorch":
            raise ConfigError(f"init_scale: got {self.scale}, which init pytorch takes none of")
        if self.forget_bias is not None and not math.isfinite(self.forget_bias):
            raise ConfigError(f"forget_bias: got {self.forget_bias}, needs a number")


def _pytorch(config: ModelConfig, params: Params, rng: np.random.Generator, scale: float) -> None:
    """As ``initial_params`` left them."""


def _uniform(config: ModelConfig, params: Params, rng: np.random.Generator, scale: float) -> None:
    """Everything in ±scale."""
    for value in params.values():
        value[...] = rng.uniform(-scale, scale, value.shape)


def _xavier(config: ModelConfig, params: Params, rng: np.random.Generator, scale: float) -> None:
    """Matrices in ±scale·√(6 / (in + out)), each gate's alone; biases 0; the embedding as it was."""
    for name, value in params.items():
        if name == "embedding.weight":
            continue
        if value.ndim == 1:
            value[...] = 0
            continue
        rows = config.hidden_size if name.startswith("rnn.") else len(value)
        value[...] = rng.uniform(-1, 1, value.shape) * scale * math.sqrt(6 / (value.shape[1] + rows))


def _orthogonal(config: ModelConfig, params: Params, rng: np.random.Generator, scale: float) -> None:
    """Recurrent matrices orthogonal times scale, each gate's alone; everything else as it was."""
    for layer in range(config.num_layers):
        blocks = params[layer_names(layer).w_hh].reshape(config.spec.gates, config.hidden_size, config.hidden_size)
        for block in blocks:
            q, r = np.linalg.qr(rng.standard_normal(block.shape))
            block[...] = scale * q * np.sign(np.diag(r))  # the signs make it uniform over all orthogonal matrices


# Each with its usual scale.
INITIALS: dict[str, tuple[Callable[[ModelConfig, Params, np.random.Generator, float], None], float]] = {
    "pytorch": (_pytorch, 1.0),
    "uniform": (_uniform, 0.1),
    "xavier": (_xavier, 1.0),
    "orthogonal": (_orthogonal, 1.0),
}


def begin(config: ModelConfig, seed: int, initial: Initial) -> Params:
    """Random float32 parameters, the same for every engine.

    Raises:
        ConfigError: a bias is given for a forget gate that the cell has not.
    """
    params = initial_params(config, seed)
    fill, usual = INITIALS[initial.kind]
    fill(config, params, np.random.default_rng((seed, 3)), initial.scale or usual)
    if initial.forget_bias is not None:
        _open_forget_gates(config, params, initial.forget_bias)
    return params


def _open_forget_gates(config: ModelConfig, params: Params, bias: float) -> None:
    if FORGET not in config.spec.gate_names:
        raise ConfigError(f"forget_bias: got {bias}, but cell {config.cell} has no forget gate; lstm has one")
    gate = config.spec.gate_names.index(FORGET)
    rows = slice(gate * config.hidden_size, (gate + 1) * config.hidden_size)
    for layer in range(config.num_layers):
        names = layer_names(layer)
        params[names.b_ih][rows], params[names.b_hh][rows] = bias, 0
