"""Expected names and shapes of the parameters, their initial values, and the check that both hold.

Names, shapes and gate order are PyTorch's (``nn.Embedding``, ``nn.RNN``/``nn.GRU``/``nn.LSTM``, ``nn.Linear``), both
biases kept, so a checkpoint of any engine loads in every other.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import DTypeLike, NDArray

from unrolled.engine.errors import ModelFileError
from unrolled.engine.models.config import ModelConfig

Params = dict[str, NDArray]


class LayerParams(NamedTuple):
    """The four arrays of one recurrent layer."""

    w_ih: NDArray  # (G·H, E or H)
    w_hh: NDArray  # (G·H, H)
    b_ih: NDArray  # (G·H,)
    b_hh: NDArray  # (G·H,)


class LayerNames(NamedTuple):
    """Their names, in the same order."""

    w_ih: str
    w_hh: str
    b_ih: str
    b_hh: str


@functools.cache
def layer_names(layer: int) -> LayerNames:
    return LayerNames(*(f"rnn.{kind}_l{layer}" for kind in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")))


def layer_params(params: Mapping[str, NDArray], layer: int) -> LayerParams:
    return LayerParams(*(params[name] for name in layer_names(layer)))


def output_weight_name(config: ModelConfig) -> str:
    """Name of the (V, H) matrix of the output layer: the embedding's own where the weights are tied."""
    return "embedding.weight" if config.tie_weights else "output.weight"


def parameter_shapes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """Name to shape of every parameter, in the order in which they are created and saved."""
    H, E, V = config.hidden_size, config.embedding_size, config.vocab_size
    rows = config.spec.gates * H
    shapes: dict[str, tuple[int, ...]] = {"embedding.weight": (V, E)}
    for layer in range(config.num_layers):
        widths = ((rows, config.layer_input_size(layer)), (rows, H), (rows,), (rows,))
        shapes.update(zip(layer_names(layer), widths, strict=True))
    if not config.tie_weights:
        shapes["output.weight"] = (V, H)
    shapes["output.bias"] = (V,)
    return shapes


def parameter_count(config: ModelConfig) -> int:
    """How many numbers ``parameter_shapes`` has room for, of any config in no time."""
    H, V = config.hidden_size, config.vocab_size
    rows = config.spec.gates * H
    layers = [rows * (config.layer_input_size(layer) + H + 2) for layer in range(min(config.num_layers, 2))]
    inner = layers[-1] * (config.num_layers - 1)
    return V * config.embedding_size + layers[0] + inner + (0 if config.tie_weights else V * H) + V


def check_room(config: ModelConfig, size: int, item_bytes: int = 4) -> None:
    """Check that a file of ``size`` bytes can hold the parameters that its config asks for, before a config is believed.

    Raises:
        ModelFileError: it cannot.
    """
    if (needed := item_bytes * parameter_count(config)) > size:
        raise ModelFileError(f"the config asks for {needed:,} bytes of weights, the file has {size:,}")


def initial_params(config: ModelConfig, seed: int, dtype: DTypeLike = np.float32) -> Params:
    """Random initial parameters, the same for every engine.

    Recurrent and output layers: uniform in ±1/√H, as PyTorch's. Embedding: normal with unit variance as PyTorch's, or
    of variance 1/H where it also serves as the output matrix (unit variance would give logits of size √H).
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


def views(flat: NDArray, shapes: Mapping[str, tuple[int, ...]]) -> Params:
    """Parts of a flat array by name, one behind the other."""
    parts, begin = {}, 0
    for name, shape in shapes.items():
        end = begin + math.prod(shape)
        parts[name] = flat[begin:end].reshape(shape)
        begin = end
    return parts


def flattened(params: Mapping[str, NDArray]) -> NDArray:
    """A copy of all parameters as one flat array, in their order."""
    return np.concatenate([value.reshape(-1) for value in params.values()])


def check_params(config: ModelConfig, params: Mapping[str, NDArray], where: str = "parameters") -> None:
    """Check names, shapes, one floating dtype and finite values.

    Raises:
        ModelFileError: names the first parameter that is missing, unexpected, misshapen or not finite.
    """
    shapes = parameter_shapes(config)
    if missing := [name for name in shapes if name not in params]:
        raise ModelFileError(f"{where}: {', '.join(missing)} missing; the config asks for {', '.join(shapes)}")
    if extra := [name for name in params if name not in shapes]:
        raise ModelFileError(f"{where}: {', '.join(extra)} not expected; the config asks for {', '.join(shapes)}")
    dtype = params["output.bias"].dtype
    if dtype not in (np.float32, np.float64):
        raise ModelFileError(f"{where}: output.bias has dtype {dtype}, needs float32 or float64")
    for name, shape in shapes.items():
        value = params[name]
        if value.shape != shape:
            raise ModelFileError(f"{where}: {name} has shape {value.shape}, the config asks for {shape}")
        if value.dtype != dtype:
            raise ModelFileError(f"{where}: {name} has dtype {value.dtype}, the others {dtype}")
        if not np.isfinite(value).all():
            bad = int(np.size(value) - np.isfinite(value).sum())
            raise ModelFileError(f"{where}: {name} holds {bad} values that are NaN or infinite")
