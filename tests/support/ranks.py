"""The program of each process in the tests of distributed training: ``python ranks.py FOLDER``, in torchrun's environment."""

from __future__ import annotations

import json
import os
import signal
import sys
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import models
import numpy as np
from ragged_batches import RaggedBatches
from torch import distributed as dist

from unrolled.engine.data.batches import Batches
from unrolled.engine.data.config import DataConfig
from unrolled.engine.data.corpus import Corpus
from unrolled.engine.data.records import RecordBatches
from unrolled.engine.data.streams import StreamBatches
from unrolled.engine.errors import ConfigError, DivergedError, ProcessLostError
from unrolled.engine.models.dropout import Dropout
from unrolled.engine.models.spec import ModelSpec
from unrolled.engine.models.step_contract import zero_state
from unrolled.engine.optimizers.config import OptimizerConfig
from unrolled.engine.process_group import SINGLE_PROCESS, Group
from unrolled.engine.runs.experiment import Experiment, ModelSettings, prepare_run
from unrolled.engine.training.config import TrainingConfig
from unrolled.engine.training.events import StepEvent
from unrolled.engine.training.loop import train
from unrolled.engine.training.observers import TrainingObserver
from unrolled.engine.training.result import TrainingResult
from unrolled.engine.training.trainable import Trainable
from unrolled.export.training_engines import make_trainable, training_group

STEPS = 12
TEXT = "the quick brown fox jumps over the lazy dog; pack my box with five dozen jugs.\n" * 12
RESUMED = Experiment(
    TrainingConfig(steps=STEPS, schedule="constant", validate_every=5, seed=4, dropout=Dropout(0.1, 0.2), average=0.9),
    DataConfig(batch_size=5, length=13, split=(0.8, 0.2, 0.0)),
    ModelSettings("gru", 5, 7, 2, dropout=0.3),
)


def stream() -> Batches:
    ids = np.random.default_rng(0).integers(0, models.V, 400).astype(np.uint8)
    return StreamBatches(ids, batch_size=5, length=7)  # five lanes, two and three


def records() -> Batches:
    """Return records of lengths 1 to 16: seven rows do not divide evenly, and the last batch has a row for one process only."""
    rng = np.random.default_rng(1)
    starts = np.concatenate([[0], np.cumsum(rng.integers(2, 18, 22))])
    return RecordBatches(rng.integers(0, models.V, starts[-1]).astype(np.uint8), starts, batch_size=7, length=16)


TAGGER = models.spec("lstm", "static+values+categories+tokens", 2, True, dropout=0.2)


def ragged() -> Batches:
    """Return batches of one to four rows of different lengths with float weights; one row leaves a process without any."""
    return RaggedBatches(TAGGER, 4, rows=1)


class Case(NamedTuple):
    """A training run."""

    data: Callable[[], Batches]
    spec: ModelSpec
    optimizer: OptimizerConfig


CASES = {
    "stream": Case(stream, models.config("lstm", dropout=0.2).spec, OptimizerConfig("adam", 0.01)),
    "records": Case(
        records, models.config("gru", tie_weights=True).spec, OptimizerConfig("adamw", 0.01, label_smoothing=0.1)
    ),
    "summed": Case(
        records, models.config("rnn").spec, OptimizerConfig("sgd", 0.05, clip_value=0.3, sum_over_time=True)
    ),
    "ragged": Case(ragged, TAGGER, OptimizerConfig("adamw", 0.01, label_smoothing=0.1)),
}


def curve(case: str, group: Group = SINGLE_PROCESS, make: Callable[..., Any] = make_trainable) -> dict[str, Any]:
    """Return losses, validation, hidden state and weights of a training run in float64."""
    data, spec, rule = CASES[case]
    trainable = make("torch", spec, models.params(spec), rule, 1.0, group=group)
    training = TrainingConfig(steps=STEPS, seed=3, validate_every=6, dropout=Dropout(0.1, 0.2))
    result = train(trainable, data(), data(), training, group=group)
    assert result.best is not None
    assert result.state is not None
    return {
        "losses": result.losses,
        "validation": [result.best.to_dict()["loss"], result.best.to_dict()["accuracy"], result.best.count],
        "state": result.state,
        **trainable.export_params(),
    }


def unweighted(*args: Any, group: Any) -> Any:
    """Return a trainable with a common mistake: it averages the means of the processes and ignores their numbers of tokens."""
    from unrolled.export.torch.distributed import DistributedTrainable, _batch_rows

    class Unweighted(DistributedTrainable):
        def _scaled(self, loss: Any, batch: Any) -> Any:
            return super()._scaled(loss, _batch_rows(self.spec, batch, self._rows(batch.batch_size))) / self.group.size

    return Unweighted(*args[1:], group)


