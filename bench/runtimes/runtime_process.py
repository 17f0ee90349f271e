"""The process of a runtime, which runs exported graphs in an interpreter or in Node.

``graph_process.py`` runs in environments without this package, and ``graph_process.mjs`` in Node: both speak the protocol of
``unrolled.engine.processes`` without importing it. Before the first question they send their ``version``, or ``missing``.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib import resources
from pathlib import Path

from numpy.typing import NDArray

from unrolled.bench.runtimes.registry import HOSTS, Runtime
from unrolled.engine.errors import UnrolledError
from unrolled.engine.processes.messages import pack_arrays, unpack_arrays
from unrolled.engine.processes.worker import WorkerDiedError, WorkerFailedError, WorkerProcess
from unrolled.export.artifact.forms import FORMS

PROGRAMS = Path(str(resources.files("unrolled.bench.runtimes")))
# Operators for onnx's reference evaluator, whose own RNN, GRU and LSTM ignore the lengths of prompts and whose RNN has no Relu;
# a checkout has them among its tests.
OPERATORS = HOSTS.parents[1] / "tests" / "support" / "onnx_operators.py"


class RuntimeLostError(UnrolledError):
    """A runtime's process ended, or the runtime is not installed."""


class RuntimeProcess(WorkerProcess):
    """The process of a runtime; ``version`` is the runtime's.

    Raises:
        RuntimeLostError: the runtime is not installed, or the process died.
    """

    def __init__(self, runtime: Runtime, command: Sequence[str]) -> None:
        super().__init__(command)
        self._options = runtime.options
        try:
            hello = self.receive()
            if "missing" in hello:
                raise RuntimeLostError(hello["missing"])
        except WorkerDiedError as error:
            self.stop()
            raise _lost(error) from error
        except BaseException:
            self.stop()
            raise
        self.version: str = hello["version"]

    def run(self, path: Path, form: str, inputs: Sequence[dict[str, NDArray]]) -> list[dict[str, NDArray]] | str:
        """Return the outputs of each call, or the runtime's error.

        Raises:
            RuntimeLostError: the process died.
        """
        job = {
            "path": str(path),
            "options": self._options,
            "inputs": [pack_arrays(arrays) for arrays in inputs],
            "outputs": list(FORMS[form].outputs),
        }
        try:
            answer = self.ask(job)
        except WorkerFailedError as error:
            return error.text
        except WorkerDiedError as error:
            raise _lost(error) from error
        return [unpack_arrays(outputs) for outputs in answer["outputs"]]


def _lost(error: WorkerDiedError) -> RuntimeLostError:
    return RuntimeLostError(f"the process ended with code {error.code}")


def command_of(runtime: Runtime, python: str, hosts: Path) -> list[str]:
    """Return the command that starts the runtime's process.

    Args:
        runtime: from ``RUNTIMES``.
        python: the interpreter that has the Python packages of the runtimes.
        hosts: folder with ``node`` and ``web``, in which npm installed onnxruntime's packages.

    Raises:
        RuntimeLostError: its npm package is not installed.
    """
    if runtime.module:
        operators = str(OPERATORS) if OPERATORS.exists() else ""
        return [python, str(PROGRAMS / "graph_process.py"), runtime.module, operators]
    folder = hosts / runtime.package / "node_modules" / f"onnxruntime-{runtime.package}"
    if not folder.exists():
        raise RuntimeLostError(f"{folder} is not there: npm install in {folder.parents[1]}")
    return ["node", str(PROGRAMS / "graph_process.mjs"), str(folder)]
