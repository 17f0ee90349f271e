"""Speed of batched generation on texts of all lengths, each engine in a process of its own.

Prompts have 5 to 200 tokens, outputs 1 to 400. The speed is compared with two others: that of full slots, with prompts of one
token and outputs of one length, so that no slot is ever empty and almost nothing is read; and that of fixed lengths, the means
of the same prompts and outputs, so that the same work is done in slots that all advance alike. Useful tokens are those that are
generated and, counted apart, those of prompts that are read: neither padding of a batch nor tokens after the end of a text.
``python -m unrolled.bench.batch`` is the worker process.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unrolled.bench.peers.workloads import Workload
from unrolled.engine.errors import ConfigError, ModelFileError
from unrolled.engine.processes.messages import Message
from unrolled.engine.processes.serving import serve
from unrolled.engine.processes.worker import WorkerDiedError, WorkerFailedError, WorkerProcess, python_module

PROMPT, OUTPUT = (5, 200), (1, 400)  # tokens
SEQUENTIAL_TEXTS = 48  # generated one after the other: about 10,000 tokens, seconds of every engine


@dataclass(frozen=True)
class BatchJob:
    """Measurement of one engine.

    Raises:
        ConfigError: there are fewer rows than lanes, which would never be full.
    """

    work: Workload
    engine: str
    rows: int
    lanes: int
    threads: int

    def __post_init__(self) -> None:
        if self.rows < self.lanes:
            raise ConfigError(f"rows: got {self.rows}, needs at least as many as lanes, which are {self.lanes}")


def _requests(prompts: Sequence[NDArray[np.int64]], lengths: NDArray[np.int64]) -> Iterator[Any]:
    from unrolled.runtime.generation.requests.config import GenerationConfig
    from unrolled.runtime.generation.requests.request import Request

    configs = {int(n): GenerationConfig(max_new_tokens=int(n), seed=1) for n in np.unique(lengths)}
    for index, (prompt, n) in enumerate(zip(prompts, lengths, strict=True)):
        yield Request("", prompt, index, configs[int(n)])


def _rate(
    model: Any, prompts: Sequence[NDArray[np.int64]], lengths: NDArray[np.int64], lanes: int
) -> tuple[float, float]:  # fmt: skip
    """Return tokens a second: generated, and together with those of the prompts."""
    from unrolled.runtime.generation.scheduler.scheduler import write_rows

    started = time.perf_counter()
    written = sum(len(text.tokens) for text in write_rows(model, _requests(prompts, lengths), lanes))
    seconds = time.perf_counter() - started
    return written / seconds, (written + sum(map(len, prompts))) / seconds


def run(job: BatchJob) -> dict[str, float]:
    """Return the rates of one engine: full slots, fixed lengths, texts of all lengths, and one after the other."""
    from unrolled.bench.peers.inputs import make_checkpoint
    from unrolled.runtime.models.engines import make_model

    model, rng, V = make_model(make_checkpoint(job.work), job.engine), np.random.default_rng(1), job.work.vocab
    prompts = [rng.integers(0, V, n) for n in rng.integers(PROMPT[0], PROMPT[1] + 1, job.rows)]
    lengths = rng.integers(OUTPUT[0], OUTPUT[1] + 1, job.rows)
    short, full = [prompt[:1] for prompt in prompts[: job.lanes]], np.full(job.lanes, OUTPUT[1])
    same = rng.integers(0, V, (2 * job.lanes, sum(PROMPT) // 2))
    _rate(model, prompts[: job.lanes], full // 40, job.lanes)  # compiles, and sets up everything that is made once
    before, _ = _rate(model, short, full, job.lanes)
    written, both = _rate(model, prompts, lengths, job.lanes)
    _, fixed = _rate(model, list(same), np.full(len(same), sum(OUTPUT) // 2), job.lanes)
    after, _ = _rate(model, short, full, job.lanes)
    _rate(model, prompts[:2], lengths[:2], 1)
    alone_written, alone = _rate(model, prompts[:SEQUENTIAL_TEXTS], lengths[:SEQUENTIAL_TEXTS], 1)
    return {
        "full": (before + after) / 2, "written": written, "read_too": both, "fixed": fixed,
        "alone_written": alone_written, "alone": alone,
    }  # fmt: skip


def measure_batch(job: BatchJob) -> dict[str, Any]:
    """Measure a round of one engine in its own process.

    Raises:
        ModelFileError: the process failed; the message has its last line.
    """
    with WorkerProcess(python_module("unrolled.bench.batch"), job.threads) as worker:
        try:
            return worker.ask(asdict(job))
        except (WorkerFailedError, WorkerDiedError) as error:
            raise ModelFileError(f"{job.engine}: {error.last_line or 'no message'}") from error


BATCH_COLUMNS = (
    "full lanes, tokens/s", "written, tokens/s", "of full lanes", "and prompts read", "of full lanes", "spread",
    "of fixed lengths", "of those", "one by one", "times that",
)  # fmt: skip


def batch_cells(rounds: Sequence[dict[str, float]]) -> list[str]:
    """Return a column of the table: medians over rounds, and the spread of the rates with prompts."""
    names = ("full", "written", "read_too", "fixed", "alone")
    full, written, both, fixed, alone = (statistics.median(rates[name] for rates in rounds) for name in names)
    apart = [rates["read_too"] for rates in rounds]
    return [
        f"{full:,.0f}", f"{written:,.0f}", f"{written / full:.0%}", f"{both:,.0f}", f"{both / full:.0%}",
        f"{(max(apart) - min(apart)) / both:.0%}", f"{fixed:,.0f}", f"{both / fixed:.0%}", f"{alone:,.0f}",
        f"{both / alone:.1f}",
    ]  # fmt: skip


def _answer(values: Message) -> dict[str, float]:
    return run(BatchJob(**{**values, "work": Workload(**values["work"])}))


if __name__ == "__main__":
    serve(_answer)
