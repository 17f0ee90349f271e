"""Settings of a training: its limits, schedule, validation, seed and regularisation."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from unrolled.engine.checks import check_choice, check_seed
from unrolled.engine.errors import ConfigError, SettingName
from unrolled.engine.models.dropout import NO_DROPOUT, Dropout
from unrolled.engine.optimizers.schedules import LIMIT_INDEPENDENT, SCHEDULES, DecayConfig, SchedulePosition
from unrolled.engine.training.validation_budget import VALIDATION_SHARE


@dataclass(frozen=True)
class TrainingConfig:
    """Settings of a training, which ends at the first limit that it reaches.

    Args:
        epochs, steps, seconds: limits; at least one. Epochs may be a fraction. Seconds are wall-clock time from the first
            step on, with validation, without compilation.
        schedule: a key of ``SCHEDULES``, over the used share of the nearest limit.
        validate_every: steps between validations, and between saves; None: saves once an epoch, at most every 250 steps,
            and validations at as many of them as ``validation_share`` allows.
        seed: seed of the initial weights, of dropout and of the records' order.
        dropout: dropout of inputs and outputs; the model has its own between layers.
        decay: constants of the schedules "step" and "plateau".
        warmup: steps over which the learning rate rises linearly from zero, times the schedule's factor.
        patience: validations without a better loss after which training stops; None: never.
        average: decay of the moving average of the weights that is evaluated and saved; None: no average.
        reset: start every batch from a zero state, instead of carrying the state into a batch that continues the last.
        validation_share: largest share of the training's work for validations where ``validate_every`` is None, counted
            in tokens; the validation after the last step takes place even if it alone exceeds the share. None: any share,
            as in 0.1.0.

    Raises:
        ConfigError: there is no limit, or a value is out of range.
    """

    epochs: float | None = None
    steps: int | None = None
    seconds: float | None = None
    schedule: str = "cosine"
    validate_every: int | None = None
    seed: int = 0
    dropout: Dropout = NO_DROPOUT
    decay: DecayConfig = field(default_factory=DecayConfig)
    warmup: int = 0
    patience: int | None = None
    average: float | None = None
    reset: bool = False
    validation_share: float | None = VALIDATION_SHARE

    def __post_init__(self) -> None:
        limits = {"epochs": self.epochs, "steps": self.steps, "seconds": self.seconds}
        if all(value is None for value in limits.values()):
            raise ConfigError("training needs a limit: epochs, steps or seconds")
        for name, value in {**limits, "validate_every": self.validate_every}.items():
            if value is not None and not 0 < value < math.inf:
                raise ConfigError(SettingName(name), f": got {value}, needs a number above 0")
        for name, value, least in (("warmup", self.warmup, 0), ("patience", self.patience, 1)):
            if value is not None and value < least:
                raise ConfigError(SettingName(name), f": got {value}, needs at least {least}")
        for name, value in (("average", self.average), ("validation_share", self.validation_share)):
            if value is not None and not 0 < value < 1:
                raise ConfigError(SettingName(name), f": got {value}, needs a number between 0 and 1")
        check_seed(self.seed)
        check_choice("schedule", self.schedule, SCHEDULES)

    @property
    def validation_bound(self) -> float | None:
        """Return the share that bounds validations; None: no bound, also where ``validate_every`` sets their interval."""
        return self.validation_share if self.validate_every is None else None

    @property
    def depends_on_limit(self) -> bool:
        """Return whether another limit could change the steps before it, so that a resumed run has to keep its limit."""
        return self.schedule not in LIMIT_INDEPENDENT or self.patience is not None

    def share_done(self, step: int, steps_per_epoch: int, seconds: float) -> float:
        """Return the used share of the nearest limit; training stops at 1 and above."""
        shares = [0.0]
        if self.epochs is not None:
            shares.append(step / (self.epochs * steps_per_epoch))
        if self.steps is not None:
            shares.append(step / self.steps)
        if self.seconds is not None:
            shares.append(seconds / self.seconds)
        return max(shares)

    def rate_factor(self, step: int, position: SchedulePosition) -> float:
        """Return the factor of the learning rate in the training step that follows ``step`` earlier ones."""
        warm = min((step + 1) / self.warmup, 1.0) if self.warmup else 1.0
        return warm * SCHEDULES[self.schedule](position, self.decay)
