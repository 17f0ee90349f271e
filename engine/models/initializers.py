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
from typing import Annotated

import numpy as np
from numpy.typing import DTypeLike

from unrolled.engine.errors import ConfigError, SettingName
from unrolled.engine.models.parameters import Params, layer_names, parameter_shapes
from unrolled.engine.models.spec import ModelSpec
from unrolled.engine.settings import MODEL_PANEL, POSITIVE, Range, Setting, check_settings

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

    kind: Annotated[
        str,
        Setting(
            "init", "Initial weights.", MODEL_PANEL, choices=INITIALIZERS, search=",".join(INITIALIZERS), name="init"
        ),
    ] = "pytorch"
    scale: Annotated[
        float | None,
        Setting(
            "init_scale",
            "Range of uniform, gain of the others.",
            MODEL_PANEL,
            POSITIVE,
            search="0.02:1:log",
            default="uniform 0.1, others 1",
            name="init_scale",
        ),
    ] = None
    forget_bias: Annotated[
        float | None,
        Setting(
            "forget_bias",
            "Initial bias of an LSTM's forget gates.",
            MODEL_PANEL,
            Range("a number"),
            search="none,0,1,2",
        ),
    ] = None

    def __post_init__(self) -> None:
        check_settings(self)
        if self.scale is not None and self.kind == "pytorch":
            raise ConfigError(SettingName("init_scale"), f": got {self.scale}, which init pytorch takes none of")


def pytorch_params(spec: ModelSpec, seed: int, dtype: DTypeLike = np.float32) -> Params:
    """Return random parameters with PyTorch's distributions, the same for every engine.

    Recurrent layers, and parameters of inputs other than embeddings: uniform in ±1/√H. Head: uniform in ±1/√(D·H), the width
    of what it reads. Embeddings: normal with unit variance, or with variance 1/H if one also serves as the output matrix,
    where unit variance would give logits of size √H.
    """
    rng = np.random.default_rng(seed)
    bounds = dict.fromkeys(parameter_shapes(spec), 1.0 / np.sqrt(spec.core.hidden_size))
    heads = spec.head.parameter_shapes(spec.core)
    bounds |= dict.fromkeys(heads, 1.0 / np.sqrt(spec.core.output_size))
    embeddings = _embedding_names(spec)
    params: Params = {}
    for name, shape in parameter_shapes(spec).items():
        if name in embeddings:
            values = rng.standard_normal(shape) * (bounds[name] if name in spec.head.shared else 1.0)
        else:
            values = rng.uniform(-bounds[name], bounds[name], shape)
        params[name] = values.astype(dtype)
    return params


def _embedding_names(spec: ModelSpec) -> frozenset[str]:
    """Return the names of the embeddings' matrices."""
    return frozenset(column.lookup for column in spec.inputs if column.lookup is not None)


def _keep_pytorch(spec: ModelSpec, params: Params, rng: np.random.Generator, scale: float) -> None:
    """Keep the values of ``pytorch_params``."""


def _fill_uniform(spec: ModelSpec, params: Params, rng: np.random.Generator, scale: float) -> None:
    """Fill all parameters with uniform values in ±scale."""
    for value in params.values():
        value[...] = rng.uniform(-scale, scale, value.shape)


def _fill_xavier(spec: ModelSpec, params: Params, rng: np.random.Generator, scale: float) -> None:
    """Fill matrices in ±scale·√(6 / (in + out)), each gate's by itself, and biases with 0; keep the embeddings."""
    embeddings = _embedding_names(spec)
    for name, value in params.items():
        if name in embeddings:
            continue
        if value.ndim == 1:
            value[...] = 0
            continue
        rows = spec.core.hidden_size if name.startswith("rnn.") else len(value)
        value[...] = rng.uniform(-1, 1, value.shape) * scale * math.sqrt(6 / (value.shape[1] + rows))


def _fill_orthogonal(spec: ModelSpec, params: Params, rng: np.random.Generator, scale: float) -> None:
    """Fill recurrent matrices with orthogonal ones times scale, each gate's by itself; keep everything else."""
    core = spec.core
    H, gates = core.hidden_size, core.cell_definition.gates
    for layer, direction in np.ndindex(core.num_layers, core.directions):
        for block in params[layer_names(layer, direction).w_hh].reshape(gates, H, H):
            q, r = np.linalg.qr(rng.standard_normal(block.shape))
            block[...] = scale * q * np.sign(np.diag(r))  # the signs make it uniform over all orthogonal matrices


# Each kind with its default scale.
INITIALIZERS: dict[str, tuple[Callable[[ModelSpec, Params, np.random.Generator, float], None], float]] = {
    "pytorch": (_keep_pytorch, 1.0),
    "uniform": (_fill_uniform, 0.1),
    "xavier": (_fill_xavier, 1.0),
    "orthogonal": (_fill_orthogonal, 1.0),
}


def initialize_params(spec: ModelSpec, seed: int, initializer: InitializerConfig) -> Params:
    """Return random float32 parameters, the same for every engine.

    Raises:
        ConfigError: a forget-gate bias is given for a cell without a forget gate.
    """
    params = pytorch_params(spec, seed)
    fill, default_scale = INITIALIZERS[initializer.kind]
    fill(spec, params, np.random.default_rng((seed, 3)), initializer.scale or default_scale)
    if initializer.forget_bias is not None:
        _set_forget_bias(spec, params, initializer.forget_bias)
    return params


def _set_forget_bias(spec: ModelSpec, params: Params, bias: float) -> None:
    """Set the forget gate's b_ih to ``bias`` and its b_hh to 0, in every layer."""
    core = spec.core
    names = core.cell_definition.gate_names
    if FORGET_GATE not in names:
        raise ConfigError(
            SettingName("forget_bias"), f": got {bias}, but cell {core.cell} has no forget gate; lstm has one"
        )
    first = names.index(FORGET_GATE) * core.hidden_size
    rows = slice(first, first + core.hidden_size)
    for layer, direction in np.ndindex(core.num_layers, core.directions):
        own = layer_names(layer, direction)
        params[own.b_ih][rows], params[own.b_hh][rows] = bias, 0
