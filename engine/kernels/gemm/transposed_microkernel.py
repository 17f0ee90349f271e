"""Micro-kernel of weight gradients: a tile of a product with a transposed first factor, both read where they lie.

C[rows, columns] += A[depth, rows]ᵀ · B[depth, columns], with one to three registers of columns. The readable form of a tile is

    for k in range(depth):
        c += a[k, :, None] * b[k]    # one broadcast a row, one load a register of b, one FMA for the two

It needs no packing, which costs as much as the product where C is small; but its rows of both factors lie apart, so
factors with long rows are faster packed (``weight_gradient``). The sum over the depth runs in the order of the rows.
"""

from __future__ import annotations

import itertools
from typing import Any

from llvmlite import ir
from numba import types
from numpy.typing import NDArray

from unrolled.engine.kernels.gemm.microkernel import HALVES, TILE_ROWS, VECTOR_BYTES
from unrolled.engine.kernels.gemm.rhs_packing import Runs
from unrolled.engine.kernels.jit.compilation import compiled, intrinsic
from unrolled.engine.kernels.jit.numba_internals import array_data
from unrolled.engine.kernels.simd.registers import (
    I32,
    I64,
    broadcast,
    call_llvm,
    item_bytes,
    load,
    mask_of_first,
    number,
    store,
)

WIDEST = 3  # registers of a tile
_WHOLE, _PARTIAL, _HALF = range(3)  # of the last register, a tile computes all lanes, some, or some of the lower half
# Forms that share code. Masks are free on AVX-512, where large tiles save half of a register (``microkernel.HALVES``);
# elsewhere a mask costs instructions, on NEON many, so only an edge has one.
_FORMS = ((_WHOLE, _PARTIAL), (_HALF,)) if HALVES else ((_WHOLE,), (_PARTIAL, _HALF))
_FORMS_OF_FEW_ROWS = ((_WHOLE, _PARTIAL, _HALF),) if HALVES else _FORMS


