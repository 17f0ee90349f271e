"""Vectors as wide as the target of Numba, whose settings can make it narrower than the processor."""

from __future__ import annotations

import os
import platform
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from llvmlite import binding
from numba import njit

from unrolled.engine.kernels.gemm import matmul, microkernel
from unrolled.engine.kernels.gemm.rhs_packing import pack
from unrolled.engine.kernels.jit.target import TARGET, Target, describe, has_tiles

ALL_WIDTHS = [
    "test_activations.py",
    "test_vectors.py",
    "test_row_passes.py",
    "test_widths.py",
    "../network/test_engines.py::test_kernels_equal_the_reference_array_by_array",
    "../network/test_engines.py::test_a_transposed_product_takes_columns_and_sums_more",
    "test_products.py",
    "test_shared_work.py",
]
MORE_OF_AVX2 = [  # the width that most people's processors have: the output layer, sampling, optimisers and bits, too
    "../network/test_engines.py::test_cross_entropy_equals_the_reference",
    "../network/test_engines.py::test_gradients_of_the_first_layer_equal_the_reference",
    "test_decode.py",
    "test_flow.py::test_rows_that_flow_write_what_each_writes_alone",
    "test_bitwise.py",
    "test_bf16.py::test_products_are_those_of_rounded_factors",
]

REGISTERS = {64: "zmm", 32: "ymm", 16: "xmm"}
AVX2 = {"NUMBA_CPU_NAME": "haswell", "NUMBA_CPU_FEATURES": "+avx2,+fma"}
SSE2 = {"NUMBA_CPU_NAME": "generic"}

x86_only = pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="names registers of x86-64")


def test_the_tests_to_repeat_exist() -> None:
    for test in ALL_WIDTHS + MORE_OF_AVX2:
        file, _, name = test.partition("::")
        assert f"def {name}" in (Path(__file__).parent / file).read_text("utf-8"), test


def widest(assembly: str) -> int:
    """Return the bytes of the widest register in it."""
    return max((size for size, name in REGISTERS.items() if re.search(rf"%{name}\d", assembly)), default=0)


def product_assembly() -> str:
    """Return the assembly of the product on one thread in float32, compiled again because Numba shows none of cached code."""
    add_product = njit(matmul.add_product.py_func)
    a, c = np.ones(6, np.float32), np.zeros(10, np.float32)
    add_product(a, 0, 3, 1, pack(np.ones((3, 5), np.float32)), c, 0, 5, 2, 5, False)
    assert (c == 3).all()
    return "".join(add_product.inspect_asm().values())


@x86_only
@pytest.mark.parametrize(
    ("cpu", "features", "expected"),
    [
        ("generic", "", Target(16, 16, False, False, False)),
        ("haswell", "", Target(32, 16, True, False, False)),
        ("haswell", "-fma", Target(32, 16, False, False, False)),
        ("x86-64-v3", "", Target(32, 16, True, False, False)),
        ("skylake-avx512", "", Target(64, 32, True, False, False)),
        ("skylake-avx512", "+avx512bf16", Target(64, 32, True, True, False)),
        ("skylake-avx512", "+avx512bf16,+amx-tile", Target(64, 32, True, True, False)),
        ("skylake-avx512", "+avx512bf16,+amx-tile,+amx-bf16", Target(64, 32, True, True, True)),
        ("znver4", "-avx512f", Target(32, 16, True, False, False)),
    ],
)
def test_the_compiler_says_what_a_target_has(cpu: str, features: str, expected: Target) -> None:
    assert describe(binding.get_process_triple(), cpu, features) == expected


def test_arm_has_32_narrow_registers() -> None:
    binding.initialize_all_targets()
    binding.initialize_all_asmprinters()
    assert describe("aarch64-unknown-linux-gnu", "generic", "") == Target(16, 32, True, False, False)


def test_the_tile_leaves_registers_for_its_factors() -> None:
    for rows, width in ((microkernel.TILE_ROWS, microkernel.WIDE), (microkernel.FEW_ROWS, 4)):
        assert rows * width + width + 1 <= TARGET.registers  # sums, a row of the panels, one number of A


@x86_only
def test_products_use_the_widest_registers_and_none_that_are_wider() -> None:
    assembly = product_assembly()
    assert widest(assembly) == TARGET.vector_bytes
    assert ("vfmadd" in assembly) == TARGET.fma
    assert "fmaf" not in assembly  # the C library's, for each number


def test_alarm_wider_registers_are_seen() -> None:
    assert [widest(f"vmovups (%rax), %{name}3") for name in ("zmm", "ymm", "xmm")] == [64, 32, 16]
    assert widest("movq %rax, %rbx") == 0


def run(settings: dict[str, str], cache: Path, *arguments: str) -> str:
    environment = {**os.environ, **settings, "NUMBA_CACHE_DIR": str(cache)}
    done = subprocess.run([sys.executable, *arguments], env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    return done.stdout


@pytest.mark.slow
@x86_only
@pytest.mark.parametrize(("settings", "width"), [(AVX2, 32), (SSE2, 16)], ids=["avx2", "sse2"])
def test_narrower_targets_compute_the_same(settings: dict[str, str], width: int, tmp_path: Path) -> None:
    """Repeat tests of kernels with all of them compiled for the narrower target."""
    if TARGET.vector_bytes < width:
        pytest.skip("this processor has no AVX2")
    told = run(
        settings, tmp_path, "-c", "from unrolled.engine.kernels.jit.target import TARGET; print(TARGET.vector_bytes)"
    )
    assert int(told) == width
    here, tests = Path(__file__).parent, ALL_WIDTHS + (MORE_OF_AVX2 if settings == AVX2 else [])
    files = [str(here / test) for test in tests]
    out = run(settings, tmp_path, "-m", "pytest", "-n0", "-q", "-k", "not float64", *files)
    assert re.search(r"\d+ passed", out)
    assert "failed" not in out


@pytest.mark.slow
@pytest.mark.skipif(not has_tiles(), reason="tests of bfloat16 run without the processor's tiles as it is")
def test_bfloat16_without_the_tiles_of_the_processor(tmp_path: Path) -> None:
    settings = {"NUMBA_CPU_FEATURES": "+avx512bf16,-amx-tile,-amx-bf16"}
    asked = (
        "from unrolled.engine.kernels.jit.target import has_tiles; from unrolled.engine.kernels.simd import bf16; "
        "print(bf16.available(), has_tiles())"
    )
    assert run(settings, tmp_path, "-c", asked).split() == ["True", "False"]
    few = "products or (gradients and lstm)"  # each kernel is compiled anew
    out = run(settings, tmp_path, "-m", "pytest", "-n0", "-q", "-k", few, str(Path(__file__).parent / "test_bf16.py"))
    assert re.search(r"\d+ passed", out)
    assert "failed" not in out