class KillAt(TrainingObserver):
    """Observer that sends a signal to its own process."""

    def __init__(self, step: int, number: int) -> None:
        self.step, self.number = step, number

    def on_step(self, event: StepEvent) -> None:
        if event.step == self.step:
            os.kill(os.getpid(), self.number)


class KillWhileSaving(KillAt):
    """Observer that sends the signal at the interval of the step."""

    def on_step(self, event: StepEvent) -> None: ...

    def on_interval(self, trainable: Trainable, result: TrainingResult) -> None:
        if result.steps == self.step:
            os.kill(os.getpid(), self.number)


def short(group: Group, training: TrainingConfig, rate: float = 0.01, **settings: Any) -> TrainingResult:
    config = models.config("rnn")
    trainable = make_trainable(
        "torch", config.spec, models.params(config), OptimizerConfig("sgd", rate), None, group=group
    )
    return train(trainable, stream(), None, training, group=group, **settings)


def stops(group: Group) -> dict[str, Any]:
    """Return the step at which each way to end a training run ends it in this process."""
    found: dict[str, Any] = {}
    for name, number in (("ctrl_c", signal.SIGINT), ("sigterm", signal.SIGTERM)):
        observers = [KillAt(3, number)] if group.rank == 1 else []
        result = short(group, TrainingConfig(steps=50), observers=observers)
        found[name] = [result.steps, result.interrupted]
    observers = [KillWhileSaving(5, signal.SIGINT)] if group.rank == 1 else []
    result = short(group, TrainingConfig(steps=50, validate_every=5), observers=observers)
    found["saving"] = [result.steps, result.interrupted]
    ticks = iter(range(10**6))
    clock = (lambda: next(ticks) * 1.0) if group.leads else (lambda: next(ticks) * 0.01)
    found["seconds"] = short(group, TrainingConfig(seconds=30), clock=clock).steps
    try:
        short(group, TrainingConfig(steps=50), rate=1e308)
    except DivergedError as error:
        found["diverged"] = str(error)
    return found


def work(group: Group) -> dict[str, Any]:
    """Return the numbers of rows of this process's warm-up, and the number of all-reduces of ``largest`` in ten steps."""
    config = models.config("rnn")
    trainable: Any = make_trainable("torch", config.spec, models.params(config), OptimizerConfig(), group=group)
    rows: list[int] = []
    gradients = trainable.gradients
    trainable.gradients = lambda batch, state: rows.append(batch.batch_size) or gradients(batch, state)
    batch = next(stream().epoch(None))
    trainable.warm_up(batch, zero_state(config, batch.batch_size, trainable.dtype))
    asked: list[int] = []
    largest = group.largest
    group.largest = lambda *values: asked.append(len(values)) or largest(*values)  # type: ignore[method-assign]
    try:
        short(group, TrainingConfig(steps=10))
    finally:
        group.largest = largest  # type: ignore[method-assign]
    return {"rows": rows, "asked": len(asked)}


def folders(group: Group, folder: Path) -> dict[str, Any]:
    """Run to the end, and stop and resume; return the errors of another corpus in one process, and of a folder with a run."""

    def run(output: Path, steps: int, text: str = TEXT, **settings: Any) -> TrainingResult:
        training = TrainingConfig(**{**vars(RESUMED.training), "steps": steps})
        experiment = Experiment(training, RESUMED.data, RESUMED.model)
        prepared = prepare_run(
            Corpus("fox", text), experiment, lambda *args: make_trainable("torch", *args, group=group)
        )
        return prepared.run(output, group=group, **settings)

    run(folder / "whole", STEPS)
    run(folder / "stopped", 5)
    run(folder / "stopped", STEPS, resume=True)
    run(folder / "half", 5)
    errors = []
    for text, output in ((TEXT + "x" * group.rank, folder / "other"), (TEXT, folder / "whole")):
        try:
            run(output, STEPS, text)
        except ConfigError as error:
            errors.append(str(error))
    return {"errors": errors}


def lost(group: Group) -> dict[str, Any]:
    """Return the error of the other process after rank 0 has left."""
    if group.leads:
        return {}
    try:
        group.largest(1.0)
    except ProcessLostError as error:
        return {"lost": str(error)}
    return {}


def main(folder: Path) -> None:
    with training_group("torch") as group:
        assert group.size == 2
        world = weakref.ref(dist.group.WORLD)
        curves = {f"{case}/{name}": value for case in CASES for name, value in curve(case, group).items()}
        wrong = curve("records", group, unweighted)
        found = {**stops(group), **work(group), **folders(group, folder)}
        np.savez(folder / f"curves-{group.rank}.npz", **curves, **{f"wrong/{name}": wrong[name] for name in wrong})
        found.update(lost(group))
    found["ended"] = world() is None  # otherwise the group's threads would still run while the interpreter shuts down
    (folder / f"found-{group.rank}.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
