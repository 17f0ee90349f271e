"""Observers of a training: displays, run folders and event files derive from ``TrainingObserver``."""

from __future__ import annotations

from collections.abc import Callable

from unrolled.engine.training.events import SampleEvent, StepEvent, ValidationEvent
from unrolled.engine.training.result import TrainingResult
from unrolled.engine.training.trainable import Trainable

Sampler = Callable[[Trainable], str]  # writes a text with the current weights


class TrainingObserver:
    """Receives the events of a training; every method does nothing until it is overridden."""

    def on_step(self, event: StepEvent) -> None:
        """Handle a training step."""

    def on_validation(self, event: ValidationEvent, trainable: Trainable, result: TrainingResult) -> None:
        """Handle a validation."""

    def sample(self, trainable: Trainable) -> str | None:
        """Return a text for all observers, or None; called after a validation, or at a save without one."""
        return None

    def on_sample(self, event: SampleEvent) -> None:
        """Handle a text that an observer's ``sample`` returned."""

    def on_interval(self, trainable: Trainable, result: TrainingResult) -> None:
        """Save; called at each interval of saves, after the validation if there is one."""

    def on_end(self, trainable: Trainable, result: TrainingResult) -> None:
        """Handle the end of the training, also after an interruption."""

    def on_warning(self, message: str) -> None:
        """Show a message to the user; the training continues."""


class SampleWriter(TrainingObserver):
    """Adds the texts of a sampler to the events of a training."""

    def __init__(self, sampler: Sampler) -> None:
        self.sampler = sampler

    def sample(self, trainable: Trainable) -> str | None:
        return self.sampler(trainable)
