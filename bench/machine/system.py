"""Description of the machine that measurements ran on: processor, threads, versions."""

from __future__ import annotations

import os
import platform
from importlib import metadata
from pathlib import Path
from typing import Any

from unrolled.engine.cores import usable_cores

PACKAGES = (
    "unrolled",
    "numpy",
    "numba",
    "llvmlite",
    "onnx",
    "onnxruntime",
    "torch",
    "safetensors",
    "matplotlib",
)


def processor_name() -> str:
    """Return the processor's name, or its architecture where the system does not report the name."""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def package_version(name: str) -> str | None:
    """Return the version of an installed distribution; None where it is not installed."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def physical_cores() -> int:
    """Return the cores this process may use, a core that runs two threads counted once.

    Where the system does not report siblings, it is ``usable_cores``.
    """
    if not hasattr(os, "sched_getaffinity"):
        return usable_cores()
    siblings = set()
    for cpu in os.sched_getaffinity(0):
        try:
            path = Path(f"/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list")
            siblings.add(path.read_text().strip())
        except OSError:
            siblings.add(str(cpu))
    return len(siblings)


def system_info() -> dict[str, Any]:
    """Return JSON values: processor, cores, system, Python, vectors and threads of the Numba engine, versions."""
    return {
        "processor": processor_name(),
        "cores": usable_cores(),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "python": platform.python_version(),
        "numba": _numba_info(),
        "versions": {name: package_version(name) for name in PACKAGES},
    }


def _numba_info() -> dict[str, Any]:
    try:
        import numba

        from unrolled.engine.kernels.gemm.microkernel import TILE_ROWS, VECTOR_BYTES, WIDE
        from unrolled.engine.kernels.jit.target import TARGET, has_tiles
        from unrolled.engine.kernels.threads.thread_pool import threading_layer
    except ImportError as error:
        return {"error": str(error)}
    return {
        "threads": numba.get_num_threads(),
        "threading_layer": threading_layer(),
        "vector": f"{TARGET.vector_bytes * 8} bits, {TARGET.vector_bytes // 4} float32",
        "tile": f"{TILE_ROWS} rows of {WIDE * VECTOR_BYTES // 4} float32",
        "fma": TARGET.fma,
        "avx512_bf16": TARGET.avx512_bf16,
        "amx_bf16": has_tiles(),
        "target": getattr(numba.config, "CPU_NAME", None) or "this processor",
    }
