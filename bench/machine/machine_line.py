"""The first line of a file of measurements: the machine and its limits.

``python -m unrolled.bench.machine.machine_line`` is the worker process that measures the limits, so that their kernels and
threads are not those of the benchmark itself.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from unrolled.bench.machine.system import system_info
from unrolled.engine.processes.messages import Message
from unrolled.engine.processes.serving import serve
from unrolled.engine.processes.worker import WorkerProcess, python_module

LIMITS_TIMEOUT = 300.0  # seconds


def machine_line(threads: int) -> dict[str, Any]:
    """Return date, threads, ``system_info`` and the limits of this machine.

    Raises:
        WorkerError: the limits could not be measured.
    """
    with WorkerProcess(python_module("unrolled.bench.machine.machine_line"), threads) as worker:
        limits = worker.ask({"threads": threads}, LIMITS_TIMEOUT)
    when = datetime.now(UTC).isoformat(timespec="seconds")
    return {"suite": "machine", "date": when, "threads": threads, **system_info(), "limits": limits}


def _answer(message: Message) -> dict[str, Any]:
    from unrolled.bench.machine.limits import measure_limits

    return measure_limits(message["threads"])


if __name__ == "__main__":
    serve(_answer)
