"""One contestant in a process of its own: ``python -m unrolled.bench.contestant_process``, a JSON line in, a JSON line out.

The first line is the job; the answer says how long the first call took and what memory two steps took. Then each line asks
for one round of timing, and the answer is the seconds of a step; between them the process waits without using the processor.
"""

from __future__ import annotations

import gc
import json
import os
import queue
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from unrolled.bench.peers import PEERS
from unrolled.bench.workloads import Workload


def memory_mb() -> float | None:
    """The most memory this process has had, in MB; None where the system does not tell."""
    status = Path("/proc/self/status")
    if status.exists():  # Linux; what getrusage tells there begins with the peak of the process that started this one
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) / (1 << 10)
    try:
        import resource
    except ImportError:
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1 << 20 if sys.platform == "darwin" else 1 << 10)


def _memory(before: float | None) -> dict[str, float | None]:
    """The peak of the process, and what it grew by since ``before``."""
    peak = memory_mb()
    return {"peak_rss_mb": peak, "step_rss_mb": None if peak is None or before is None else peak - before}


def answers(job: dict[str, Any], asked: Iterator[str]) -> Iterator[dict[str, Any]]:
    """What is said to the job, and to every line after it."""
    if job["peer"] == "limits":
        from unrolled.bench.machine.limits import measure_limits

        yield measure_limits(job["threads"])
        return
    peer, work = PEERS[job["peer"]], Workload(**job["workload"])
    make = peer.maker(work.suite)
    assert make is not None  # the runner asks for what there is
    __import__(peer.needs)
    before = memory_mb()
    started = time.perf_counter()
    contestant = make(work, job["setting"], job["threads"])
    contestant.run()
    first_call = time.perf_counter() - started
    started = time.perf_counter()
    contestant.run()
    repeats = max(1, int(job["seconds"] / (time.perf_counter() - started)))
    memory = _memory(before)  # before parity, which takes a second model and copies of all parameters
    arrays: Any = make(work, job["setting"], job["threads"]).parity()
    np.savez(job["output"], **arrays)
    del arrays
    gc.collect()
    yield {"first_call_s": first_call, **memory}
    for _ in asked:
        started = time.perf_counter()
        for _ in range(repeats):
            contestant.run()
        yield {"seconds": (time.perf_counter() - started) / repeats}


def _lines() -> Iterator[str]:
    """The lines of the input, which a thread reads: it ends the process when its parent is gone.

    Else a worker whose bench was killed would measure on to its next question, beside what is measured then.
    """
    parent, lines = os.getppid(), queue.SimpleQueue[str | None]()

    def read() -> None:
        with open(0, "rb", buffering=0, closefd=False) as asked:  # a buffer's lock would be held when the process ends
            for line in asked:
                lines.put(line.decode())
        lines.put(None)
        while os.getppid() == parent:  # which closed the input, but waits for answers
            time.sleep(0.5)
        os._exit(1)

    threading.Thread(target=read, daemon=True).start()
    return iter(lines.get, None)


def main() -> None:
    """Answer until the input ends; an error that a peer raises is an answer too."""
    asked = _lines()
    job = json.loads(next(asked, ""))
    try:
        for answer in answers(job, asked):
            print(json.dumps(answer), flush=True)
    except Exception as error:  # whatever a peer raises is its result
        print(json.dumps({"error": f"{type(error).__name__}: {(str(error) or '-').splitlines()[0]}"}), flush=True)


if __name__ == "__main__":
    main()
