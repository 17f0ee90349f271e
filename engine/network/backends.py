"""Backends of the network from scratch: NumPy and Numba, which is imported only on request."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from typing import NamedTuple

from numpy.typing import NDArray

from unrolled.engine.checks import check_choice
from unrolled.engine.errors import ConfigError, MissingDependencyError
from unrolled.engine.models.heads import HEADS
from unrolled.engine.models.heads.head import HeadFunctions
from unrolled.engine.models.inputs import INPUTS
from unrolled.engine.models.inputs.input import InputFunctions
from unrolled.engine.models.layers.functions import LAYERS, LayerFunctions
from unrolled.engine.models.layers.recurrent import RECURRENT, RecurrentFunctions
from unrolled.engine.optimizers.gradient_scaling import grad_norm
from unrolled.engine.optimizers.update_rules import UPDATE_RULES, UpdateRule

FLOAT32, BF16 = "float32", "bf16"
PRECISIONS = (FLOAT32, BF16)  # of the products of a float32 model


class Backend(NamedTuple):
    """The functions that the network and its training run on."""

    name: str
    recurrent: RecurrentFunctions
    layers: LayerFunctions
    inputs: Mapping[str, InputFunctions]
    heads: Mapping[str, HeadFunctions]
    update_rules: Mapping[str, UpdateRule]
    grad_norm: Callable[[NDArray], float]


def check_precision(engine: str, precision: str) -> None:
    """Check that an engine supports a precision.

    Raises:
        ConfigError: the precision is unknown, or the engine does not support it.
    """
    check_choice("precision", precision, PRECISIONS)
    if precision != FLOAT32 and engine != "numba":
        raise ConfigError(f"precision: {precision} is for the numba engine, got engine {engine!r}")


def _make_numpy(precision: str) -> Backend:
    inputs = {kind: InputFunctions(column.forward, column.backward) for kind, column in INPUTS.items()}
    heads = {kind: HeadFunctions(head.forward, head.loss) for kind, head in HEADS.items()}
    return Backend("numpy", RECURRENT, LAYERS, inputs, heads, UPDATE_RULES, grad_norm)


def _make_numba(precision: str) -> Backend:
    try:
        kernels = importlib.import_module("unrolled.engine.kernels")
    except ImportError as error:
        raise MissingDependencyError(f"the numba engine needs numba, which cannot be imported ({error})") from error
    made = kernels.make_kernels(kernels.choose_packing(precision == BF16))
    return Backend(
        "numba",
        made.recurrent,
        made.layers,
        made.inputs,
        made.heads,
        kernels.optimizers.UPDATE_RULES,
        kernels.optimizers.grad_norm,
    )


BACKENDS: dict[str, Callable[[str], Backend]] = {"numpy": _make_numpy, "numba": _make_numba}


def get_backend(name: str, precision: str = FLOAT32) -> Backend:
    """Return a backend by its name.

    Args:
        precision: "bf16" rounds the factors of all products to bfloat16 and sums the products in float32.

    Raises:
        ConfigError: the backend does not support the precision, or this processor has no instruction for it.
        MissingDependencyError: numba cannot be imported.
    """
    check_choice("backend", name, BACKENDS)
    check_precision(name, precision)
    return BACKENDS[name](precision)
