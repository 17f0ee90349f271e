"""Busy neighbours: other processes that keep cores busy while a benchmark measures what an engine still reaches.

``python -m unrolled.bench.machine.neighbours`` is the process of one neighbour.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from types import TracebackType
from typing import Any, Self

from unrolled.engine.processes.messages import Message
from unrolled.engine.processes.serving import serve
from unrolled.engine.processes.worker import WorkerProcess, python_module

TIMEOUT = 60.0  # seconds for a neighbour to start or stop spinning
ROUNDS = 1000  # of arithmetic between two checks of whether to stop: some ten microseconds


class BusyNeighbours:
    """Processes of one busy thread each, at the usual priority; they end with the context, and with the parent.

    Args:
        count: number of processes; 0: none.
    """

    def __init__(self, count: int) -> None:
        self.count = count
        self._processes: list[WorkerProcess] = []
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        with ExitStack() as started:
            for _ in range(self.count):
                command = python_module("unrolled.bench.machine.neighbours")
                self._processes.append(started.enter_context(WorkerProcess(command, threads=1)))
            self._stack = started.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    @property
    def pids(self) -> list[int]:
        """Return the ids of the processes."""
        return [process.pid for process in self._processes]

    @contextmanager
    def spinning(self) -> Iterator[None]:
        """Keep ``count`` cores busy inside the context; otherwise the processes wait without using a processor.

        Raises:
            WorkerError: a neighbour died, so what was measured beside it does not count.
        """
        for process in self._processes:
            process.ask({"spin": True}, TIMEOUT)
        yield
        for process in self._processes:
            process.ask({"spin": False}, TIMEOUT)


class Neighbour:
    """The side of the process: messages start and stop a spinning thread."""

    def __init__(self) -> None:
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def answer(self, message: Message) -> dict[str, Any]:
        """Start or stop to spin, as the message says; return an empty answer when it is done."""
        if self._thread is not None:
            self._stop.set()
            self._thread.join()
            self._thread = None
        if message["spin"]:
            self._stop.clear()
            self._thread = threading.Thread(target=self._spin, daemon=True)
            self._thread.start()
        return {}

    def _spin(self) -> None:
        value = 1
        while not self._stop.is_set():
            for number in range(ROUNDS):
                value = (value * 31 + number) % 65_521


if __name__ == "__main__":
    serve(Neighbour().answer)
