"""Names and shapes of the parameters, flat storage of them, and their checks.

Names, shapes and gate order are PyTorch's (``nn.Embedding``, ``nn.RNN``/``nn.GRU``/``nn.LSTM``, ``nn.Linear``), both
biases kept, so that a checkpoint of any engine loads in every other.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from dataclasses import replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from unrolled.engine.errors import ModelFileError
from unrolled.engine.models.layers.core_config import CoreConfig
from unrolled.engine.models.spec import ModelSpec

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
def layer_names(layer: int, direction: int = 0) -> LayerNames:
    """Return the parameter names of a layer; direction 1 is the reverse one."""
    end = f"l{layer}_reverse" if direction else f"l{layer}"
    return LayerNames(*(f"rnn.{kind}_{end}" for kind in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")))


def layer_params(params: Mapping[str, NDArray], layer: int, direction: int = 0) -> LayerParams:
    """Return the arrays of a layer."""
    w_ih, w_hh, b_ih, b_hh = layer_names(layer, direction)  # spelled out, because every time step of a text calls this
    return LayerParams(params[w_ih], params[w_hh], params[b_ih], params[b_hh])


def core_shapes(core: CoreConfig, input_size: int) -> dict[str, tuple[int, ...]]:
    """Return the shape of every parameter of the recurrent layers by name, in PyTorch's order."""
    shapes: dict[str, tuple[int, ...]] = {}
    H = core.hidden_size
    rows = core.cell_definition.gates * H
    for layer in range(core.num_layers):
        widths = ((rows, core.layer_input_size(layer, input_size)), (rows, H), (rows,), (rows,))
        for direction in range(core.directions):
            shapes.update(zip(layer_names(layer, direction), widths, strict=True))
    return shapes


def parameter_shapes(spec: ModelSpec) -> dict[str, tuple[int, ...]]:
    """Return the shape of every parameter by name, in the order of creation and saving: inputs, core, head."""
    shapes: dict[str, tuple[int, ...]] = {}
    for column in spec.inputs:
        shapes.update(column.parameter_shapes())
    return {**shapes, **core_shapes(spec.core, spec.input_size), **spec.head.parameter_shapes(spec.core)}


def parameter_count(spec: ModelSpec) -> int:
    """Return the number of parameter values, in constant time for any number of layers."""
    few = replace(spec.core, num_layers=min(spec.core.num_layers, 2), dropout=0.0)
    counts = [_count(core_shapes(replace(few, num_layers=n), spec.input_size)) for n in range(1, few.num_layers + 1)]
    layers = counts[-1] + (counts[-1] - counts[0]) * (spec.core.num_layers - few.num_layers)
    inputs = sum(_count(column.parameter_shapes()) for column in spec.inputs)
    return inputs + layers + _count(spec.head.parameter_shapes(spec.core))


def _count(shapes: Mapping[str, tuple[int, ...]]) -> int:
    """Return the number of values in arrays of the given shapes."""
    return sum(map(math.prod, shapes.values()))


def check_file_size(spec: ModelSpec, size: int, item_bytes: int = 4) -> None:
    """Check that a file of ``size`` bytes can hold the parameters of its config, before anything is allocated for it.

    Raises:
        ModelFileError: the file is too small.
    """
    if (needed := item_bytes * parameter_count(spec)) > size:
        raise ModelFileError(f"the config asks for {needed:,} bytes of weights, the file has {size:,}")


def parameter_views(flat: NDArray, shapes: Mapping[str, tuple[int, ...]]) -> Params:
    """Return consecutive parts of a flat array as arrays of the given shapes, which share its memory."""
    views, first = {}, 0
    for name, shape in shapes.items():
        last = first + math.prod(shape)
        views[name] = flat[first:last].reshape(shape)
        first = last
    return views


def check_params(spec: ModelSpec, params: Mapping[str, NDArray], where: str = "parameters") -> None:
    """Check names, shapes, one floating dtype and finite values.

    Raises:
        ModelFileError: names the first parameter that is missing, unexpected, misshapen or not finite.
    """
    shapes = parameter_shapes(spec)
    if missing := [name for name in shapes if name not in params]:
        raise ModelFileError(f"{where}: {', '.join(missing)} missing; the config asks for {', '.join(shapes)}")
    if extra := [name for name in params if name not in shapes]:
        raise ModelFileError(f"{where}: {', '.join(extra)} not expected; the config asks for {', '.join(shapes)}")
    last = next(reversed(shapes))
    dtype = params[last].dtype
    if dtype not in (np.float32, np.float64):
        raise ModelFileError(f"{where}: {last} has dtype {dtype}, needs float32 or float64")
    for name, shape in shapes.items():
        value = params[name]
        if value.shape != shape:
            raise ModelFileError(f"{where}: {name} has shape {value.shape}, the config asks for {shape}")
        if value.dtype != dtype:
            raise ModelFileError(f"{where}: {name} has dtype {value.dtype}, the others {dtype}")
        if not np.isfinite(value).all():
            bad = int(np.size(value) - np.isfinite(value).sum())
            raise ModelFileError(f"{where}: {name} holds {bad} values that are NaN or infinite")
