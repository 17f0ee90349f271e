"""How much of an engine's speed is left when texts of all lengths are written, each engine in a process of its own.

Prompts of 5 to 200 tokens, outputs of 1 to 400. The engine's own speed is that of full lanes: prompts of one token, and
outputs of one length, so that no lane is ever empty and next to nothing is read. Useful are the tokens that are written
and, counted apart, those of the prompts that are read: not what fills a batch up, nor what comes behind an end.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unrolled.bench.workloads import Workload
from unrolled.engine.errors import ModelFileError
from unrolled.engine.threads import THREAD_VARIABLES

PROMPT, OUTPUT = (5, 200), (1, 400)  # tokens
ALONE = 12  # texts written one by one


@dataclass(frozen=True)
class BatchJob:
    """What a worker measures."""

    work: Workload
    engine: str
    rows: int
    lanes: int
    threads: int


def _requests(prompts: Sequence[NDArray[np.int64]], lengths: NDArray[np.int64]) -> Iterator[Any]:
    from unrolled.runtime.config import GenerationConfig
    from unrolled.runtime.rows import Request

    configs = {int(n): GenerationConfig(max_new_tokens=int(n), seed=1) for n in np.unique(lengths)}
    for index, (prompt, n) in enumerate(zip(prompts, lengths, strict=True)):
        yield Request("", prompt, index, configs[int(n)])


def _rate(model: Any, prompts: Sequence[NDArray[np.int64]], lengths: NDArray[np.int64], lanes: int) -> dict[str, float]:
    """Tokens a second: written, and with those of the prompts."""
    from unrolled.runtime.lanes import write_rows

    started = time.perf_counter()
    written = sum(len(text.tokens) for text in write_rows(model, _requests(prompts, lengths), lanes))
    seconds = time.perf_counter() - started
    return {"written": written / seconds, "read_too": (written + sum(map(len, prompts))) / seconds}


def run(job: BatchJob) -> dict[str, float]:
    """Rates of one engine: all lanes full, texts of all lengths, and one by one."""
    from unrolled.bench.peers import make_checkpoint
    from unrolled.runtime.adapters import make_model

    model, rng, V = make_model(make_checkpoint(job.work), job.engine), np.random.default_rng(1), job.work.vocab
    prompts = [rng.integers(0, V, n) for n in rng.integers(PROMPT[0], PROMPT[1] + 1, job.rows)]
    lengths = rng.integers(OUTPUT[0], OUTPUT[1] + 1, job.rows)
    short, full = [prompt[:1] for prompt in prompts[: job.lanes]], np.full(job.lanes, OUTPUT[1])
    _rate(model, prompts[: job.lanes], full // 40, job.lanes)  # compiles, and makes what is made once
    before = _rate(model, short, full, job.lanes)["written"]
    mixed = _rate(model, prompts, lengths, job.lanes)
    after = _rate(model, short, full, job.lanes)["written"]
    alone = _rate(model, prompts[:ALONE], lengths[:ALONE], 1)["written"]
    return {"full": (before + after) / 2, **mixed, "alone": alone}


def measure_batch(job: BatchJob) -> dict[str, Any]:
    """A round of one engine, in its own process.

    Raises:
        ModelFileError: the process failed; what it said is the message.
    """
    command = [sys.executable, "-m", "unrolled.bench.batch"]
    environment = {**os.environ, **dict.fromkeys(THREAD_VARIABLES, str(job.threads)), "PYTHONWARNINGS": "ignore"}
    done = subprocess.run(command, input=json.dumps(asdict(job)), capture_output=True, text=True, env=environment)
    if done.returncode:
        raise ModelFileError(f"{job.engine}: {(done.stderr.strip() or 'no message').splitlines()[-1]}")
    return json.loads(done.stdout)


BATCH_COLUMNS = ("full lanes tok/s", "written tok/s", "of full", "with prompts", "of full", "one by one", "times that")


def batch_cells(rates: dict[str, float]) -> list[str]:
    """A row of the table."""
    full, written, both, alone = (rates[key] for key in ("full", "written", "read_too", "alone"))
    return [
        f"{full:,.0f}", f"{written:,.0f}", f"{written / full:.0%}", f"{both:,.0f}", f"{both / full:.0%}",
        f"{alone:,.0f}", f"{written / alone:.1f}",
    ]  # fmt: skip


def main() -> None:
    """A job on standard input, its rates on standard output."""
    values = json.load(sys.stdin)
    print(json.dumps(run(BatchJob(**{**values, "work": Workload(**values["work"])}))))


if __name__ == "__main__":
    main()
