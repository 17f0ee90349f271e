"""Trainables of every engine, a small experiment, and an observer that records the events of a training."""

from __future__ import annotations

import models
import numpy as np
import pytest

from unrolled.engine.data.config import DataConfig
from unrolled.engine.models.language_model_config import LanguageModelConfig
from unrolled.engine.optimizers.config import OptimizerConfig
from unrolled.engine.runs.experiment import Experiment, ModelSettings
from unrolled.engine.training.config import TrainingConfig
from unrolled.engine.training.events import StepEvent, ValidationEvent
from unrolled.engine.training.observers import TrainingObserver
from unrolled.engine.training.result import TrainingResult
from unrolled.engine.training.trainable import Trainable
from unrolled.export.training_engines import make_trainable

TEXT = "the quick brown fox jumps over the lazy dog; pack my box with five dozen jugs.\n" * 40


def engine(
    name: str, config: LanguageModelConfig, optimizer: OptimizerConfig | None = None, dtype: type = np.float64
) -> Trainable:
    if name == "torch":
        pytest.importorskip("torch", reason="the torch extra is not installed")
    optimizer = optimizer or OptimizerConfig(learning_rate=0.01)
    return make_trainable(name, config.spec, models.params(config, dtype), optimizer, 1.0)


def experiment(batching: str = "stream", level: str = "char", **model: object) -> Experiment:
    return Experiment(
        TrainingConfig(steps=12, validate_every=5, seed=4),
        DataConfig(level=level, batching=batching, batch_size=4, length=16, split=(0.8, 0.2, 0.0)),
        ModelSettings(**{"cell": "gru", "hidden_size": 12, "embedding_size": 8, **model}),  # type: ignore[arg-type]
    )


class Log(TrainingObserver):
    def __init__(self) -> None:
        self.steps: list[StepEvent] = []
        self.validations: list[ValidationEvent] = []
        self.ended = 0

    def on_step(self, event: StepEvent) -> None:
        self.steps.append(event)

    def on_validation(self, event: ValidationEvent, trainable: Trainable, result: TrainingResult) -> None:
        self.validations.append(event)

    def on_end(self, trainable: Trainable, result: TrainingResult) -> None:
        self.ended += 1
