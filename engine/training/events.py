"""Events of a training, which its observers receive."""

from __future__ import annotations

from dataclasses import dataclass

from unrolled.engine.models.heads.head import Metrics


@dataclass(frozen=True)
class StepEvent:
    """One training step."""

    step: int  # from 1
    epoch: float  # passes over the training data so far
    seconds: float
    done: float  # completed share of the training, in [0, 1]
    loss: float  # mean
    grad_norm: float
    learning_rate: float
    count: int  # positions or sequences of this step that count in the loss
    count_per_s: float  # over all steps so far, without validation
    metrics: Metrics  # of this step's batch


@dataclass(frozen=True)
class ValidationEvent:
    """One validation; ``best`` means that the metric that selects is the best so far."""

    step: int
    epoch: float
    seconds: float
    metrics: Metrics
    best: bool


@dataclass(frozen=True)
class SampleEvent:
    """A text that the model wrote after ``step`` steps."""

    step: int
    text: str
