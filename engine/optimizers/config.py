"""The optimizers' names, hyperparameters and defaults.

Sources: RMSProp, T. Tieleman and G. Hinton, Coursera lecture 6.5 (2012); Adam, D. P. Kingma and J. Ba (2015), algorithm 1;
AdamW, I. Loshchilov and F. Hutter, "Decoupled Weight Decay Regularization" (2019).
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Annotated

import numpy as np

from unrolled.engine.errors import ConfigError, SettingName
from unrolled.engine.settings import (
    OPTIMISATION_PANEL,
    POSITIVE,
    PROBABILITY,
    Around,
    Range,
    Setting,
    check_settings,
)

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
USUAL_RATES = {name: spec.default_learning_rate for name, spec in OPTIMIZERS.items()}
CLIPPING = Range("a number above 0, or None for no clipping", 0, open_low=True)
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

    name: Annotated[
        str,
        Setting("optimizer", "", OPTIMISATION_PANEL, choices=OPTIMIZERS, search=",".join(OPTIMIZERS), name="optimizer"),
    ] = "adam"
    learning_rate: Annotated[
        float | None,
        Setting(
            "lr",
            "Learning rate.",
            OPTIMISATION_PANEL,
            POSITIVE,
            search=Around("optimizer", USUAL_RATES, "adam", 1 / 20, 10),
            default=", ".join(f"{name} {rate:g}" for name, rate in USUAL_RATES.items()),
        ),
    ] = None
    weight_decay: Annotated[
        float | None,
        Setting(
            "weight_decay",
            "L2 penalty; decoupled for adamw.",
            OPTIMISATION_PANEL,
            Range("a number that is not negative", 0),
            search="1e-6:0.1:log",
            default="adamw 0.01, others 0",
        ),
    ] = None
    momentum: Annotated[float, Setting("momentum", "Of sgd.", OPTIMISATION_PANEL, PROBABILITY, search="0:0.95")] = 0.0
    beta1: Annotated[
        float,
        Setting(
            "beta1",
            "Decay of adam's and adamw's mean of gradients.",
            OPTIMISATION_PANEL,
            PROBABILITY,
            search="0,0.5,0.9,0.95",
        ),
    ] = 0.9
    beta2: Annotated[
        float,
        Setting(
            "beta2",
            "Decay of their mean of squared gradients.",
            OPTIMISATION_PANEL,
            PROBABILITY,
            search="0.9,0.99,0.999",
        ),
    ] = 0.999
    alpha: Annotated[
        float,
        Setting(
            "alpha",
            "Decay of rmsprop's mean of squared gradients.",
            OPTIMISATION_PANEL,
            PROBABILITY,
            search="0.9,0.95,0.99,0.999",
        ),
    ] = 0.99
    eps: Annotated[
        float,
        Setting(
            "eps",
            "Of rmsprop, adam and adamw: added to the root of that mean.",
            OPTIMISATION_PANEL,
            Range(f"a number of at least {MIN_EPS:.2g}", MIN_EPS),
            search="1e-10:1e-3:log",
        ),
    ] = 1e-8
    clip_value: Annotated[
        float | None,
        Setting(
            "clip_value",
            "Largest size of any one gradient, before --clip; any if left out.",
            OPTIMISATION_PANEL,
            CLIPPING,
            search="none,0.1,1,5",
        ),
    ] = None
    sum_over_time: Annotated[
        bool,
        Setting(
            "sum_over_time",
            "Sum the loss over a chunk's steps instead of averaging it: gradients are T times as large.",
            OPTIMISATION_PANEL,
            search="false,true",
        ),
    ] = False
    label_smoothing: Annotated[
        float,
        Setting(
            "label_smoothing",
            "Share of the target's probability spread over all tokens.",
            OPTIMISATION_PANEL,
            PROBABILITY,
            search="0:0.2",
        ),
    ] = 0.0

    def __post_init__(self) -> None:
        check_settings(self)
        defaults = {field.name: field.default for field in fields(self)}
        for name in HYPERPARAMETERS:
            value = getattr(self, name)
            if value != defaults[name] and name not in OPTIMIZERS[self.name].hyperparameters:
                takers = " and ".join(other for other, spec in OPTIMIZERS.items() if name in spec.hyperparameters)
                raise ConfigError(SettingName(name), f": got {value}, which goes with {takers}; {self.name} takes none")

    @property
    def base_learning_rate(self) -> float:
        """Return the learning rate before the schedule."""
        return OPTIMIZERS[self.name].default_learning_rate if self.learning_rate is None else self.learning_rate

    @property
    def effective_weight_decay(self) -> float:
        """Return the weight decay, or the optimizer's default where none is set."""
        return OPTIMIZERS[self.name].default_weight_decay if self.weight_decay is None else self.weight_decay
