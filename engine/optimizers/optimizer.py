"""Optimisers, clipping and learning-rate schedules; the update rules are PyTorch's, so that the twins stay together.

Sources: RMSProp, T. Tieleman and G. Hinton, Coursera lecture 6.5 (2012); Adam, D. P. Kingma and J. Ba (2015), algorithm 1;
AdamW, I. Loshchilov and F. Hutter, "Decoupled Weight Decay Regularization" (2019); clipping by norm, R. Pascanu et al.,
"On the difficulty of training recurrent neural networks" (2013); cosine schedule, I. Loshchilov and F. Hutter (2017).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from unrolled.engine.checks import check_choice
from unrolled.engine.errors import ConfigError

LEAST_EPS = float(np.finfo(np.float32).tiny)  # a smaller one is 0 in float32, and 0/0 where a gradient was always 0


@dataclass(frozen=True)
class OptimizerConfig:
    """Which rule, and its constants.

    Args:
        name: a key of ``OPTIMIZERS``.
        learning_rate: step size before the schedule; None takes the rule's usual one.
        weight_decay: L2 penalty added to the gradient; for adamw decoupled from it. None takes the rule's usual one.
        momentum: of sgd.
        beta1, beta2: decay of Adam's first and second moments.
        alpha: decay of RMSProp's second moment.
        eps: added to the root of the second moment, of both.
        clip_value: the largest size of any one gradient, before they are clipped by norm; None: any.
        sum_over_time: the loss is summed over a row's steps and averaged over rows, instead of averaged over both, so
            that gradients are T times as large (W. Zaremba et al. 2014, whose learning rates and norms are for it).
        label_smoothing: share of the target's probability that is spread over the whole vocabulary in training (C. Szegedy
            et al., "Rethinking the Inception Architecture for Computer Vision", 2016).
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
            raise ConfigError(f"learning_rate: got {self.learning_rate}, needs a number above 0")
        for field in CONSTANTS:
            if getattr(self, field) != _usual(field) and field not in OPTIMIZERS[self.name].constants:
                takers = " and ".join(name for name, rule in OPTIMIZERS.items() if field in rule.constants)
                raise ConfigError(
                    f"{field}: got {getattr(self, field)}, which goes with {takers}; {self.name} takes none"
                )
        for field in ("momentum", "beta1", "beta2", "alpha", "label_smoothing"):
            if not 0 <= getattr(self, field) < 1:
                raise ConfigError(f"{field}: got {getattr(self, field)}, needs a number from 0 up to, not including, 1")
        if not 0 <= self.decay < math.inf:
            raise ConfigError(f"weight_decay: got {self.weight_decay}, needs a number that is not negative")
        if self.clip_value is not None and not 0 < self.clip_value < math.inf:
            raise ConfigError(f"clip_value: got {self.clip_value}, needs a number above 0, or None for no clipping")
        if not LEAST_EPS <= self.eps < math.inf:
            raise ConfigError(f"eps: got {self.eps}, needs a number of at least {LEAST_EPS:.2g}")

    @property
    def base_rate(self) -> float:
        """The learning rate before the schedule."""
        return OPTIMIZERS[self.name].usual_rate if self.learning_rate is None else self.learning_rate

    @property
    def decay(self) -> float:
        return OPTIMIZERS[self.name].usual_decay if self.weight_decay is None else self.weight_decay


class Moments(NamedTuple):
    """Running moments of all parameters, each one flat array; those that a rule does not use stay zero."""

    first: NDArray
    second: NDArray


class Progress(NamedTuple):
    """Numbers of one update."""

    learning_rate: float
    step: int  # counted from 1
    grad_scale: float  # the gradients count times this: clipping


# Updates of all parameters, flat and in place; the compiled ones in ``unrolled.engine.kernels.optimizers`` have this signature.
Update = Callable[[OptimizerConfig, NDArray, NDArray, Moments, Progress], None]


def _decayed(config: OptimizerConfig, param: NDArray, grad: NDArray, progress: Progress) -> NDArray:
    grad = grad * grad.dtype.type(progress.grad_scale)
    return grad + config.decay * param if config.decay else grad


def _sgd(config: OptimizerConfig, param: NDArray, grad: NDArray, moments: Moments, progress: Progress) -> None:
    """m ← μ·m + g;  w ← w - η·m"""
    grad = _decayed(config, param, grad, progress)
    if config.momentum:
        moments.first[:] = config.momentum * moments.first + grad
        grad = moments.first
    param -= progress.learning_rate * grad


def _rmsprop(config: OptimizerConfig, param: NDArray, grad: NDArray, moments: Moments, progress: Progress) -> None:
    """v ← α·v + (1-α)·g²;  w ← w - η·g / (√v + ε)"""
    grad, second = _decayed(config, param, grad, progress), moments.second
    second *= config.alpha
    second += (1 - config.alpha) * grad * grad
    param -= progress.learning_rate * grad / (np.sqrt(second) + config.eps)


