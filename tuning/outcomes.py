"""Outcomes of trials and their ranking."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

# States of trials that ended, besides "complete" and "pruned"; FATAL ends the study.
DIVERGED, REFUSED, FAILED, FATAL = "diverged", "refused", "failed", "fatal"


@dataclass(frozen=True)
class TrialOutcome:
    """Figures of a trial that was trained to its end."""

    loss: float  # of the best validation: the loss, or the cost of another metric that selects (``Metric.cost``)
    steps: int
    best_step: int
    epochs: float
    seconds: float
    tokens_per_s: float
    validation_share: float  # of the work, counted in tokens, rungs included


@dataclass(frozen=True)
class Trial:
    """State of a trial.

    ``state`` is "running", "complete", "pruned", "diverged", "refused" (settings that do not go together) or "failed"; ``loss``
    is the lowest validation loss so far, None without one.
    """

    number: int
    state: str
    loss: float | None
    params: dict[str, Any]
    rung: int = 0
    outcome: dict[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Return JSON values; those of the outcome stand beside the others."""
        values = asdict(self)
        return {**values, **values.pop("outcome")}


@dataclass(frozen=True)
class StudyResult:
    """Trials of a study, best first."""

    trials: list[Trial]
    interrupted: bool

    @property
    def best(self) -> Trial | None:
        """Return the complete trial with the lowest loss; None if no trial is complete."""
        return self.trials[0] if self.trials and self.trials[0].state == "complete" else None


def ranked(trials: list[Trial]) -> list[Trial]:
    """Return complete trials by their loss, then pruned ones, the furthest first, then the others."""

    def place(trial: Trial) -> tuple[float, ...]:
        loss = float("inf") if trial.loss is None else trial.loss
        order = {"complete": 0, "pruned": 1}.get(trial.state, 2)
        return order, -trial.rung if order else 0, loss, trial.number

    return sorted(trials, key=place)
