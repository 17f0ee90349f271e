"""Learning-rate schedules: factors of the learning rate over a training.

Sources: "cosine", I. Loshchilov and F. Hutter (2017); "step", W. Zaremba et al., "Recurrent Neural Network Regularization"
(2014).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from unrolled.engine.errors import ConfigError, SettingName


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

    factor: float = 0.5
    after: int = 1
    patience: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.factor <= 1:
            raise ConfigError(SettingName("decay"), f": got {self.factor}, needs a number above 0, up to 1")
        for name, value in (("decay_after", self.after), ("decay_patience", self.patience)):
            if value < 0:
                raise ConfigError(SettingName(name), f": got {value}, needs 0 or more")


SCHEDULES: dict[str, Callable[[SchedulePosition, DecayConfig], float]] = {
    "constant": lambda position, decay: 1.0,
    "cosine": lambda position, decay: 0.5 * (1 + math.cos(math.pi * min(position.done, 1.0))),
    "linear": lambda position, decay: max(1 - position.done, 0.0),
    "step": lambda position, decay: decay.factor ** max(position.epochs + 1 - decay.after, 0),
    "plateau": lambda position, decay: decay.factor**position.plateaus,
}
LIMIT_INDEPENDENT = ("constant", "step")  # under the other schedules, another limit can change every training step
