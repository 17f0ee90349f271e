"""The pointwise half of a time step: a cell's formulas, compiled over rows of a batch and called by address.

The scan and the decoder contain the matrix products, which take nearly all of the time to compile, so they are compiled once
for all cells. The part that differs between cells is compiled here, and reaches them as a number: the address of a function
over the rows of one time step. That is one indirect call a time step and none a row: scans take as long as with one compiled
for each cell (geometric mean of 20 sizes 0.99 to 1.00, one thread). The first cell compiles in 37 s of processor time
instead of 46, each further one in 1 to 2 s instead of 3 to 4.

The cache on disk is reliable for both. The argument types of the scan do not contain the cell, and the functions here close
over the cell's name and a count, which are the same in every process. A dispatcher or an intrinsic, passed as an argument or
closed over, would not be: Numba identifies it by a random number, and would compile the caller again in every process.
"""

from __future__ import annotations

import functools
import hashlib
import inspect
import itertools
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numba import from_dtype, types
from numpy.typing import NDArray

from unrolled.engine.kernels.jit.compilation import compiled, intrinsic
from unrolled.engine.kernels.jit.numba_internals import array_data, cgutils, emit_call, function_address
from unrolled.engine.kernels.recurrent.cells import CELL_FORMULAS
from unrolled.engine.kernels.recurrent.formulas import Outputs
from unrolled.engine.kernels.simd.elementwise import emit_formula
from unrolled.engine.kernels.simd.registers import number

Counts = tuple[int, ...]
MARK = "@"  # in a cell's name in compiled code, before the digest of formulas from outside the package


def _formula(cell: str, step: str) -> tuple[Callable[..., Outputs], Counts, Counts]:
    """Return a cell's formula, and how many blocks each of its arguments and results has.

    Args:
        cell: its name in compiled code, from ``code_name``.
    """
    formulas = CELL_FORMULAS[cell.partition(MARK)[0]]
    G, K, S = formulas.products, formulas.gates, formulas.states
    if step == "activate":
        return formulas.activate, (G, G, S), (K, S)
    return formulas.differentiate, (K, S, S, 1, S), (K, S)


@intrinsic(prefer_literal=True)
def _run_formula(typing_context, cell, step, arguments, results, rows, units):  # type: ignore[no-untyped-def]
    """Run a cell's formula of a step, "activate" or "differentiate", over ``units`` of each of ``rows`` rows.

    ``arguments`` and ``results`` are tuples of (array, place, distance, row): flat, C-contiguous arrays of one dtype, the place
    of the first unit in the first block of the first row, and the distances between blocks and between rows. With a fifth
    entry, (numbers, first, apart), row r is the one of number numbers[first + r·apart]. The first argument and the first
    result are the gates, in the same memory.
    """
    formula, argument_counts, result_counts = _formula(cell.literal_value, step.literal_value)

    def over_vectors(*loaded: Any) -> tuple[Any, ...]:
        vectors = iter(loaded)
        groups = [tuple(itertools.islice(vectors, count)) for count in argument_counts]
        gates, state = formula(*groups)
        old = dict(enumerate(groups[0]))
        return (*(None if gate is old.get(k) else gate for k, gate in enumerate(gates)), *state)  # None: not written

    def codegen(context, builder, signature, values):  # type: ignore[no-untyped-def]
        def pointers(n: int, counts: tuple[int, ...], row: Any) -> list[Any]:
            found = []
            for group, (kind, count) in enumerate(zip(signature.args[n].types, counts, strict=True)):
                array, place, distance, further = (builder.extract_value(values[n], (group, k)) for k in range(4))
                index = row
                if len(kind) == 5:
                    numbers, first, apart = (builder.extract_value(values[n], (group, 4, k)) for k in range(3))
                    of = array_data(context, builder, kind.types[4].types[0], numbers)
                    index = builder.load(builder.gep(of, [builder.add(first, builder.mul(row, apart))]))
                data = builder.gep(array_data(context, builder, kind.types[0], array), [place])
                start = builder.gep(data, [builder.mul(index, further)])
                found += [builder.gep(start, [builder.mul(distance, number(k))]) for k in range(count)]
            return found

        emit_formula(
            builder, over_vectors, context.get_value_type(signature.args[2].types[0].types[0].dtype),
            lambda row: (pointers(2, argument_counts, row), pointers(3, result_counts, row)), values[4], values[5],
        )  # fmt: skip
        return context.get_dummy_value()

    return types.void(cell, step, arguments, results, types.intp, types.intp), codegen


def code_name(cell: str) -> str:
    """Return the name of a cell in compiled code, which Numba's cache compares.

    The cache is of one version of the kernels' sources. Formulas from elsewhere are not among them, so their files are part of
    the name; formulas without a file are compiled in every process.
    """
    digest = hashlib.sha256()
    functions: list[Any] = [CELL_FORMULAS[cell].activate, CELL_FORMULAS[cell].differentiate]
    outside = False
    while functions:
        function = functions.pop()
        if isinstance(function, functools.partial):
            functions += [function.func, *filter(callable, (*function.args, *function.keywords.values()))]
            continue
        if (getattr(function, "__module__", None) or "").startswith("unrolled.engine.kernels."):
            continue
        outside = True
        try:
            digest.update(Path(inspect.getfile(function)).read_bytes())
        except (TypeError, OSError):
            digest.update(os.urandom(16))
    return f"{cell}{MARK}{digest.hexdigest()}" if outside else cell


