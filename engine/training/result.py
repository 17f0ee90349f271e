"""The state and statistics of a training that checkpoints and resume files record."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, fields
from typing import Any

from numpy.typing import NDArray

from unrolled.engine.canonical import completed
from unrolled.engine.errors import ConfigError
from unrolled.engine.models.heads.head import Head, Metrics, selecting_metric
from unrolled.engine.training.validation_budget import share_of_work

NOT_RECORDED = ("losses", "state", "between_steps")


@dataclass
class TrainingResult:
    """Statistics of a training so far, and the state that its next step needs."""

    engine: str
    steps: int = 0
    epochs: float = 0.0
    count: int = 0  # positions or sequences that counted in the loss
    seconds: float = 0.0
    step_seconds: float = 0.0  # the part of them spent in steps
    count_per_s: float = 0.0
    first_call_s: float = 0.0  # compilation and first allocations, before the clock starts
    train_loss: float = math.nan
    best_step: int = 0
    best: Metrics | None = None
    last_step: int = 0  # step of the last validation
    last: Metrics | None = None
    validation_count: int = 0  # of all validations so far
    stale: int = 0  # validations since the best one
    plateaus: int = 0  # reductions of the learning rate because of them
    stale_plateau: int = 0  # validations since the best one or the last reduction
    interrupted: bool = False
    losses: list[float] = field(default_factory=list, repr=False)  # one per step of this call
    state: NDArray | None = field(default=None, repr=False)  # (S, L, B, H) after the last step
    between_steps: bool = field(default=True, repr=False)  # false within a step or its validation

    def add_validation(self, head: Head, metrics: Metrics, plateau_patience: int) -> bool:
        """Record a validation after the last step, for early stopping and the schedule "plateau".

        Args:
            plateau_patience: validations without a better result before a plateau is counted.

        Returns:
            Whether it is the best so far by the metric that selects.
        """
        self.validation_count += metrics.count
        self.last, self.last_step = metrics, self.steps
        cost = selecting_metric(head).cost
        best = self.best is None or cost(metrics) < cost(self.best)
        if best:
            self.best, self.best_step = metrics, self.steps
        self.stale, self.stale_plateau = (0, 0) if best else (self.stale + 1, self.stale_plateau + 1)
        if self.stale_plateau > plateau_patience:
            self.plateaus, self.stale_plateau = self.plateaus + 1, 0
        return best

    @property
    def validation_share(self) -> float:
        """Return the share of validations in the work so far, by the positions or sequences that counted."""
        return share_of_work(self.validation_count, self.count)

    def to_dict(self, head: Head) -> dict[str, Any]:
        """Return the JSON form, without the losses, which metrics.jsonl has, and without what only the next step needs."""
        keys = _keys(head)
        values = {keys.get(name, name): value for name, value in vars(self).items() if name not in NOT_RECORDED}
        values["best"] = self.best.to_dict() if self.best else None
        values["last"] = self.last.to_dict() if self.last else None
        values["train_loss"] = self.train_loss if math.isfinite(self.train_loss) else None
        values["validation_share"] = self.validation_share
        return values

    @classmethod
    def from_dict(cls, values: dict[str, Any], head: Head) -> TrainingResult:
        """Return the result that ``to_dict`` wrote, also for files of 0.1.0, which counted nothing in validations.

        Raises:
            ConfigError: a value is missing, unknown or of the wrong kind.
        """
        names = {key: name for name, key in _keys(head).items()}
        values = completed(cls, {names.get(key, key): value for key, value in values.items()})
        values.pop("validation_share", None)
        if set(values) != {f.name for f in fields(cls)} - set(NOT_RECORDED):
            raise ConfigError(f"training result: got {', '.join(sorted(values)) or 'nothing'}")
        for key in ("best", "last"):
            if values[key] is not None:
                values[key] = head.metrics_from_dict(values[key])
        if values["train_loss"] is None:
            values["train_loss"] = math.nan
        return cls(**values)


def _keys(head: Head) -> dict[str, str]:
    """Return the JSON keys of the counts, which contain the head's word for what counts: "tokens", "tokens_per_s" ..."""
    counts = head.counts
    return {"count": counts, "count_per_s": f"{counts}_per_s", "validation_count": f"validation_{counts}"}
