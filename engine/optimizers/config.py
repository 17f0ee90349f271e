"""The optimizers' names, hyperparameters and defaults.

Sources: RMSProp, T. Tieleman and G. Hinton, Coursera lecture 6.5 (2012); Adam, D. P. Kingma and J. Ba (2015), algorithm 1;
AdamW, I. Loshchilov and F. Hutter, "Decoupled Weight Decay Regularization" (2019).
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np

from unrolled.engine.checks import check_choice
from unrolled.engine.errors import ConfigError, SettingName

MIN_EPS = float(np.finfo(np.float32).tiny)  # a smaller eps is 0 in float32, and a gradient that is always 0 gives 0/0


@dataclass(frozen=True)
class OptimizerSpec:
    """The hyperparameters of an optimizer, and its default learning rate and weight decay."""

    hyperparameters: tuple[str, ...]  # the fields of OptimizerConfig that not every optimizer has
    default_learning_rate: float
    default_weight_decay: float = 0.0


OPTIMIZERS: dict[str, OptimizerSpec] = {
    "sgd": OptimizerSpec(("momentum",), 1.0),
    "rmsprop": OptimizerSpec(("alpha", "eps"), 2e-3),
    "adam": OptimizerSpec(("beta1", "beta2", "eps"), 4e-3),
    "adamw": OptimizerSpec(("beta1", "beta2", "eps"), 4e-3, 0.01),
}
HYPERPARAMETERS = tuple(dict.fromkeys(name for spec in OPTIMIZERS.values() for name in spec.hyperparameters))


@dataclass(frozen=True)
class OptimizerConfig:
    """An optimizer and its hyperparameters.

    Args:
        name: a key of ``OPTIMIZERS``.
        learning_rate: step size before the schedule; None: the optimizer's default.
        weight_decay: L2 penalty added to the gradient (adamw: decoupled from it); None: the optimizer's default.
        momentum: momentum (sgd only).
        beta1, beta2: decay of Adam's first and second moments.
        alpha: decay of RMSProp's second moment.
        eps: term added to the square root of the second moment (Adam and RMSProp).
        clip_value: bound on the absolute value of each gradient, applied before clipping by norm; None: no bound.
        sum_over_time: sum the loss over the time steps of a row and average it over rows, instead of averaging over
            both, which makes gradients T times as large (W. Zaremba et al. 2014; their learning rates and norms assume
            it).
        label_smoothing: share of the target's probability that training spreads over the whole vocabulary (C. Szegedy
            et al., "Rethinking the Inception Architecture for Computer Vision", 2016).

    Raises:
        ConfigError: a value is out of range, or is set for an optimizer that has no such hyperparameter.
    """

    name: str = "adam"
    learning_rate: float | None = None
    weight_decay: float | None = None
    momentum: float = 0.0
    beta1: float = 0.9
    beta2: float = 0.999
    alpha: float = 0.99
    eps: float = 1e-8
    clip_value: float | None = None
    sum_over_time: bool = False
    label_smoothing: float = 0.0

    def __post_init__(self) -> None:
        check_choice("optimizer", self.name, OPTIMIZERS)
        if self.learning_rate is not None and not 0 < self.learning_rate < math.inf:
            raise ConfigError(SettingName("learning_rate"), f": got {self.learning_rate}, needs a number above 0")
        values = asdict(self)
        self._check_hyperparameters(values)
        for name in ("momentum", "beta1", "beta2", "alpha", "label_smoothing"):
            if not 0 <= values[name] < 1:
                raise ConfigError(
                    SettingName(name), f": got {values[name]}, needs a number from 0 up to, not including, 1"
                )
        if not 0 <= self.effective_weight_decay < math.inf:
            raise ConfigError(
                SettingName("weight_decay"), f": got {self.weight_decay}, needs a number that is not negative"
            )
        if self.clip_value is not None and not 0 < self.clip_value < math.inf:
            raise ConfigError(
                SettingName("clip_value"), f": got {self.clip_value}, needs a number above 0, or None for no clipping"
            )
        if not MIN_EPS <= self.eps < math.inf:
            raise ConfigError(SettingName("eps"), f": got {self.eps}, needs a number of at least {MIN_EPS:.2g}")

    def _check_hyperparameters(self, values: dict[str, Any]) -> None:
        """Check that every hyperparameter with another value than its default is one of this optimizer."""
        defaults = {field.name: field.default for field in fields(self)}
        for name in HYPERPARAMETERS:
            if values[name] != defaults[name] and name not in OPTIMIZERS[self.name].hyperparameters:
                takers = " and ".join(other for other, spec in OPTIMIZERS.items() if name in spec.hyperparameters)
                raise ConfigError(
                    SettingName(name), f": got {values[name]}, which goes with {takers}; {self.name} takes none"
                )

    @property
    def base_learning_rate(self) -> float:
        """Return the learning rate before the schedule."""
        return OPTIMIZERS[self.name].default_learning_rate if self.learning_rate is None else self.learning_rate

    @property
    def effective_weight_decay(self) -> float:
        """Return the weight decay, or the optimizer's default where none is set."""
        return OPTIMIZERS[self.name].default_weight_decay if self.weight_decay is None else self.weight_decay
