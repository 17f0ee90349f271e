"""The micro-kernel of all matrix products, written as vector IR: a tile of C stays in registers over the whole depth.

C[rows, width] = start[rows, width] + A[rows, depth] · panel[depth, width], with a width of one to four registers. The
readable form of a tile is

    c = start.copy()
    for k in range(depth):
        c += a[:, k, None] * panel[k]    # one broadcast a row, one load a register of the panel, one FMA for the two

LLVM does not find this form from loops; written out it runs near the FMA peak. The sum over the depth runs in one order
whatever ``rows`` and the width are, so a row's result does not depend on the rows that it is computed with.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types

from unrolled.engine.kernels.jit.compilation import intrinsic
from unrolled.engine.kernels.jit.target import TARGET
from unrolled.engine.kernels.simd import bf16
from unrolled.engine.kernels.simd.registers import (
    I64,
    broadcast,
    call_llvm,
    item_bytes,
    load,
    mask_of_first,
    number,
    prefetch_line,
    store,
)

VECTORS = 2  # registers a row of a panel
VECTOR_BYTES = TARGET.vector_bytes
# 8 rows × 3 registers of sums fill 28 of 32 registers with their factors (AVX-512, NEON), 4 × 3 all of 16 (where an FMA
# needs none of its own).
TILE_ROWS = 8 if TARGET.registers == 32 else 4
PANEL_BYTES = VECTORS * VECTOR_BYTES  # width of a panel

# A tile is one to four registers wide, of panels that lie side by side. Three panels are two tiles of three registers: as
# many broadcasts of A as a tile of two has, for half as many sums more. Few rows wait for their own sums and for their
# loads: two panels at once keep twice as many in flight.
WIDE = 3  # registers of the tiles that most of a product is made of
FEW_ROWS = TILE_ROWS // 2  # most rows of a tile of four registers: more would not fit into the registers
# rows of a panel by which a prefetch runs ahead: 5 to 25% faster, the more the larger the weights
AHEAD = 16
_LINE = 64  # bytes


@intrinsic
def multiply_tile(  # type: ignore[no-untyped-def]
    typing_context, rows, width, a, a_row, a_depth, panel, second, far, start, start_row, c, c_row, depth, edge
):
    """C = start + A · panel for a tile of 1, 2, 4 or TILE_ROWS rows and 1 to 4 registers (4: FEW_ROWS at the most).

    Pointers come with strides in items; a row of a panel is VECTORS registers wide. The second register lies ``second`` items
    after the first, and the next two ``far`` after these two. ``start`` and C have ``edge`` lanes of the last register.
    """
    item, dtype = a.dtype, c.dtype
    in_pairs = item == panel.dtype == bf16.WORD and dtype == types.float32
    if not in_pairs and not (item == panel.dtype == dtype and dtype in (types.float32, types.float64)):
        return None
    if start.dtype != dtype:
        return None
    i = types.intp
    signature = types.void(i, i, a, i, i, panel, i, i, start, i, c, i, i, i)

    def codegen(context, builder, signature, args):  # type: ignore[no-untyped-def]
        factors, sums = context.get_value_type(item), context.get_value_type(dtype)
        done = builder.append_basic_block("tile_done")
        choice = builder.switch(builder.add(builder.mul(args[0], number(8)), args[1]), done)
        for height in sorted({1, 2, 4, TILE_ROWS}):
            for width in (1, 2, 3, 4) if height <= FEW_ROWS else (1, 2, 3):
                with builder.goto_block(builder.append_basic_block("tile")):
                    choice.add_case(number(8 * height + width), builder.block)
                    _Tile(builder, factors, sums, height, width).emit(*args[2:])
                    builder.branch(done)
        builder.position_at_end(done)
        return context.get_dummy_value()

    return signature, codegen


class _Tile:
    """Code of a tile of ``rows`` rows and ``width`` registers; factors are of IR's type ``item``, C is of ``scalar``."""

    def __init__(self, builder: Any, item: Any, scalar: Any, rows: int, width: int) -> None:
        self._builder, self._rows = builder, rows
        self._lanes = VECTOR_BYTES // item_bytes(scalar)
        self._sums, self._factors = ir.VectorType(scalar, self._lanes), ir.VectorType(item, self._lanes)
        self._columns = [number(v * self._lanes) for v in range(width)]

    def _row_pointers(self, first: Any, stride: Any) -> list[Any]:
        """Return pointers to the rows, ``stride`` apart."""
        return [self._builder.gep(first, [self._builder.mul(stride, number(r))]) for r in range(self._rows)]

    def emit(
        self, a: Any, a_row: Any, a_depth: Any, panel: Any, second: Any, far: Any, start: Any, start_row: Any, c: Any,
        c_row: Any, depth: Any, edge: Any,
    ) -> None:  # fmt: skip
        """Emit the loop over the depth, which is at least 1."""
        builder = self._builder
        a_rows, start_rows, c_rows = (
            self._row_pointers(*some) for some in ((a, a_row), (start, start_row), (c, c_row))
        )
        panels = [panel, *(builder.gep(panel, [at]) for at in (second, far, builder.add(far, second)))]
        whole = builder.icmp_signed("==", edge, number(self._lanes))
        plain, partial, loop, done = (
            builder.append_basic_block(name) for name in ("plain", "partial", "depth", "done")
        )
        builder.cbranch(whole, plain, partial)
        builder.position_at_end(loop)
        k = builder.phi(I64)
        sums = [[builder.phi(self._sums) for _ in self._columns] for _ in range(self._rows)]
        following = self._add_products(k, a_rows, a_depth, panels[: len(self._columns)], sums)
        k_next = builder.add(k, number(1))
        builder.cbranch(builder.icmp_signed("<", k_next, depth), loop, done)
        k.add_incoming(k_next, loop)
        _add_incoming(sums, following, loop)
        for block in (plain, partial):
            builder.position_at_end(block)
            columns = self._masked(edge if block is partial else None)
            k.add_incoming(number(0), block)
            _add_incoming(
                sums, [[load(builder, row, at, self._sums, mask) for at, mask in columns] for row in start_rows], block
            )
            builder.branch(loop)
        builder.position_at_end(done)
        with builder.if_else(whole) as branches:
            for branch, lanes in zip(branches, (None, edge), strict=True):
                with branch:
                    columns = self._masked(lanes)
                    for row, totals in zip(c_rows, following, strict=True):
                        for total, (at, mask) in zip(totals, columns, strict=True):
                            store(builder, total, row, at, mask)

    def _masked(self, lanes: Any) -> list[tuple[Any, Any]]:
        """Return the columns with their masks: none, or for the last column that of its first ``lanes`` lanes."""
        *others, last = self._columns
        mask = None if lanes is None else mask_of_first(self._builder, lanes, self._lanes)
        return [*((column, None) for column in others), (last, mask)]

    def _add_products(
        self, k: Any, a_rows: list[Any], a_depth: Any, panels: list[Any], sums: list[list[Any]]
    ) -> list[list[Any]]:  # fmt: skip
        """Return the sums after step k of the depth."""
        builder = self._builder
        panel_row = builder.mul(k, number(VECTORS * self._lanes))
        b = [load(builder, panel, panel_row, self._factors) for panel in panels]
        if self._rows >= 4:  # fewer rows cannot keep up with memory in any case
            further = builder.add(panel_row, number(AHEAD * VECTORS * self._lanes))
            for panel in panels if VECTOR_BYTES == _LINE else panels[::2]:  # two narrower registers share a line
                prefetch_line(builder, builder.gep(panel, [further]))
        position = builder.mul(k, a_depth)
        following = []
        for row, totals in zip(a_rows, sums, strict=True):
            x = broadcast(builder, builder.load(builder.gep(row, [position])), self._factors)
            following.append([self._add_product(x, y, total) for y, total in zip(b, totals, strict=True)])
        return following

    def _add_product(self, x: Any, y: Any, total: Any) -> Any:
        """Return total + x·y, lane by lane."""
        if self._factors != self._sums:
            return bf16.add_product(self._builder, x, y, total)
        # one FMA, or a multiplication and an addition on a processor without: llvm.fma would call the C library for each
        # number there
        bits = 8 * item_bytes(self._sums)
        return call_llvm(self._builder, f"llvm.fmuladd.v{self._lanes}f{bits}", self._sums, [x, y, total])


def _add_incoming(sums: list[list[Any]], values: list[list[Any]], block: Any) -> None:
    """Give the sums their values for a loop that is entered from ``block``."""
    for totals, some in zip(sums, values, strict=True):
        for total, value in zip(totals, some, strict=True):
            total.add_incoming(value, block)
