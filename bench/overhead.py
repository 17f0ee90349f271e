"""Overhead of the host: the time that a token of one text takes in Python beside the run of the graph in onnxruntime."""

from __future__ import annotations

import statistics
import time
from typing import Any

from unrolled.bench.peers.inputs import make_checkpoint
from unrolled.bench.peers.workloads import Workload

OVERHEAD_COLUMNS = ("host", "spread", "graph")
SAMPLING_KINDS: dict[str, dict[str, Any]] = {
    "sampled": {},
    "temperature 0.8": {"temperature": 0.8},
    "greedy": {"do_sample": False},
}


class TimedSession:
    """Session of onnxruntime that counts the seconds inside its runs; its two reads of the clock count for the host."""

    def __init__(self, session: Any) -> None:
        self._session, self.seconds = session, 0.0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._session, name)

    def run_with_iobinding(self, *args: Any) -> None:
        started = time.perf_counter()
        self._session.run_with_iobinding(*args)
        self.seconds += time.perf_counter() - started

    def run(self, *args: Any) -> Any:
        started = time.perf_counter()
        outputs = self._session.run(*args)
        self.seconds += time.perf_counter() - started
        return outputs


def measure_overhead(work: Workload, tokens: int, rounds: int) -> dict[str, list[str]]:
    """Return, for each kind of sampling, the texts of ``OVERHEAD_COLUMNS``: microseconds a token, medians of rounds in turn."""
    from unrolled.runtime.generation.generate import generate
    from unrolled.runtime.models.onnx_model import open_checkpoint

    model: Any = open_checkpoint(make_checkpoint(work))
    session = model.session = TimedSession(model.session)
    prompt = model.tokenizer.decode([0])
    host: dict[str, list[float]] = {name: [] for name in SAMPLING_KINDS}
    graph: dict[str, list[float]] = {name: [] for name in SAMPLING_KINDS}
    for n in range(rounds + 1):
        for name, settings in SAMPLING_KINDS.items():
            session.seconds = 0.0
            started = time.perf_counter()
            generate(model, [prompt], max_new_tokens=tokens, **settings)
            seconds = time.perf_counter() - started
            if n > 0:  # the first is not counted: caches and threads wake up
                host[name].append((seconds - session.seconds) / tokens * 1e6)
                graph[name].append(session.seconds / tokens * 1e6)
    return {
        name: [
            f"{statistics.median(host[name]):.1f}",
            f"{max(host[name]) - min(host[name]):.1f}",
            f"{statistics.median(graph[name]):.1f}",
        ]
        for name in SAMPLING_KINDS
    }
