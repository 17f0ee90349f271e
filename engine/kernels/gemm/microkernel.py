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

from collections.abc import Sequence
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
    lanes_from,
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
# Widths of the tiles of TILE_ROWS that there are once more with half of the last register, where a whole one takes twice as
# long as half of it (Zen 4) or as long: 40 columns take 187 µs instead of 208.
HALVES = (2, 3) if VECTOR_BYTES == 64 else ()
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
        halves = HALVES if dtype == types.float32 and not in_pairs else ()
        place = builder.add(builder.mul(args[0], number(8)), args[1])
        if halves:
            in_half = builder.icmp_signed("<=", args[13], number(VECTOR_BYTES // item_bytes(sums) // 2))
            large = builder.icmp_signed(">", place, number(8 * TILE_ROWS + 1))
            place = builder.add(place, builder.select(builder.and_(in_half, large), number(4), number(0)))
        done = builder.append_basic_block("tile_done")
        choice = builder.switch(place, done)

        def add_case(height: int, width: int, half: bool) -> None:
            with builder.goto_block(builder.append_basic_block("tile")):
                choice.add_case(number(8 * height + 4 * half + width), builder.block)
                _Tile(builder, factors, sums, height, width, half).emit(args[2:])
                builder.branch(done)

        for height in sorted({1, 2, 4, TILE_ROWS}):
            for width in (1, 2, 3, 4) if height <= FEW_ROWS else (1, 2, 3):
                add_case(height, width, False)
        for width in halves:
            add_case(TILE_ROWS, width, True)
        builder.position_at_end(done)
        return context.get_dummy_value()

    return signature, codegen


class _Tile:
    """Code of a tile of ``rows`` rows and ``width`` registers; factors are of IR's type ``item``, C is of ``scalar``.

    Of the last register the tile may compute one ``half``.
    """

    def __init__(self, builder: Any, item: Any, scalar: Any, rows: int, width: int, half: bool) -> None:
        self._builder, self._rows = builder, rows
        self._lanes = VECTOR_BYTES // item_bytes(scalar)
        self._factors = ir.VectorType(item, self._lanes)
        last = self._lanes // 2 if half else self._lanes
        self._columns = [number(v * self._lanes) for v in range(width)]
        self._sums = [ir.VectorType(scalar, lanes) for lanes in [self._lanes] * (width - 1) + [last]]

    def _row_pointers(self, first: Any, stride: Any) -> list[Any]:
        """Return pointers to the rows, ``stride`` apart."""
        return [self._builder.gep(first, [self._builder.mul(stride, number(r))]) for r in range(self._rows)]

    def emit(self, arguments: Sequence[Any]) -> None:
        """Emit the loop over the depth, which is at least 1; the arguments are those of ``multiply_tile`` from A on."""
        a, a_row, a_depth, panel, second, far, start, start_row, c, c_row, depth, edge = arguments
        builder = self._builder
        a_rows, start_rows, c_rows = (
            self._row_pointers(*some) for some in ((a, a_row), (start, start_row), (c, c_row))
        )
        panels = [panel, *(builder.gep(panel, [at]) for at in (second, far, builder.add(far, second)))]
        whole = builder.icmp_signed("==", edge, number(self._sums[-1].count))
        plain, partial, loop, done = (
            builder.append_basic_block(name) for name in ("plain", "partial", "depth", "done")
        )
        builder.cbranch(whole, plain, partial)
        builder.position_at_end(loop)
        k = builder.phi(I64)
        sums = [[builder.phi(kind) for kind in self._sums] for _ in range(self._rows)]
        following = self._add_products(k, a_rows, a_depth, panels[: len(self._columns)], sums)
        k_next = builder.add(k, number(1))
        builder.cbranch(builder.icmp_signed("<", k_next, depth), loop, done)
        k.add_incoming(k_next, loop)
        _add_incoming(sums, following, loop)
        for block in (plain, partial):
            builder.position_at_end(block)
            columns = self._masked(edge if block is partial else None)
            k.add_incoming(number(0), block)
            before = [
                [load(builder, row, at, kind, mask) for (at, mask), kind in zip(columns, self._sums, strict=True)]
                for row in start_rows
            ]
            _add_incoming(sums, before, block)
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
        mask = None if lanes is None else mask_of_first(self._builder, lanes, self._sums[-1].count)
        return [*((column, None) for column in others), (last, mask)]

    def _add_products(
        self, k: Any, a_rows: list[Any], a_depth: Any, panels: list[Any], sums: list[list[Any]]
    ) -> list[list[Any]]:  # fmt: skip
        """Return the sums after step k of the depth."""
        builder = self._builder
        panel_row = builder.mul(k, number(VECTORS * self._lanes))
        kinds = [ir.VectorType(self._factors.element, kind.count) for kind in self._sums]
        b = [load(builder, panel, panel_row, kind) for panel, kind in zip(panels, kinds, strict=True)]
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
        kind = total.type
        if self._factors.element != kind.element:
            return bf16.add_product(self._builder, x, y, total)
        # one FMA, or a multiplication and an addition on a processor without: llvm.fma would call the C library for each
        # number there
        name = f"llvm.fmuladd.v{kind.count}f{8 * item_bytes(kind)}"
        return call_llvm(self._builder, name, kind, [lanes_from(self._builder, x, 0, kind.count), y, total])


def _add_incoming(sums: list[list[Any]], values: list[list[Any]], block: Any) -> None:
    """Give the sums their values for a loop that is entered from ``block``."""
    for totals, some in zip(sums, values, strict=True):
        for total, value in zip(totals, some, strict=True):
            total.add_incoming(value, block)
