"""Optimisers, clipping and learning-rate schedules; the update rules are PyTorch's, so that the twins stay together.

Sources: RMSProp, T. Tieleman and G. Hinton, Coursera lecture 6.5 (2012); Adam, D. P. Kingma and J. Ba (2015), algorithm 1;
AdamW, I. Loshchilov and F. Hutter, "Decoupled Weight Decay Regularization" (2019); clipping by norm, R. Pascanu et al.,
"On the difficulty of training recurrent neural networks" (2013); cosine schedule, I. Loshchilov and F. Hutter (2017).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from unrolled.engine.checks import check_choice
from unrolled.engine.errors import ConfigError
from unrolled.engine.params import Params


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
        eps: added to the root of the second moment.
    """

    name: str = "adam"
    learning_rate: float | None = None
    weight_decay: float | None = None
    momentum: float = 0.0
    beta1: float = 0.9
    beta2: float = 0.999
    alpha: float = 0.99
    eps: float = 1e-8

    def __post_init__(self) -> None:
        check_choice("optimizer", self.name, OPTIMIZERS)
        if self.learning_rate is not None and not 0 < self.learning_rate < math.inf:
            raise ConfigError(f"learning_rate: got {self.learning_rate}, needs a number above 0")
        if self.momentum and self.name != "sgd":
            raise ConfigError(f"momentum: got {self.momentum}, which goes with sgd; {self.name} takes none")
        for field in ("momentum", "beta1", "beta2", "alpha"):
            if not 0 <= getattr(self, field) < 1:
                raise ConfigError(f"{field}: got {getattr(self, field)}, needs a number from 0 up to, not including, 1")
        if not 0 <= self.decay < math.inf:
            raise ConfigError(f"weight_decay: got {self.weight_decay}, needs a number that is not negative")
        if not 0 < self.eps < math.inf:
            raise ConfigError(f"eps: got {self.eps}, needs a number above 0")

    @property
    def base_rate(self) -> float:
        """The learning rate before the schedule."""
        return OPTIMIZERS[self.name].usual_rate if self.learning_rate is None else self.learning_rate

    @property
    def decay(self) -> float:
        return OPTIMIZERS[self.name].usual_decay if self.weight_decay is None else self.weight_decay


@dataclass
class Moments:
    """Running moments of one parameter; those that a rule does not use stay zero."""

    first: NDArray
    second: NDArray


Update = Callable[[OptimizerConfig, NDArray, NDArray, Moments, float, int], None]


def _decayed(config: OptimizerConfig, param: NDArray, grad: NDArray) -> NDArray:
    return grad + config.decay * param if config.decay else grad


def _sgd(config: OptimizerConfig, param: NDArray, grad: NDArray, moments: Moments, lr: float, step: int) -> None:
    """m ← μ·m + g;  w ← w - η·m"""
    grad = _decayed(config, param, grad)
    if config.momentum:
        moments.first *= config.momentum
        moments.first += grad
        grad = moments.first
    param -= lr * grad


def _rmsprop(config: OptimizerConfig, param: NDArray, grad: NDArray, moments: Moments, lr: float, step: int) -> None:
    """v ← α·v + (1-α)·g²;  w ← w - η·g / (√v + ε)"""
    grad = _decayed(config, param, grad)
    moments.second *= config.alpha
    moments.second += (1 - config.alpha) * grad * grad
    param -= lr * grad / (np.sqrt(moments.second) + config.eps)


def _adam_step(config: OptimizerConfig, param: NDArray, grad: NDArray, moments: Moments, lr: float, step: int) -> None:
    """m ← β₁·m + (1-β₁)·g;  v ← β₂·v + (1-β₂)·g²;  w ← w - η·m̂ / (√v̂ + ε)"""
    moments.first += (1 - config.beta1) * (grad - moments.first)
    moments.second *= config.beta2
    moments.second += (1 - config.beta2) * grad * grad
    root = np.sqrt(moments.second) / math.sqrt(1 - config.beta2**step) + config.eps
    param -= (lr / (1 - config.beta1**step)) * moments.first / root


def _adam(config: OptimizerConfig, param: NDArray, grad: NDArray, moments: Moments, lr: float, step: int) -> None:
    _adam_step(config, param, _decayed(config, param, grad), moments, lr, step)


def _adamw(config: OptimizerConfig, param: NDArray, grad: NDArray, moments: Moments, lr: float, step: int) -> None:
    param *= 1 - lr * config.decay
    _adam_step(config, param, grad, moments, lr, step)


@dataclass(frozen=True)
class Rule:
    """An update in place of one parameter, and the learning rate and weight decay that are usual for it."""

    update: Update
    usual_rate: float
    usual_decay: float = 0.0


OPTIMIZERS: dict[str, Rule] = {
    "sgd": Rule(_sgd, 1.0),
    "rmsprop": Rule(_rmsprop, 2e-3),
    "adam": Rule(_adam, 2e-3),
    "adamw": Rule(_adamw, 2e-3, 0.01),
}


class Optimizer:
    """Moments of all parameters, and their update in place."""

    def __init__(self, config: OptimizerConfig, params: Params) -> None:
        self.config = config
        self.step = 0
        self.moments = {name: Moments(np.zeros_like(p), np.zeros_like(p)) for name, p in params.items()}

    def update(self, params: Params, grads: Params, learning_rate: float) -> None:
        """One step of every parameter, in place."""
        self.step += 1
        rule = OPTIMIZERS[self.config.name].update
        for name, param in params.items():
            rule(self.config, param, grads[name], self.moments[name], learning_rate, self.step)


def clip_by_norm(grads: Params, max_norm: float | None) -> float:
    """Scale all gradients in place so that their joint Euclidean norm is at most ``max_norm``; return the norm before."""
    # no BLAS here: after a threaded call its workers spin for some 20 ms and take a core from the Numba kernels
    norm = math.sqrt(sum(float(np.square(g).sum(dtype=np.float64)) for g in grads.values()))
    # 1e-6 as in torch.nn.utils.clip_grad_norm_; not applied to a norm that is NaN or infinite, which the loop reports
    if max_norm is not None and math.isfinite(norm) and norm > max_norm - 1e-6:
        for grad in grads.values():
            grad *= max_norm / (norm + 1e-6)
    return norm


# Factor of the learning rate as a function of the share of the training that is done, in [0, 1].
SCHEDULES: dict[str, Callable[[float], float]] = {
    "constant": lambda done: 1.0,
    "cosine": lambda done: 0.5 * (1 + math.cos(math.pi * min(done, 1.0))),
    "linear": lambda done: max(1 - done, 0.0),
}
