"""Findings: which exported ONNX file runs in which runtime, and how far its results are from those of the NumPy engine.

Each runtime has a process of its own, in an interpreter or npm package that need not be those of this one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from unrolled.bench.runtimes.cases import ExpectedCall, ExportedFile, export_files
from unrolled.bench.runtimes.registry import Runtime
from unrolled.bench.runtimes.runtime_process import RuntimeLostError, RuntimeProcess, command_of


class Finding(NamedTuple):
    """Result of one file in one runtime.

    Args:
        logits: largest difference of a logit from the NumPy engine's; None in a form without logits.
        tokens: share of the generated tokens up to each row's first difference, in forms that write; 1 is equality.
        error: the reason why the file did not run.
    """

    runtime: str
    version: str
    cell: str
    form: str
    storage: str
    logits: float | None = None
    tokens: float | None = None
    error: str | None = None


def compared(got: list[dict[str, NDArray]], expected: list[ExpectedCall]) -> dict[str, float | str]:
    """Return the figures of a ``Finding``.

    Args:
        got: outputs of the runtime, call by call.
        expected: the same of the NumPy engine; NaN is not compared.
    """
    worst: list[Any] = []
    equal: list[NDArray] = []
    for outputs, (_, wanted) in zip(got, expected, strict=True):
        for name, value in wanted.items():
            if outputs[name].shape != value.shape:
                return {"error": f"{name} has shape {outputs[name].shape}, must have {value.shape}"}
            if name == "written":
                equal.append(np.minimum.accumulate(outputs[name] == value))
            else:
                known = np.isfinite(value)
                worst.append(np.abs(outputs[name].astype(np.float64) - value)[known].max())
    figures: dict[str, float | str] = {}
    if worst:
        figures["logits"] = float(np.max(worst))  # NaN if one is
    if equal:
        figures["tokens"] = float(np.mean(equal))
    return figures


def findings(
    folder: Path, python: str, hosts: Path, runtimes: Sequence[Runtime], cells: Sequence[str]
) -> Iterator[Finding]:
    """Export each form and storage of each cell to ``folder``, and run every file in every runtime.

    Args:
        python: the interpreter that has the Python packages of the runtimes.
        hosts: a folder with ``node`` and ``web``, in which npm installed onnxruntime's packages.
    """
    files = list(export_files(folder, cells))
    for runtime in runtimes:
        left = list(files)
        while left:  # a process that a file ends is started again for the next one
            try:
                with RuntimeProcess(runtime, command_of(runtime, python, hosts)) as process:
                    yield from _findings(runtime, process, left)
            except RuntimeLostError as error:
                yield Finding(runtime.title, "", "", "", "", error=f"skipped: {error}")
                break


def _findings(runtime: Runtime, process: RuntimeProcess, left: list[ExportedFile]) -> Iterator[Finding]:
    """Run the files that are left, and take them from the list, up to one that ends the process."""
    while left:
        file = left.pop(0)
        about = (runtime.title, process.version, *file.about)
        try:
            got = process.run(file.path, file.about[1], [call.inputs for call in file.expected])
        except RuntimeLostError as error:
            yield Finding(*about, error=str(error))
            return
        figures: Any = {"error": got} if isinstance(got, str) else compared(got, file.expected)
        yield Finding(*about, **figures)
