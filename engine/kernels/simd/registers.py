"""Registers and memory in generated code: constants, loads and stores, broadcasts, prefetches, calls of LLVM's intrinsics.

Memory is a pointer to the first item of an array and an offset in items. Arrays are aligned to their items only, so loads
and stores assume no more.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from llvmlite import ir

from unrolled.engine.kernels.jit.numba_internals import cgutils

I32, I64 = ir.IntType(32), ir.IntType(64)
_READ, _KEEP_IN_ALL_CACHES, _DATA = 0, 3, 1  # arguments of llvm.prefetch


def number(value: int) -> Any:
    """Return a constant of 64 bits."""
    return ir.Constant(I64, value)


def lanes_of(kind: Any) -> int:
    """Return how many numbers a type holds: 1 for a scalar."""
    return int(kind.count) if isinstance(kind, ir.VectorType) else 1


def item_of(kind: Any) -> Any:
    """Return the type of one number of a register; a scalar's own type."""
    return kind.element if isinstance(kind, ir.VectorType) else kind


def item_bytes(kind: Any) -> int:
    """Return the bytes of one number of a register or scalar of floats or integers."""
    item = item_of(kind)
    if isinstance(item, ir.IntType):
        return int(item.width) // 8
    return 8 if isinstance(item, ir.DoubleType) else 4


def call_llvm(builder: Any, name: str, result: Any, values: Sequence[Any]) -> Any:
    """Call a function of LLVM or of the C library, which returns ``result``, an IR type."""
    kind = ir.FunctionType(result, [value.type for value in values])
    return builder.call(cgutils.get_or_insert_function(builder.module, kind, name), values)


def pointer_to(builder: Any, data: Any, at: Any, kind: Any) -> Any:
    """Return a pointer to a value of type ``kind`` that starts at item ``at``."""
    return builder.bitcast(builder.gep(data, [at]), kind.as_pointer())


def load(builder: Any, data: Any, at: Any, kind: Any, mask: Any = None) -> Any:
    """Load a register or scalar; lanes in which ``mask`` is not set are 0 and not read."""
    pointer, align = pointer_to(builder, data, at, kind), item_bytes(kind)
    if mask is None:
        value = builder.load(pointer)
        value.align = align
        return value
    letter = "i" if isinstance(kind.element, ir.IntType) else "f"
    name = f"llvm.masked.load.v{kind.count}{letter}{align * 8}.p0"
    return call_llvm(builder, name, kind, [pointer, ir.Constant(I32, align), mask, ir.Constant(kind, None)])


def store(builder: Any, value: Any, data: Any, at: Any, mask: Any = None) -> None:
    """Store a register or scalar; lanes in which ``mask`` is not set are not written."""
    kind = value.type
    pointer, align = pointer_to(builder, data, at, kind), item_bytes(kind)
    if mask is None:
        builder.store(value, pointer).align = align
        return
    name = f"llvm.masked.store.v{kind.count}f{align * 8}.p0"
    call_llvm(builder, name, ir.VoidType(), [value, pointer, ir.Constant(I32, align), mask])


def broadcast(builder: Any, value: Any, kind: Any) -> Any:
    """Return a register of type ``kind`` with ``value`` in every lane; ``value`` itself for a scalar type."""
    if not isinstance(kind, ir.VectorType):
        return value
    undefined = ir.Constant(kind, ir.Undefined)
    first = builder.insert_element(undefined, value, ir.Constant(I32, 0))
    return builder.shuffle_vector(first, undefined, ir.Constant(ir.VectorType(I32, kind.count), [0] * kind.count))


def lanes_from(builder: Any, value: Any, first: int, count: int) -> Any:
    """Return ``count`` lanes of a register, from lane ``first`` on; lanes that it does not have are undefined."""
    if first == 0 and count == value.type.count:
        return value
    last = value.type.count - 1
    places = ir.Constant(ir.VectorType(I32, count), [min(first + lane, last) for lane in range(count)])
    return builder.shuffle_vector(value, ir.Constant(value.type, ir.Undefined), places)


def mask_of_first(builder: Any, count: Any, lanes: int) -> Any:
    """Return a mask that is set for the first ``count`` of ``lanes`` lanes."""
    indices = ir.VectorType(I32, lanes)
    limit = broadcast(builder, builder.trunc(count, I32), indices)
    return builder.icmp_signed("<", ir.Constant(indices, list(range(lanes))), limit)


def prefetch_line(builder: Any, pointer: Any) -> None:
    """Prefetch a cache line for reading; an address outside any array does no harm."""
    hints = [ir.Constant(I32, value) for value in (_READ, _KEEP_IN_ALL_CACHES, _DATA)]
    call_llvm(
        builder, "llvm.prefetch.p0", ir.VoidType(), [builder.bitcast(pointer, ir.IntType(8).as_pointer()), *hints]
    )  # fmt: skip
