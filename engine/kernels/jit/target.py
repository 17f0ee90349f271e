"""The processor that Numba compiles for: this one, as NUMBA_CPU_NAME, NUMBA_CPU_FEATURES or NUMBA_ENABLE_AVX change it.

A name implies features, and the list of features adds some or removes some. So the compiler itself is the source: the
assembly of one small function shows which registers and instructions it uses.
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
    """Vector registers and instructions for floats."""

    vector_bytes: int  # of a register
    registers: int  # number of them
    fma: bool  # a product is added in one instruction
    avx512_bf16: bool  # products of bfloat16; False where it is not certain
    amx_bf16: bool  # products of bfloat16 on tiles; the system may still refuse them


def describe(triple: str, cpu: str, features: str) -> Target:
    """Return the target of LLVM's triple, processor and features; LLVM must be initialised for the triple."""
    machine = binding.Target.from_triple(triple).create_target_machine(cpu=cpu, features=features)
    assembly = machine.emit_assembly(binding.parse_assembly(_PROBE))
    vector_bytes = 64 if "zmm" in assembly else 32 if "ymm" in assembly else 16
    many = vector_bytes == 64 or triple.startswith(("aarch64", "arm64"))
    # a product that vfmadd213ps, fmla, ... do not add in one instruction needs vmulps, fmul, ...
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
