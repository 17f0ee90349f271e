"""The pointwise half of a time step: a cell's formulas, compiled over rows of a batch and called by address.

The scan and the decoder contain the matrix products, which take nearly all of the time to compile, so they are compiled
once for all cells. What differs between cells is compiled here, and reaches them as a number: the address of a function
over the rows of one time step. One indirect call a time step costs some nanoseconds; nothing is called per row.

Numba finds all of them again on disk. The argument types of the scan do not contain the cell, and the functions here close
over the cell's name, which is the same in every process. A compiled function or an intrinsic, as an argument or in a
closure, is not: Numba identifies it by a random number, and compiles the caller again in every process.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import numpy as np
from llvmlite import ir
from numba import from_dtype, types
from numpy.typing import NDArray

from unrolled.engine.kernels.jit.compilation import compiled, intrinsic
from unrolled.engine.kernels.jit.numba_internals import array_data, cgutils, emit_call, function_address
from unrolled.engine.kernels.recurrent.cells import CELL_FORMULAS
from unrolled.engine.kernels.recurrent.formulas import Formulas
from unrolled.engine.kernels.simd.vectors import emit_formula


def _block_counts(formulas: Formulas, formula: str) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return how many blocks each argument and each result of a formula has."""
    G, K, S = formulas.products, formulas.gates, formulas.states
    return ((G, G, S) if formula == "activate" else (K, S, S, 1, S)), (K, S)


@intrinsic(prefer_literal=True)
def _run_formula(typing_context, cell, formula, arguments, results, units):  # type: ignore[no-untyped-def]
    """Run a cell's formula over ``units`` of one row.

    ``arguments`` and ``results`` are tuples of (array, place, distance): flat, C-contiguous arrays of one dtype, the place of
    the first unit in the first block, and the distance between blocks.
    """
    formulas = CELL_FORMULAS[cell.literal_value]
    name = formula.literal_value
    argument_counts, result_counts = _block_counts(formulas, name)

    def over_vectors(*loaded: Any) -> tuple[Any, ...]:
        vectors, groups = iter(loaded), []
        for count in argument_counts:
            groups.append(tuple(next(vectors) for _ in range(count)))
        gates, state = getattr(formulas, name)(*groups)
        old = dict(enumerate(groups[0]))  # of the memory that the gates are written to
        return (*(None if gate is old.get(k) else gate for k, gate in enumerate(gates)), *state)

    def codegen(context, builder, signature, values):  # type: ignore[no-untyped-def]
        def pointers(n: int, counts: tuple[int, ...]) -> list[Any]:
            found = []
            for group, (kind, count) in enumerate(zip(signature.args[n].types, counts, strict=True)):
                array, place, distance = (builder.extract_value(values[n], (group, k)) for k in range(3))
                data = array_data(context, builder, kind.types[0], array)
                for k in range(count):
                    at = builder.add(place, builder.mul(distance, ir.Constant(distance.type, k)))
                    found.append(builder.gep(data, [at]))
            return found

        number = context.get_value_type(signature.args[2].types[0].types[0].dtype)
        inputs, outputs = pointers(2, argument_counts), pointers(3, result_counts)
        emit_formula(builder, over_vectors, number, inputs, outputs, values[4])
        return context.get_dummy_value()

    return types.void(cell, formula, arguments, results, types.intp), codegen


def _compile_activation(cell: str, products: int) -> Any:
    @compiled
    def activate(
        table: NDArray, places: NDArray, first: int, gates: NDArray, gates_at: int, width: int, states: NDArray,
        before: int, after: int, plane: int, H: int, rows: int, u0: int, u1: int,
    ) -> None:  # fmt: skip
        for r in range(rows):
            own, unit = gates_at + r * width + u0, r * H + u0
            x = places[first + r] * products * H + u0
            _run_formula(
                cell, "activate", ((gates, own, H), (table, x, H), (states, before + unit, plane)),
                ((gates, own, H), (states, after + unit, plane)), u1 - u0,
            )  # fmt: skip

    return activate


def _compile_derivative(cell: str) -> Any:
    @compiled
    def differentiate(
        gates: NDArray, gates_at: int, width: int, states: NDArray, before: int, after: int, plane: int, dh: NDArray,
        dh_at: int, ds: NDArray, ds_at: int, ds_plane: int, H: int, rows: int, u0: int, u1: int,
    ) -> None:  # fmt: skip
        for r in range(rows):
            own, unit = gates_at + r * width + u0, r * H + u0
            _run_formula(
                cell, "differentiate",
                ((gates, own, H), (states, before + unit, plane), (states, after + unit, plane), (dh, dh_at + unit, H),
                 (ds, ds_at + unit, ds_plane)),
                ((gates, own, H), (ds, ds_at + unit, ds_plane)), u1 - u0,
            )  # fmt: skip

    return differentiate


def _activation_types(number: Any) -> tuple[Any, ...]:
    """Return Numba's types of the parameters of ``activate`` for floats of a type."""
    written, read = types.Array(number, 1, "C"), types.Array(number, 1, "C", readonly=True)
    places = types.Array(types.int64, 1, "C", readonly=True)
    return read, places, types.intp, written, *_integers(2), written, *_integers(7)


def _derivative_types(number: Any) -> tuple[Any, ...]:
    """Return Numba's types of the parameters of ``differentiate`` for floats of a type."""
    written, read = types.Array(number, 1, "C"), types.Array(number, 1, "C", readonly=True)
    return written, *_integers(2), read, *_integers(3), read, types.intp, written, *_integers(6)


def _integers(count: int) -> tuple[Any, ...]:
    return (types.intp,) * count


def _caller(parameters: Callable[[Any], tuple[Any, ...]]) -> Any:
    """Return an intrinsic that calls the function at an address with a tuple of arguments, the first a flat array."""

    @intrinsic
    def call(typing_context, address, arguments):  # type: ignore[no-untyped-def]
        of = parameters(arguments.types[0].dtype)

        def codegen(context, builder, signature, values):  # type: ignore[no-untyped-def]
            emit_call(context, builder, values[0], of, cgutils.unpack_tuple(builder, values[1]))
            return context.get_dummy_value()

        return types.void(types.intp, types.Tuple(of)), codegen

    return call


activate_rows, differentiate_rows = _caller(_activation_types), _caller(_derivative_types)
"""Call a function whose address is that of ``activation`` or ``derivative``; the arguments are those of the functions above."""

_compiled: dict[tuple[str, str], Any] = {}  # keeps the code at the addresses
_addresses: dict[tuple[str, str, np.dtype], int] = {}
_lock = threading.RLock()


def _address(cell: str, formula: str, dtype: np.dtype) -> int:
    key = cell, formula, dtype
    if key not in _addresses:
        with _lock:  # two functions for one address: the code of the one that is dropped would be freed
            if key[:2] not in _compiled:
                forward = formula == "activate"
                _compiled[key[:2]] = (
                    _compile_activation(cell, CELL_FORMULAS[cell].products) if forward else _compile_derivative(cell)
                )
            parameters = _activation_types if formula == "activate" else _derivative_types
            _addresses[key], _ = function_address(_compiled[key[:2]], parameters(from_dtype(dtype)))
    return _addresses[key]


def activation(cell: str, dtype: np.dtype) -> int:
    """Return the address of a cell's ``activate`` over rows of floats of ``dtype``."""
    return _address(cell, "activate", dtype)


def derivative(cell: str, dtype: np.dtype) -> int:
    """Return the address of a cell's ``differentiate`` over rows of floats of ``dtype``."""
    return _address(cell, "differentiate", dtype)
