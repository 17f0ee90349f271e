"""Learning-rate schedules: factors of the learning rate over a training.

Sources: "cosine", I. Loshchilov and F. Hutter (2017); "step", W. Zaremba et al., "Recurrent Neural Network Regularization"
(2014).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, NamedTuple

from unrolled.engine.settings import OPTIMISATION_PANEL, Effect, Range, Setting, check_settings

NOT_NEGATIVE = Range("0 or more", 0)


class SchedulePosition(NamedTuple):
    """Position of a training in its schedule."""

    done: float  # share of the nearest limit, in [0, 1]
    epochs: int  # complete passes over the data
    plateaus: int  # number of times that the validation loss stopped improving


@dataclass(frozen=True)
class DecayConfig:
    """Constants of the schedules that lower the learning rate in steps.

    Args:
        factor: factor of each step down.
        after: epochs before the first step down; every later epoch has one ("step").
        patience: validations without a better loss before a step down ("plateau").

    Raises:
        ConfigError: a value is out of range.
    """

    factor: Annotated[
        float,
        Setting(
            "decay",
            "Factor of one step down of schedule step or plateau.",
            OPTIMISATION_PANEL,
            Range("a number above 0, up to 1", 0, 1, open_low=True),
            search="0.3:0.95",
            name="decay",
            effect=Effect(("schedule",), ("step", "plateau")),
        ),
    ] = 0.5
    after: Annotated[
        int,
        Setting(
            "decay_after",
            "Epochs before schedule step goes down, then each epoch.",
            OPTIMISATION_PANEL,
            NOT_NEGATIVE,
            search="1:10",
            name="decay_after",
            effect=Effect(("schedule",), ("step",)),
        ),
    ] = 1
    patience: Annotated[
        int,
        Setting(
            "decay_patience",
            "Validations without a better loss that plateau lets pass.",
            OPTIMISATION_PANEL,
            NOT_NEGATIVE,
            search="0:5",
            name="decay_patience",
            effect=Effect(("schedule",), ("plateau",)),
        ),
    ] = 0

    def __post_init__(self) -> None:
        check_settings(self)


SCHEDULES: dict[str, Callable[[SchedulePosition, DecayConfig], float]] = {
    "constant": lambda position, decay: 1.0,
    "cosine": lambda position, decay: 0.5 * (1 + math.cos(math.pi * min(position.done, 1.0))),
    "linear": lambda position, decay: max(1 - position.done, 0.0),
    "step": lambda position, decay: decay.factor ** max(position.epochs + 1 - decay.after, 0),
    "plateau": lambda position, decay: decay.factor**position.plateaus,
}
LIMIT_INDEPENDENT = ("constant", "step")  # under the other schedules, another limit can change every training step
