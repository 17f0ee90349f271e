"""One contestant in a process of its own, from both sides.

``python -m unrolled.bench.peers.contestant_process`` is the worker process: its first message names peer, setting and
workload, and the answer reports how long the first call took, what memory two steps took, and the arrays of the parity
check. Each further message is answered by the seconds of a step in one round of timing, which may follow steps that are not
counted. Between rounds the process waits without using the processor.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Mapping
from typing import Any

from unrolled.bench.machine.process_memory import peak_memory_mb
from unrolled.bench.peers.contestants import Contestant
from unrolled.bench.peers.registry import PEERS
from unrolled.bench.peers.workloads import Workload
from unrolled.engine.processes.messages import Message, pack_arrays
from unrolled.engine.processes.serving import serve
from unrolled.engine.processes.worker import WorkerProcess, python_module

CALIBRATION = 0.05  # seconds of steps, from which the number of steps of a round follows


class ContestantProcess(WorkerProcess):
    """Process of one setting of a peer.

    Args:
        job: ``peer``, ``setting``, ``workload``, ``threads``, and ``seconds`` of a round.
        patience: seconds to wait for any one answer.
    """

    def __init__(self, job: Mapping[str, Any], patience: float) -> None:
        super().__init__(python_module("unrolled.bench.peers.contestant_process"), job["threads"])
        self.patience = patience
        self.send(job)

    def answer(self) -> Message:
        """Return the next answer.

        Raises:
            WorkerError: the peer failed or died, or there was no answer in time.
        """
        return self.receive(self.patience)

    def measure(self, settle: float = 0.0) -> Message:
        """Measure one round, after ``settle`` seconds of steps that are not counted."""
        return self.ask({"settle": settle}, self.patience)


class TimedContestant:
    """Worker's side of the process: the first message sets the contestant up, each further one times a round."""

    def answer(self, message: Message) -> dict[str, Any]:
        """Return the answer to a message; see the module."""
        if "peer" in message:
            return self._set_up(message)
        until = time.perf_counter() + message["settle"]
        while time.perf_counter() < until:
            self._contestant.run()
        return self._time_round()

    def _set_up(self, job: Message) -> dict[str, Any]:
        peer, work = PEERS[job["peer"]], Workload(**job["workload"])
        make = peer.maker(work.task)
        assert make is not None  # the parent checked that the peer takes part in the task
        __import__(peer.needs)
        before = peak_memory_mb()
        started = time.perf_counter()
        self._contestant: Contestant = make(work, job["setting"], job["threads"])
        self._contestant.run()
        first_call = time.perf_counter() - started
        self._repeats = 1
        elapsed = self._time_round()["seconds"]
        memory = _memory(before)  # before parity, which takes a second model and copies of all parameters
        while self._repeats * elapsed < min(
            job["seconds"] / 4, CALIBRATION
        ):  # one call of some microseconds says little about many
            self._repeats *= 4
            elapsed = self._time_round()["seconds"]
        self._repeats = max(1, int(job["seconds"] / elapsed))
        arrays = pack_arrays(make(work, job["setting"], job["threads"]).parity())
        gc.collect()
        return {"first_call_s": first_call, **memory, "arrays": arrays}

    def _time_round(self) -> dict[str, Any]:
        started = time.perf_counter()
        for _ in range(self._repeats):
            self._contestant.run()
        return {"seconds": (time.perf_counter() - started) / self._repeats}


def _memory(before: float | None) -> dict[str, float | None]:
    """Return the peak of the process and its growth since ``before``."""
    peak = peak_memory_mb()
    return {"peak_rss_mb": peak, "step_rss_mb": None if peak is None or before is None else peak - before}


if __name__ == "__main__":
    serve(TimedContestant().answer)
