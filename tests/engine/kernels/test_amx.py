"""Products on AMX tiles: permission to use tiles, their shapes, and their use by products on processors that have them."""

from __future__ import annotations

import ctypes
import re
import sys

import numpy as np
import pytest
from numba import njit

from unrolled.engine.kernels.gemm import amx, matmul
from unrolled.engine.kernels.gemm.packing import bf16_packing
from unrolled.engine.kernels.gemm.rhs_packing import pack
from unrolled.engine.kernels.jit import target
from unrolled.engine.kernels.jit.target import has_tiles


def test_shapes_of_tiles_for_every_number_of_rows() -> None:
    every = amx._configurations()
    assert len(every) == 33 * 64
    for rows in range(1, 33):
        one = every[64 * rows : 64 * (rows + 1)]
        assert one[0] == 1  # the palette, of eight tiles
        assert [int.from_bytes(one[16 + 2 * tile : 18 + 2 * tile], "little") for tile in range(8)] == [64] * 8
        first, second = min(rows, 16), rows - 16
        few = [first, first, first, first, first, 16, 16, 16]
        many = [first, first, second, second, first, second, 16, 16]
        assert list(one[48:56]) == (few if rows <= 16 else many)


class Library:
    def __init__(self, result: int) -> None:
        self.result = result
        self.asked: list[tuple[int, ...]] = []

    def syscall(self, *arguments: int) -> int:
        self.asked.append(arguments)
        return self.result


@pytest.mark.parametrize(("result", "permitted"), [(0, True), (-1, False)])
def test_linux_is_asked_for_tiles(result: int, permitted: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    library = Library(result)
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(ctypes, "CDLL", lambda name: library)
    assert target._request_tiles() == permitted
    assert library.asked == [(158, 0x1023, 18)]


def test_other_systems_and_libraries_have_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ctypes, "CDLL", lambda name: object())
    monkeypatch.setattr(sys, "platform", "linux")
    assert not target._request_tiles()
    monkeypatch.setattr(sys, "platform", "win32")
    assert not target._request_tiles()


@pytest.mark.skipif(not has_tiles(), reason="this processor has no tiles")
def test_products_in_bf16_run_on_tiles() -> None:
    product = njit(matmul.add_product.py_func)  # anew, because Numba does not show what it has cached
    panels = pack(np.ones((8, 40), np.float32), bf16_packing())
    words = np.zeros((3, panels.shape[1]), np.int32)
    words[:, :4] = 0x3F803F80  # one and one
    c = np.zeros((3, 48), np.float32)
    product(words.reshape(-1), 0, panels.shape[1], 1, panels, c.reshape(-1), 0, 48, 3, 40, False)
    np.testing.assert_array_equal(c, np.repeat([[8.0, 0.0]], [40, 8], axis=1).repeat(3, axis=0))
    assembly = "".join(product.inspect_asm().values())
    assert re.search(r"\btdpbf16ps\b", assembly)
    assert "vdpbf16ps" not in assembly
