"""What Numba compiles for: this processor, or what NUMBA_CPU_NAME, NUMBA_CPU_FEATURES or NUMBA_ENABLE_AVX make of it.

A name brings features along, and the list of features adds to them or takes some away. So the compiler itself is asked:
one small function shows which registers and instructions it uses.
"""

from __future__ import annotations

import ctypes
import functools
import sys
from typing import NamedTuple

from llvmlite import binding

from unrolled.engine.kernels.jit.numba_internals import target_machine

_PROBE = """
declare <16 x float> @llvm.fmuladd.v16f32(<16 x float>, <16 x float>, <16 x float>)
define <16 x float> @probe(<16 x float> %a, <16 x float> %b, <16 x float> %c) {
  %y = call <16 x float> @llvm.fmuladd.v16f32(<16 x float> %a, <16 x float> %b, <16 x float> %c)
  ret <16 x float> %y
}
"""


class Target(NamedTuple):
    """Of vector registers for floats: the bytes of one, and how many there are."""

    vector_bytes: int
    registers: int
    fma: bool  # a product is added in one instruction
    avx512_bf16: bool  # products of bfloat16; False where it is not certain
    amx_bf16: bool  # the same on tiles; the system may still refuse them


def describe(triple: str, cpu: str, features: str) -> Target:
    """The target of these three, in LLVM's words; its part of LLVM must be initialised."""
    machine = binding.Target.from_triple(triple).create_target_machine(cpu=cpu, features=features)
    assembly = machine.emit_assembly(binding.parse_assembly(_PROBE))
    vector_bytes = 64 if "zmm" in assembly else 32 if "ymm" in assembly else 16
    many = vector_bytes == 64 or triple.startswith(("aarch64", "arm64"))
    # vmulps, fmul, ... stand where a product is not added at once by vfmadd213ps, fmla, ...
    fma = "mul" not in assembly
    listed = set(features.split(","))
    in_pairs = vector_bytes == 64 and "+avx512bf16" in listed
    return Target(vector_bytes, 32 if many else 16, fma, in_pairs, in_pairs and {"+amx-tile", "+amx-bf16"} <= listed)


TARGET = describe(*target_machine())

_REQUEST, _TILE_DATA = 0x1023, 18  # arch_prctl's ARCH_REQ_XCOMP_PERM for XFEATURE_XTILEDATA (Linux 5.16)
_ARCH_PRCTL = 158  # x86-64


@functools.cache
def has_tiles() -> bool:
    """Return whether this process may multiply on AMX tiles; the first call requests them from the system."""
    return TARGET.amx_bf16 and _request_tiles()


def _request_tiles() -> bool:
    """Request tiles for this process, its threads and the children that it forks; return whether they are granted."""
    if not sys.platform.startswith("linux"):
        return False
    try:
        return ctypes.CDLL(None).syscall(_ARCH_PRCTL, _REQUEST, _TILE_DATA) == 0
    except (OSError, AttributeError):
        return False
