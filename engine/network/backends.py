"""Backends of the network from scratch: NumPy and Numba, which is imported only on request."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

from numpy.typing import NDArray

from unrolled.engine.checks import check_choice
from unrolled.engine.errors import ConfigError, MissingDependencyError
from unrolled.engine.models.heads import HEADS
from unrolled.engine.models.heads.head import HeadFunctions
from unrolled.engine.models.inputs import INPUTS
from unrolled.engine.models.inputs.input import InputFunctions
from unrolled.engine.models.layers.functions import LAYERS, LayerFunctions
from unrolled.engine.models.layers.recurrent import RECURRENT, RecurrentFunctions
from unrolled.engine.optimizers.optimizer import REFERENCE, UpdateFunctions

FLOAT32, BF16 = "float32", "bf16"
PRECISIONS = (FLOAT32, BF16)  # of the products of a float32 model


class RecordedCall(Protocol):
    """A function of arrays whose calls are made again for other arrays of the same shapes, without Python."""

    results: Any  # of the last call, made of arrays

    def is_current(self) -> bool:
        """Return whether it would be recorded in the same way now: with as many threads."""
        ...

    def run(self, arrays: Sequence[NDArray], changed: bool = False) -> Any:
        """Return the results for other arrays, which are valid until the next run.

        Args:
            changed: whether the constants that the function reads besides have changed since the last run.
        """
        ...


class Backend(NamedTuple):
    """The functions that the network and its training run on.

    Args:
        record: (function, arrays, constants, most_threads) -> the recorded call; None: the engine has no recordings.
    """

    name: str
    recurrent: RecurrentFunctions
    layers: LayerFunctions
    inputs: Mapping[str, InputFunctions]
    heads: Mapping[str, HeadFunctions]
    update: UpdateFunctions
    record: Callable[[Callable[..., Any], Sequence[NDArray], Sequence[NDArray], int | None], RecordedCall] | None = None


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
    return Backend("numpy", RECURRENT, LAYERS, inputs, heads, REFERENCE)


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
        kernels.optimizers.UPDATE,
        kernels.Recording,
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
