"""Every private interface of Numba and llvmlite that the kernels use: a release that changes one fails here."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numba
import numpy as np
from jit import compiled
from llvmlite import binding, ir
from numba import njit, types
from numba.extending import intrinsic
from numpy.typing import NDArray

from unrolled.engine.kernels.jit import numba_internals
from unrolled.engine.kernels.jit.numba_internals import (
    BFLOAT,
    array_data,
    array_length,
    cgutils,
    current_threads,
    emit_call,
    emit_entry,
    function_address,
    keep_in_folder,
    pass_numbers_plainly,
    redirect_calls,
    target_machine,
    user_cache_folder,
    without_owner,
)

PRIVATE = re.compile(
    r"numba\.(core|np|misc|parfors)|llvmlite\.ir\.types|ir\.types\._|\b(meminfo|call_conv|make_array)\b"
)


def private_interfaces(folder: Path) -> list[str]:
    """Return the modules of a folder that use private interfaces of Numba or llvmlite."""
    return sorted(path.name for path in folder.rglob("*.py") if PRIVATE.search(path.read_text("utf-8")))


def test_no_other_module_uses_private_interfaces(tmp_path: Path) -> None:
    engine = Path(numba_internals.__file__).parents[2]
    assert private_interfaces(engine) == ["numba_internals.py"]
    (tmp_path / "other.py").write_text("from numba.core import typing\n")
    assert private_interfaces(tmp_path) == ["other.py"]


def test_the_target_is_one_that_llvm_has() -> None:
    triple, cpu, features = target_machine()
    assert triple == binding.get_process_triple()
    machine = binding.Target.from_triple(triple).create_target_machine(cpu=cpu, features=features)
    assert machine.triple == triple


def test_the_number_of_threads_is_that_of_numba() -> None:
    @njit(parallel=True)
    def start(values: NDArray) -> None:
        for i in numba.prange(len(values)):
            values[i] = i

    start(np.zeros(4))
    count, before = current_threads(), numba.get_num_threads()
    assert count is not numba.get_num_threads
    for threads in (1, before):
        numba.set_num_threads(threads)
        assert count() == threads


def test_constants_of_callers_are_numbers_but_for_those_that_are_named() -> None:
    add = njit(lambda x, n, stride: x + n * stride)
    pass_numbers_plainly(add, {"stride"})
    calls = [njit(eval(f"lambda x: add(x, {n}, {stride})", {"add": add})) for n, stride in ((1, 2), (5, 2), (3, 4))]
    assert [call(10) for call in calls] == [12, 20, 22]
    assert len(add.signatures) == 2  # one for each stride
    assert {types.unliteral(signature[1]) for signature in add.signatures} == {
        signature[1] for signature in add.signatures
    }
    keywords = njit(lambda x: add(x, stride=2, n=7))
    assert keywords(1) == 15


def test_calls_go_to_the_function_that_is_chosen_by_their_types() -> None:
    add, join = njit(lambda a, b, c: a + b * c), njit(lambda a, b, c: a - b * c)
    redirect_calls(add, lambda kinds: join if kinds[1] == types.float64 else add)
    call = njit(lambda a, b, c: (add(a, b, c), add(b, a, c=c)))
    assert call(1, 2, 3) == (7, 5)
    assert call(1, 2.5, 3) == (-6.5, 5.5)
    assert [len(one.signatures) for one in (add, join)] == [2, 1]


def double(x: float) -> float:
    return 2 * x


def test_code_is_kept_in_one_folder_that_is_asked_for_at_the_first_call(tmp_path: Path) -> None:
    asked, announced = [], []

    def folder() -> Path:
        asked.append(1)
        return tmp_path

    def kept(version: str = "1") -> Any:
        function = njit(double)
        keep_in_folder(function, folder, lambda: version, announced.append)
        return function

    first = kept()
    assert not asked
    assert (first(2), first(1.5)) == (4, 3.0)
    assert first.stats.cache_path == str(tmp_path)
    assert asked
    assert announced == [double, double]
    line = double.__code__.co_firstlineno
    names = sorted(path.name for path in tmp_path.iterdir())
    assert all(name.startswith(f"{__name__}.double-{line}.py") for name in names)
    assert [Path(name).suffix for name in names] == [".nbc", ".nbc", ".nbi"]
    own = f".{numba_internals._PROCESS}-{os.getpid()}.nbc"  # no other process gives these names
    assert all(name.endswith(own) for name in names[:2])
    again = kept()
    assert (again(2), again(1.5)) == (4, 3.0)
    assert sum(again.stats.cache_hits.values()) == 2
    assert len(announced) == 2  # loading is silent
    again.recompile()
    assert sum(again.stats.cache_misses.values()) == 2
    assert kept()(2) == 4
    other = kept("2")
    assert other(2) == 4
    assert sum(other.stats.cache_hits.values()) == 0  # kept under another version


def test_the_folder_of_a_user_has_the_name_of_numba() -> None:
    assert "numba" in user_cache_folder().parts


def test_an_array_has_data_and_a_length() -> None:
    @intrinsic
    def second(typing_context, values):  # type: ignore[no-untyped-def]
        def emit(context: Any, builder: Any, signature: Any, args: Sequence[Any]) -> Any:
            data, length = (get(context, builder, values, args[0]) for get in (array_data, array_length))
            item = builder.load(builder.gep(data, [ir.Constant(ir.IntType(64), 1)]))
            return context.make_tuple(builder, signature.return_type, [item, length])

        return types.Tuple([values.dtype, types.intp])(values), emit

    read = compiled(lambda values: second(values))
    assert read(np.array([[1.5, 2.5], [3.5, 4.5], [5.5, 6.5]])) == (2.5, 3)
    assert read(np.arange(7, dtype=np.int32)) == (1, 7)


def test_an_array_without_an_owner_is_the_same_array_and_counts_no_references() -> None:
    @intrinsic
    def bare(typing_context, value):  # type: ignore[no-untyped-def]
        def emit(context: Any, builder: Any, signature: Any, args: Sequence[Any]) -> Any:
            return without_owner(context, builder, value, args[0])

        return value(value), emit

    values = np.arange(6.0).reshape(2, 3)
    total = compiled(lambda values: bare(values)[1, 2] + bare(values).sum() + bare(2))
    assert total(values) == 5 + 15 + 2
    returned = compiled(lambda values: bare(values)[1:])(values)
    assert returned.tolist() == [[3, 4, 5]]
    assert returned.base is None  # it has no owner
    assert compiled(lambda values: values[1:])(values).base is not None


def test_llvm_has_the_type_of_bfloat16() -> None:
    module = ir.Module()
    kind = ir.VectorType(BFLOAT, 2)
    function = ir.Function(module, ir.FunctionType(kind, [kind]), "same")
    builder = ir.IRBuilder(function.append_basic_block())
    builder.ret(builder.fadd(function.args[0], ir.Constant(kind, None)))
    assert "<2 x bfloat>" in str(binding.parse_assembly(str(module)))


@njit
def expect_less(low: int, high: float) -> None:
    if not low < high:
        raise ValueError


@intrinsic
def raises(typing_context, address, low, high):  # type: ignore[no-untyped-def]
    """Call the function at ``address`` through an entry, which takes another order; return whether it raised."""
    entry_kinds = (high, types.intp, low, types.intp)

    def emit(context: Any, builder: Any, signature: Any, args: Sequence[Any]) -> Any:
        flag = cgutils.alloca_once_value(builder, ir.Constant(ir.IntType(1), 0))

        def emit_body(inside: Any, given: Sequence[Any]) -> None:
            high_value, function, low_value, at = given
            raised = emit_call(context, inside, function, (low, high), [low_value, high_value])
            inside.store(raised, inside.inttoptr(at, flag.type))

        entry = builder.ptrtoint(emit_entry(context, builder, entry_kinds, emit_body), args[0].type)
        pointer = builder.ptrtoint(flag, args[0].type)
        emit_call(context, builder, entry, entry_kinds, [args[2], args[0], args[1], pointer])
        return builder.load(flag)

    return types.boolean(types.intp, low, high), emit


def test_functions_are_called_by_address_and_through_an_entry() -> None:
    address, returned = function_address(expect_less, (types.int64, types.float64))
    assert returned == types.none
    call = compiled(lambda address, low, high: raises(address, low, high))
    assert [call(address, low, high) for low, high in ((1, 1.5), (2, 1.5), (-3, -2.5))] == [False, True, False]
    assert function_address(njit(lambda x: 2 * x), (types.int64,))[1] == types.int64
