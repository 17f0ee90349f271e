"""Backends of the network from scratch: NumPy and Numba, which is imported only on request."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol

from numpy.typing import NDArray

from unrolled.engine.checks import check_choice
from unrolled.engine.errors import ConfigError, MissingDependencyError
from unrolled.engine.models.cells import CELLS
from unrolled.engine.models.layers.functions import LAYERS, LayerFunctions
from unrolled.engine.optimizers.gradient_scaling import grad_norm
from unrolled.engine.optimizers.update_rules import UPDATE_RULES, UpdateRule

FLOAT32, BF16 = "float32", "bf16"
PRECISIONS = (FLOAT32, BF16)  # of the products of a float32 model


class CellFunctions(Protocol):
    """The two functions of a recurrent layer; ``unrolled.engine.models.cells`` documents their contract.

    ``Any`` stands for (T, B, G·H) in a format of the engine's own.
    """

    @property
    def forward(self) -> Callable[[Any, NDArray, NDArray, NDArray], tuple[NDArray, NDArray]]: ...
    @property
    def backward(
        self,
    ) -> Callable[[NDArray, NDArray, NDArray, NDArray, NDArray, NDArray], tuple[Any, Any, NDArray]]: ...


class Backend(NamedTuple):
    """The functions that the network and its training run on."""

    name: str
    cells: Mapping[str, CellFunctions]
    layers: LayerFunctions
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
    return Backend("numpy", CELLS, LAYERS, UPDATE_RULES, grad_norm)


def _make_numba(precision: str) -> Backend:
    try:
        kernels = importlib.import_module("unrolled.engine.kernels")
    except ImportError as error:
        raise MissingDependencyError(f"the numba engine needs numba, which cannot be imported ({error})") from error
    cells, layers = kernels.make_kernels(kernels.choose_packing(precision == BF16))
    return Backend("numba", cells, layers, kernels.optimizers.UPDATE_RULES, kernels.optimizers.grad_norm)


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