def _adam(config: OptimizerConfig, param: NDArray, grad: NDArray, moments: Moments, progress: Progress) -> None:
    """m ← β₁·m + (1-β₁)·g;  v ← β₂·v + (1-β₂)·g²;  w ← w - η·m̂ / (√v̂ + ε)"""
    (first, second), step = moments, progress.step
    grad = _decayed(config, param, grad, progress)
    first += (1 - config.beta1) * (grad - first)
    second *= config.beta2
    second += (1 - config.beta2) * grad * grad
    root = np.sqrt(second) / math.sqrt(1 - config.beta2**step) + config.eps
    param -= (progress.learning_rate / (1 - config.beta1**step)) * first / root


def _adamw(config: OptimizerConfig, param: NDArray, grad: NDArray, moments: Moments, progress: Progress) -> None:
    param *= 1 - progress.learning_rate * config.decay
    _adam(replace(config, weight_decay=0.0), param, grad, moments, progress)


UPDATES: dict[str, Update] = {"sgd": _sgd, "rmsprop": _rmsprop, "adam": _adam, "adamw": _adamw}


def grad_norm(grads: NDArray) -> float:
    """Euclidean norm of all gradients, flat; the sum in float64."""
    # no BLAS: after a threaded call its workers spin for some 20 ms and take a core from the Numba kernels
    return math.sqrt(float(np.square(grads, dtype=np.float64).sum()))


@dataclass(frozen=True)
class Rule:
    """The constants that an update has, and the learning rate and weight decay that are usual for it."""

    constants: tuple[str, ...]  # fields of OptimizerConfig, besides those that all have
    usual_rate: float
    usual_decay: float = 0.0


OPTIMIZERS: dict[str, Rule] = {
    "sgd": Rule(("momentum",), 1.0),
    "rmsprop": Rule(("alpha", "eps"), 2e-3),
    "adam": Rule(("beta1", "beta2", "eps"), 4e-3),
    "adamw": Rule(("beta1", "beta2", "eps"), 4e-3, 0.01),
}
CONSTANTS = tuple(dict.fromkeys(name for rule in OPTIMIZERS.values() for name in rule.constants))


def _usual(constant: str) -> float:
    """The default of one of ``CONSTANTS``."""
    return float(getattr(OptimizerConfig, constant))


class Optimizer:
    """Moments of all parameters, and their update in place.

    Args:
        config: rule and constants.
        params: all parameters as one flat array.
        updates: the rules' implementation, ``UPDATES`` or that of a backend.
    """

    def __init__(self, config: OptimizerConfig, params: NDArray, updates: Mapping[str, Update] | None = None) -> None:
        self.config, self.params = config, params
        self.updates = np.zeros(1, np.int64)  # how many there were
        self.moments = Moments(np.zeros_like(params), np.zeros_like(params))
        self._update = (updates or UPDATES)[config.name]

    def update(self, grads: NDArray, learning_rate: float, grad_scale: float = 1.0) -> None:
        """One step of every parameter, in place, from flat gradients times ``grad_scale``."""
        self.updates += 1
        progress = Progress(learning_rate, int(self.updates[0]), grad_scale)
        self._update(self.config, self.params, grads, self.moments, progress)


def clip_scale(norm: float, max_norm: float | None) -> float:
    """What gradients of this joint Euclidean norm are multiplied by, so that it is at most ``max_norm``."""
    # 1e-6 as in torch.nn.utils.clip_grad_norm_; not applied to a norm that is NaN or infinite, which the loop reports
    if max_norm is not None and math.isfinite(norm) and norm > max_norm - 1e-6:
        return max_norm / (norm + 1e-6)
    return 1.0


def gradient_factor(config: OptimizerConfig, tokens: int, rows: int) -> float:
    """What the gradients of a mean over ``tokens`` positions in ``rows`` rows are multiplied by first."""
    return tokens / rows if config.sum_over_time else 1.0


class Moment(NamedTuple):
    """Where a training is, for its schedule."""

    done: float  # share of the nearest limit, in [0, 1]
    epochs: int  # whole passes over the data
    plateaus: int  # how often validation stopped getting better


@dataclass(frozen=True)
class Decay:
    """Constants of the schedules that go down in steps.

    Args:
        factor: of one step down.
        after: epochs before the first step down; from then on there is one an epoch ("step").
        patience: validations without a better loss that are let pass before a step down ("plateau").
    """

    factor: float = 0.5
    after: int = 1
    patience: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.factor <= 1:
            raise ConfigError(f"decay: got {self.factor}, needs a number above 0, up to 1")
        for name, value in (("decay_after", self.after), ("decay_patience", self.patience)):
            if value < 0:
                raise ConfigError(f"{name}: got {value}, needs 0 or more")


# Factor of the learning rate. "step" is that of W. Zaremba et al. (2014).
SCHEDULES: dict[str, Callable[[Moment, Decay], float]] = {
    "constant": lambda now, decay: 1.0,
    "cosine": lambda now, decay: 0.5 * (1 + math.cos(math.pi * min(now.done, 1.0))),
    "linear": lambda now, decay: max(1 - now.done, 0.0),
    "step": lambda now, decay: decay.factor ** max(now.epochs + 1 - decay.after, 0),
    "plateau": lambda now, decay: decay.factor**now.plateaus,
}
FREE_OF_LIMITS = ("constant", "step")  # the others would have gone another way with another limit
