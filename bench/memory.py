"""Peak memory of training, each engine in a process of its own: ``python -m unrolled.bench.memory`` is its worker process."""

from __future__ import annotations

from typing import Any

from unrolled.bench.machine.process_memory import peak_memory_mb
from unrolled.bench.peers.contestants import TrainableContestant
from unrolled.bench.peers.workloads import Workload
from unrolled.engine.errors import ConfigError
from unrolled.engine.models.parameters import parameter_count
from unrolled.engine.models.step_contract import zero_state
from unrolled.engine.processes.messages import Message
from unrolled.engine.processes.serving import serve
from unrolled.engine.processes.worker import WorkerDiedError, WorkerFailedError, WorkerProcess, python_module

TRAINING_STEPS = 3
MEMORY_COLUMNS = ("whole process, MB", "of which training, MB")
KEPT = 4  # numbers for each parameter: its value, gradient and two moments


def measure_memory(engine: str, work: Workload) -> dict[str, Any]:
    """Return peaks in MB: of the whole process, and the part that training added to a process with the engine loaded.

    Training is ``TRAINING_STEPS`` steps and an evaluation.

    Raises:
        ConfigError: the engine cannot run here; the message has the reason.
    """
    with WorkerProcess(python_module("unrolled.bench.memory")) as worker:
        try:
            return worker.ask({"engine": engine, "workload": work.to_dict()})
        except (WorkerFailedError, WorkerDiedError) as error:
            raise ConfigError(f"engine: {engine} failed: {error.last_line or 'killed'}") from error


def parameters_mb(work: Workload) -> float:
    """Return the MB that an optimizer with two moments needs in float32, whatever the batch."""
    return KEPT * 4 * parameter_count(work.spec) / 2**20


def logits_mb(work: Workload) -> float:
    """Return the MB of an array of all logits of a batch in float32, which no engine makes."""
    return 4 * work.tokens * work.vocab / 2**20


def memory_cells(found: dict[str, Any]) -> list[str]:
    """Return the texts of ``MEMORY_COLUMNS``."""
    return ["–" if found[key] is None else f"{found[key]:,.0f}" for key in ("peak_mb", "added_mb")]


def _steps(engine: str, work: Workload) -> None:
    contestant = TrainableContestant(engine, work)
    for _ in range(TRAINING_STEPS):
        contestant.run()
    contestant.model.evaluate(contestant.batch, zero_state(work.spec, work.batch))


def _answer(job: Message) -> dict[str, Any]:
    """Train small models first, which loads libraries and compiles kernels, then the workload's, and return its peaks."""
    work = Workload(**job["workload"])
    _steps(job["engine"], Workload("train", work.cell, work.layers, 8, 2, 3, 11, 8, work.optimizer))
    _steps(job["engine"], Workload("train", work.cell, work.layers, 8, 2, 3, 5, 8, work.optimizer))
    loaded = peak_memory_mb()
    _steps(job["engine"], work)
    peak = peak_memory_mb()
    added = None if peak is None or loaded is None else peak - loaded
    return {"engine": job["engine"], "peak_mb": peak, "added_mb": added}


if __name__ == "__main__":
    serve(_answer)
