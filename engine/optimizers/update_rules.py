"""Update rules of the optimizers in NumPy, by PyTorch's formulas, so that the PyTorch twin takes the same steps."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from unrolled.engine.optimizers.config import OptimizerConfig


class Moments(NamedTuple):
    """Running moments of the gradients, each one flat array; a moment that a rule does not use stays zero."""

    first: NDArray
    second: NDArray


class UpdateScalars(NamedTuple):
    """Scalars of one update."""

    learning_rate: float
    step: int  # counted from 1
    grad_scale: float  # factor of the gradients, from clipping


UpdateRule = Callable[
    [OptimizerConfig, NDArray, NDArray, Moments, UpdateScalars], None
]  # updates all parameters in place


def _decayed(config: OptimizerConfig, param: NDArray, grad: NDArray, scalars: UpdateScalars) -> NDArray:
    """Return the scaled gradient plus the weight decay's term."""
    grad = grad * grad.dtype.type(scalars.grad_scale)
    return grad + config.effective_weight_decay * param if config.effective_weight_decay else grad


def _sgd(config: OptimizerConfig, param: NDArray, grad: NDArray, moments: Moments, scalars: UpdateScalars) -> None:
    """Apply gradient descent with momentum: m ← μ·m + g;  w ← w - η·m."""
    grad = _decayed(config, param, grad, scalars)
    if config.momentum:
        moments.first[:] = config.momentum * moments.first + grad
        grad = moments.first
    param -= scalars.learning_rate * grad


def _rmsprop(config: OptimizerConfig, param: NDArray, grad: NDArray, moments: Moments, scalars: UpdateScalars) -> None:
    """Apply RMSProp: v ← α·v + (1-α)·g²;  w ← w - η·g / (√v + ε)."""
    grad, second = _decayed(config, param, grad, scalars), moments.second
    second *= config.alpha
    second += (1 - config.alpha) * grad * grad
    param -= scalars.learning_rate * grad / (np.sqrt(second) + config.eps)


def _adam(config: OptimizerConfig, param: NDArray, grad: NDArray, moments: Moments, scalars: UpdateScalars) -> None:
    """Apply Adam: m ← β₁·m + (1-β₁)·g;  v ← β₂·v + (1-β₂)·g²;  w ← w - η·m̂ / (√v̂ + ε)."""
    (first, second), step = moments, scalars.step
    grad = _decayed(config, param, grad, scalars)
    first += (1 - config.beta1) * (grad - first)
    second *= config.beta2
    second += (1 - config.beta2) * grad * grad
    root = np.sqrt(second) / math.sqrt(1 - config.beta2**step) + config.eps
    param -= (scalars.learning_rate / (1 - config.beta1**step)) * first / root


def _adamw(config: OptimizerConfig, param: NDArray, grad: NDArray, moments: Moments, scalars: UpdateScalars) -> None:
    """Apply AdamW: w ← w·(1 - η·λ), then Adam without weight decay."""
    param *= 1 - scalars.learning_rate * config.effective_weight_decay
    _adam(replace(config, weight_decay=0.0), param, grad, moments, scalars)


UPDATE_RULES: dict[str, UpdateRule] = {"sgd": _sgd, "rmsprop": _rmsprop, "adam": _adam, "adamw": _adamw}