def _compile_activation(cell: str) -> Any:
    """Return a compiled function that activates units u0 … u1 of every ``apart``-th row of one time step.

    It reads the input product of row r from row ``places[first + r]`` of ``table``; ``gates_at``, ``before`` and ``after`` are
    the places of the first row in the flat arrays, ``width`` is the width of a row of gates, ``plane`` the distance between
    the arrays of the state.
    """
    products, name = CELL_FORMULAS[cell].products, code_name(cell)

    @compiled
    def activate(
        table: NDArray, places: NDArray, first: int, gates: NDArray, gates_at: int, width: int, states: NDArray,
        before: int, after: int, plane: int, H: int, rows: int, apart: int, u0: int, u1: int,
    ) -> None:  # fmt: skip
        own, row = (gates, gates_at + u0, H, apart * width), apart * H
        _run_formula(
            name, "activate",
            (own, (table, u0, H, products * H, (places, first, apart)), (states, before + u0, plane, row)),
            (own, (states, after + u0, plane, row)), rows, u1 - u0,
        )  # fmt: skip

    return activate


def _compile_derivative(cell: str) -> Any:
    """Return a compiled function that differentiates units u0 … u1 of every ``apart``-th row of one time step.

    Places and distances are those of ``_compile_activation``; ``dh_width`` is the width of a row of ``dh``.
    """

    name = code_name(cell)

    @compiled
    def differentiate(
        gates: NDArray, gates_at: int, width: int, states: NDArray, before: int, after: int, plane: int, dh: NDArray,
        dh_at: int, dh_width: int, ds: NDArray, ds_at: int, ds_plane: int, H: int, rows: int, apart: int, u0: int, u1: int,
    ) -> None:  # fmt: skip
        own, row = (gates, gates_at + u0, H, apart * width), apart * H
        gradient = (ds, ds_at + u0, ds_plane, row)
        _run_formula(
            name, "differentiate",
            (own, (states, before + u0, plane, row), (states, after + u0, plane, row),
             (dh, dh_at + u0, H, apart * dh_width), gradient),
            (own, gradient), rows, u1 - u0,
        )  # fmt: skip

    return differentiate


def _activation_types(item: Any) -> tuple[Any, ...]:
    """Return Numba's types of the parameters of ``activate`` for floats of a type."""
    written, read = types.Array(item, 1, "C"), types.Array(item, 1, "C", readonly=True)
    places = types.Array(types.int64, 1, "C", readonly=True)
    return read, places, types.intp, written, *_integers(2), written, *_integers(8)


def _derivative_types(item: Any) -> tuple[Any, ...]:
    """Return Numba's types of the parameters of ``differentiate`` for floats of a type."""
    written, read = types.Array(item, 1, "C"), types.Array(item, 1, "C", readonly=True)
    return written, *_integers(2), read, *_integers(3), read, *_integers(2), written, *_integers(7)


def _integers(count: int) -> tuple[Any, ...]:
    """Return Numba's types of ``count`` integers."""
    return (types.intp,) * count


def _caller(parameters: Callable[[Any], tuple[Any, ...]]) -> Any:
    """Return an intrinsic that calls the function at an address with a tuple of arguments, the first a flat array.

    The function's status is dropped, because it cannot raise: it allocates nothing, and Numba does not check indices.
    """

    @intrinsic
    def call(typing_context, address, arguments):  # type: ignore[no-untyped-def]
        of = parameters(arguments.types[0].dtype)

        def codegen(context, builder, signature, values):  # type: ignore[no-untyped-def]
            emit_call(context, builder, values[0], of, cgutils.unpack_tuple(builder, values[1]))
            return context.get_dummy_value()

        return types.void(types.intp, types.Tuple(of)), codegen

    return call


# for compiled code: (the address that ``activation`` or ``derivative`` returned, the arguments of the function there)
activate_rows, differentiate_rows = _caller(_activation_types), _caller(_derivative_types)

_STEPS = {
    "activate": (_compile_activation, _activation_types),
    "differentiate": (_compile_derivative, _derivative_types),
}
_compiled: dict[tuple[str, str], Any] = {}  # keeps the code at the addresses, by cell and step
_addresses: dict[tuple[str, str, np.dtype], int] = {}
_lock = threading.Lock()


def _address(cell: str, step: str, dtype: np.dtype) -> int:
    """Return the address of a cell's function of a step, compiling or loading it first."""
    key = cell, step, dtype
    if key not in _addresses:
        compile_step, parameters = _STEPS[step]
        with _lock:  # of two functions for one address, the code of the one that is dropped would be freed
            if (cell, step) not in _compiled:
                _compiled[cell, step] = compile_step(cell)
            _addresses[key], _ = function_address(_compiled[cell, step], parameters(from_dtype(dtype)))
    return _addresses[key]


def activation(cell: str, dtype: np.dtype) -> int:
    """Return the address of a cell's ``activate`` for floats of ``dtype``, compiling or loading it first."""
    return _address(cell, "activate", dtype)


def derivative(cell: str, dtype: np.dtype) -> int:
    """Return the address of a cell's ``differentiate`` for floats of ``dtype``, compiling or loading it first."""
    return _address(cell, "differentiate", dtype)
