"""Names and shapes of the parameters, flat storage of them, and their checks.

Names, shapes and gate order are PyTorch's (``nn.Embedding``, ``nn.RNN``/``nn.GRU``/``nn.LSTM``, ``nn.Linear``), both
biases kept, so that a checkpoint of any engine loads in every other.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from unrolled.engine.errors import ModelFileError
from unrolled.engine.models.language_model_config import LanguageModelConfig

Params = dict[str, NDArray]


class LayerParams(NamedTuple):
    """The four arrays of one recurrent layer."""

    w_ih: NDArray  # (G·H, E or H)
    w_hh: NDArray  # (G·H, H)
    b_ih: NDArray  # (G·H,)
    b_hh: NDArray  # (G·H,)


class LayerNames(NamedTuple):
    """Names of the four arrays of one recurrent layer, in the order of ``LayerParams``."""

    w_ih: str
    w_hh: str
    b_ih: str
    b_hh: str


@functools.cache
def layer_names(layer: int) -> LayerNames:
    """Return the parameter names of a layer."""
    return LayerNames(*(f"rnn.{kind}_l{layer}" for kind in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")))


def layer_params(params: Mapping[str, NDArray], layer: int) -> LayerParams:
    """Return the arrays of a layer."""
    return LayerParams(*(params[name] for name in layer_names(layer)))


def output_weight_name(config: LanguageModelConfig) -> str:
    """Return the name of the output layer's (V, H) matrix, which is the embedding's if the weights are tied."""
    return "embedding.weight" if config.tie_weights else "output.weight"


def parameter_shapes(config: LanguageModelConfig) -> dict[str, tuple[int, ...]]:
    """Return the shape of every parameter by name, in the order of creation and saving."""
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


def parameter_count(config: LanguageModelConfig) -> int:
    """Return the number of parameter values, in constant time for any number of layers."""
    H, V = config.hidden_size, config.vocab_size
    rows = config.spec.gates * H
    layers = [rows * (config.layer_input_size(layer) + H + 2) for layer in range(min(config.num_layers, 2))]
    inner = layers[-1] * (config.num_layers - 1)
    return V * config.embedding_size + layers[0] + inner + (0 if config.tie_weights else V * H) + V


def check_file_size(config: LanguageModelConfig, size: int, item_bytes: int = 4) -> None:
    """Check that a file of ``size`` bytes can hold the parameters of its config, before anything is allocated for it.

    Raises:
        ModelFileError: the file is too small.
    """
    if (needed := item_bytes * parameter_count(config)) > size:
        raise ModelFileError(f"the config asks for {needed:,} bytes of weights, the file has {size:,}")


def parameter_views(flat: NDArray, shapes: Mapping[str, tuple[int, ...]]) -> Params:
    """Return consecutive parts of a flat array as arrays of the given shapes, which share its memory."""
    views, first = {}, 0
    for name, shape in shapes.items():
        last = first + math.prod(shape)
        views[name] = flat[first:last].reshape(shape)
        first = last
    return views


def flatten_params(params: Mapping[str, NDArray]) -> NDArray:
    """Return a copy of all parameters as one flat array, in their order."""
    return np.concatenate([value.reshape(-1) for value in params.values()])


def check_params(config: LanguageModelConfig, params: Mapping[str, NDArray], where: str = "parameters") -> None:
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
