"""The two sets of functions that the from-scratch network can run on; the import of Numba happens here and only if asked."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from numpy.typing import NDArray

from unrolled.engine.checks import check_choice
from unrolled.engine.errors import ConfigError, MissingDependencyError
from unrolled.engine.models import layers
from unrolled.engine.models.cells import CELLS
from unrolled.engine.optimizers.gradient_scaling import grad_norm
from unrolled.engine.optimizers.update_rules import UPDATE_RULES, UpdateRule


class Backend(NamedTuple):
    """``cells``: name to an object with forward and backward; the others: functions of the modules of that name."""

    name: str
    cells: Mapping[str, Any]
    layers: Any
    update_rules: Mapping[str, UpdateRule]
    grad_norm: Callable[[NDArray], float]


FLOAT32, BF16 = "float32", "bf16"
PRECISIONS = (FLOAT32, BF16)  # of the products of a float32 model


def check_precision(engine: str, precision: str) -> None:
    """Check that an engine has a precision.

    Raises:
        ConfigError: the precision is not known, or not the engine's.
    """
    check_choice("precision", precision, PRECISIONS)
    if precision != FLOAT32 and engine != "numba":
        raise ConfigError(f"precision: {precision} is for the numba engine, got engine {engine!r}")


def _numpy(precision: str) -> Backend:
    return Backend("numpy", CELLS, layers, UPDATE_RULES, grad_norm)


def _numba(precision: str) -> Backend:
    try:
        kernels = importlib.import_module("unrolled.engine.kernels")
    except ImportError as error:
        raise MissingDependencyError(f"the numba engine needs numba, which cannot be imported ({error})") from error
    cells, layers = kernels.make_kernels(kernels.choose_packing(precision == BF16))
    return Backend("numba", cells, layers, kernels.optim.UPDATE_RULES, kernels.optim.grad_norm)


BACKENDS: dict[str, Callable[[str], Backend]] = {"numpy": _numpy, "numba": _numba}


def get_backend(name: str, precision: str = FLOAT32) -> Backend:
    """The backend called ``name``, imported now if it was not yet.

    Args:
        precision: "bf16" rounds the factors of all products to bfloat16 and sums them in float32.

    Raises:
        ConfigError: the precision is not the backend's, or this processor has no instruction for it.
    """
    check_choice("backend", name, BACKENDS)
    check_precision(name, precision)
    return BACKENDS[name](precision)
