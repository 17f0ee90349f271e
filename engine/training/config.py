"""Settings of a training: its limits, schedule, validation, seed and regularisation."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated

from unrolled.engine.errors import ConfigError
from unrolled.engine.models.dropout import NO_DROPOUT, Dropout
from unrolled.engine.optimizers.schedules import LIMIT_INDEPENDENT, SCHEDULES, DecayConfig, SchedulePosition
from unrolled.engine.settings import (
    DATA_PANEL,
    OPTIMISATION_PANEL,
    POSITIVE,
    SEED,
    Effect,
    NotSearched,
    Range,
    Setting,
    check_settings,
)
from unrolled.engine.training.validation_budget import MAX_SAVE_INTERVAL, VALIDATION_SHARE

DEFAULT_EPOCHS = 10  # of a training without a limit
SHARE = Range("a number between 0 and 1", 0, 1, open_low=True, open_high=True)
TWO_LENGTHS = "trials of different lengths"


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

    epochs: Annotated[
        float | None,
        Setting(
            "epochs",
            "Passes over the data, also a fraction.",
            range=POSITIVE,
            search=NotSearched(TWO_LENGTHS),
            default=f"{DEFAULT_EPOCHS} without another limit",
        ),
    ] = None
    steps: Annotated[int | None, Setting("steps", "Updates.", range=POSITIVE, search=NotSearched(TWO_LENGTHS))] = None
    seconds: Annotated[
        float | None,
        Setting("seconds", "Of training, validation included.", range=POSITIVE, search=NotSearched(TWO_LENGTHS)),
    ] = None
    schedule: Annotated[
        str, Setting("schedule", "", OPTIMISATION_PANEL, choices=SCHEDULES, search=",".join(SCHEDULES))
    ] = "cosine"
    validate_every: Annotated[
        int | None,
        Setting(
            "validate_every",
            "Steps between validations.",
            range=POSITIVE,
            search=NotSearched("trials that are looked at more or less often"),
            default=f"an epoch, {MAX_SAVE_INTERVAL} at the most; "
            f"more where validation would take over {VALIDATION_SHARE:.0%} of the work",
        ),
    ] = None
    seed: Annotated[int, SEED] = 0
    dropout: Dropout = NO_DROPOUT
    decay: DecayConfig = field(default_factory=DecayConfig)
    warmup: Annotated[
        int,
        Setting(
            "warmup",
            "Steps over which the rate rises from zero.",
            OPTIMISATION_PANEL,
            Range("at least 0", 0),
            search="0:500",
        ),
    ] = 0
    patience: Annotated[
        int | None,
        Setting(
            "patience",
            "Stop after so many validations without a better loss; never if left out.",
            OPTIMISATION_PANEL,
            Range("at least 1", 1),
            search=NotSearched(TWO_LENGTHS),
        ),
    ] = None
    average: Annotated[
        float | None,
        Setting(
            "average",
            "Evaluate and save a moving average of the weights, of this decay, for instance 0.999.",
            OPTIMISATION_PANEL,
            SHARE,
            search="none,0.99,0.999",
        ),
    ] = None
    reset: Annotated[
        bool,
        Setting(
            "reset",
            "Begin each chunk with a state of zeros instead of carrying it on.",
            DATA_PANEL,
            search="false,true",
            effect=Effect(("batching",), ("stream",)),
        ),
    ] = False
    validation_share: float | None = VALIDATION_SHARE

    def __post_init__(self) -> None:
        if self.epochs is None and self.steps is None and self.seconds is None:
            raise ConfigError("training needs a limit: epochs, steps or seconds")
        check_settings(self)
        if self.validation_share is not None and not SHARE.holds(self.validation_share):
            raise ConfigError(f"validation_share: got {self.validation_share}, needs {SHARE.needs}")

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
