"""The two sets of functions that the from-scratch network can run on; the import of Numba happens here and only if asked."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from unrolled.engine import layers, optim
from unrolled.engine.cells import CELLS
from unrolled.engine.checks import check_choice
from unrolled.engine.errors import MissingDependencyError


class Backend(NamedTuple):
    """``cells``: name to an object with forward and backward; the others: functions of the modules of that name."""

    name: str
    cells: Mapping[str, Any]
    layers: Any
    optim: Any


def _numpy() -> Backend:
    return Backend("numpy", CELLS, layers, optim)


def _numba() -> Backend:
    try:
        kernels = importlib.import_module("unrolled.engine.kernels")
    except ImportError as error:
        raise MissingDependencyError(f"the numba engine needs numba, which cannot be imported ({error})") from error
    return Backend("numba", kernels.KERNELS, kernels.layers, kernels.optim)


BACKENDS: dict[str, Callable[[], Backend]] = {"numpy": _numpy, "numba": _numba}


def get_backend(name: str) -> Backend:
    """The backend called ``name``, imported now if it was not yet."""
    check_choice("backend", name, BACKENDS)
    return BACKENDS[name]()