@intrinsic
def _add_transposed_tile(  # type: ignore[no-untyped-def]
    typing_context, rows, width, edge, a, a_at, a_row, b, b_at, b_row, c, c_at, c_row, length, apart, runs
):
    """C += Aᵀ · B for a tile of 1, 2, 4 or TILE_ROWS rows and 1 to WIDEST registers.

    The last register has ``edge`` columns. The depth is ``runs`` runs of ``length`` rows each, the first rows of which are
    ``apart`` rows from each other. Flat arrays come with an offset and the items from row to row.
    """
    if not a.dtype == b.dtype == c.dtype or c.dtype not in (types.float32, types.float64):
        return None
    i = types.intp
    signature = types.void(i, i, i, a, i, i, b, i, i, c, i, i, i, i, i)

    def codegen(context, builder, signature, args):  # type: ignore[no-untyped-def]
        data = [array_data(context, builder, signature.args[n], args[n]) for n in (3, 6, 9)]
        scalar = context.get_value_type(c.dtype)
        lanes = VECTOR_BYTES // item_bytes(scalar)
        few, full = (builder.icmp_signed("<=", args[2], number(most)) for most in (lanes // 2, lanes - 1))
        form = builder.add(builder.zext(few, I64), builder.zext(full, I64))  # _WHOLE, _PARTIAL or _HALF
        place = builder.add(builder.mul(args[0], number(16)), builder.mul(args[1], number(4)))
        done = builder.append_basic_block("tile_done")
        switch = builder.switch(builder.add(place, form), done)
        for height in sorted({1, 2, 4, TILE_ROWS}):
            for width in range(1, WIDEST + 1):
                for forms in _FORMS if height == TILE_ROWS else _FORMS_OF_FEW_ROWS:
                    with builder.goto_block(builder.append_basic_block("tile")):
                        for case in forms:
                            switch.add_case(number(16 * height + 4 * width + case), builder.block)
                        kind = ir.VectorType(scalar, lanes)
                        _TransposedTile(builder, kind, height, width, forms[-1]).emit(data, args)
                        builder.branch(done)
        builder.position_at_end(done)
        return context.get_dummy_value()

    return signature, codegen


class _TransposedTile:
    """Code of a tile of ``height`` rows and ``width`` registers of type ``kind``, and a form of the last register."""

    def __init__(self, builder: Any, kind: Any, height: int, width: int, form: int) -> None:
        self._builder, self._kind, self._height, self._masked = builder, kind, height, form != _WHOLE
        self._columns = [number(v * kind.count) for v in range(width)]
        lanes = kind.count // 2 if form == _HALF and height == TILE_ROWS and HALVES else kind.count
        self._kinds = [kind] * (width - 1) + [ir.VectorType(kind.element, lanes)]

    def _places(self, count: Any) -> list[tuple[Any, Any, Any]]:
        """Return offset, type and mask of each register; masks are None but for the last, which may have ``count`` columns."""
        masks = [None] * len(self._columns)
        if self._masked:
            masks[-1] = mask_of_first(self._builder, count, self._kinds[-1].count)
        return list(zip(self._columns, self._kinds, masks, strict=True))

    def emit(self, data: list[Any], args: Any) -> None:
        """Emit the loops over runs and their rows, at least one each."""
        builder = self._builder
        _, _, edge, _, a_at, a_row, _, b_at, b_row, _, c_at, c_row, length, apart, runs = args
        places = self._places(edge)
        c_rows = [builder.gep(data[2], [builder.add(c_at, builder.mul(c_row, number(r)))]) for r in range(self._height)]
        sums = [load(builder, row, *place) for row in c_rows for place in places]
        rest = builder.sub(apart, length)  # rows from the end of a run to the next
        steps = [a_row, b_row]
        jumps = [builder.mul(rest, step) for step in steps]
        pointers = [builder.gep(data[0], [a_at]), builder.gep(data[1], [b_at])]

        def runs_body(values: list[Any]) -> list[Any]:
            inner = self._loop(length, values, lambda state: self._add_row(state, places, steps))
            return [builder.gep(inner[0], [jumps[0]]), builder.gep(inner[1], [jumps[1]]), *inner[2:]]

        sums = self._loop(runs, [*pointers, *sums], runs_body)[2:]
        for value, (row, (column, _, mask)) in zip(sums, itertools.product(c_rows, places), strict=True):
            store(builder, value, row, column, mask)

    def _loop(self, count: Any, values: list[Any], body: Any) -> list[Any]:
        """Emit a loop of ``count`` iterations, at least one; ``body`` maps the values before one to those after it."""
        builder = self._builder
        entry, loop, done = builder.block, builder.append_basic_block("loop"), builder.append_basic_block("done")
        builder.branch(loop)
        builder.position_at_end(loop)
        left = builder.phi(I64)
        state = [builder.phi(value.type) for value in values]
        following = body(list(state))
        fewer = builder.sub(left, number(1))
        for phi, before, after in zip([left, *state], [count, *values], [fewer, *following], strict=True):
            phi.add_incoming(before, entry)
            phi.add_incoming(after, builder.block)
        builder.cbranch(builder.icmp_signed(">", fewer, number(0)), loop, done)
        builder.position_at_end(done)
        return following

    def _add_row(self, state: list[Any], places: list[tuple[Any, Any, Any]], steps: list[Any]) -> list[Any]:
        """Return pointers and sums after the next row of both factors."""
        builder, (a, b, *sums) = self._builder, state
        factors = [load(builder, b, *place) for place in places]
        following = []
        for r in range(self._height):
            x = broadcast(builder, builder.load(builder.gep(a, [number(r)])), self._kind)
            for v, factor in enumerate(factors):
                following.append(self._add_product(x, factor, sums[r * len(factors) + v]))
        return [builder.gep(a, [steps[0]]), builder.gep(b, [steps[1]]), *following]

    def _add_product(self, x: Any, y: Any, total: Any) -> Any:
        """Return total + x·y, lane by lane: one FMA, or two instructions on a processor without."""
        kind = y.type
        if kind.count < x.type.count:
            undefined = ir.Constant(x.type, ir.Undefined)
            lower = ir.Constant(ir.VectorType(I32, kind.count), list(range(kind.count)))
            x = self._builder.shuffle_vector(x, undefined, lower)
        name = f"llvm.fmuladd.v{kind.count}f{8 * item_bytes(kind)}"
        return call_llvm(self._builder, name, kind, [x, y, total])


@compiled
def add_transposed_rows(
    a: NDArray, a_at: int, a_row: int, b: NDArray, b_at: int, b_row: int, c: NDArray, c_at: int, c_row: int, M: int, N: int,
    lanes: int, runs: Runs, depth: int,
) -> None:  # fmt: skip
    """C += Aᵀ · B for M rows and N columns of C, and the ``depth`` rows of whole ``runs`` of both factors.

    Flat arrays come with an offset, which is that of the first row of the first run, and the items from row to row.
    """
    registers, done = (N + lanes - 1) // lanes, 0
    while done < registers:
        left = registers - done
        width = 2 if left == 4 else min(left, WIDEST)  # four are two tiles of two
        edge = min(N - (done + width - 1) * lanes, lanes)
        m, at = 0, done * lanes
        while m < M:
            if TILE_ROWS == 8 and M - m >= 8:
                height = 8
            elif M - m >= 4:
                height = 4
            else:
                height = 2 if M - m >= 2 else 1
            _add_transposed_tile(
                height, width, edge, a, a_at + m, a_row, b, b_at + at, b_row, c, c_at + m * c_row + at, c_row, runs.length,
                runs.stride, depth // runs.length,
            )  # fmt: skip
            m += height
        done += width
