"""Clipping of gradients and the optimisers' updates, compiled; formulas in ``unrolled.engine.optimizers``.

Each update is one loop over all parameters, which the threads share: the readable forms are the NumPy expressions of the
reference. What follows from the settings and the number of the update alone is computed in Python (``prepare``); what follows
from the gradients is computed by kernels (``apply``), so that they run without Python in between.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from unrolled.engine.kernels.jit.compilation import compiled, compiled_sum
from unrolled.engine.kernels.threads.thread_pool import compiled_on_all_threads, compiled_parallel
from unrolled.engine.optimizers.config import OptimizerConfig
from unrolled.engine.optimizers.gradient_scaling import SMALLEST_FACTOR
from unrolled.engine.optimizers.optimizer import Step, UpdateFunctions
from unrolled.engine.optimizers.update_rules import Moments

NORM_BLOCK = 1 << 14  # numbers that one thread sums at a time; the blocks' sums are added in order on any threads
CONSTANTS = 9  # at most, of a rule: the first is the factor of the gradients


@compiled_sum
def _sum_of_squares(values: NDArray) -> float:
    """Return Σ v² in float64."""
    total = 0.0
    for i in range(values.shape[0]):
        value = np.float64(values[i])
        total += value * value
    return total


@compiled_on_all_threads
def _sums_of_squares(part: int, parts: int, values: NDArray, sums: NDArray) -> None:
    """Fill ``sums`` with the sum of squares of each block."""
    N, blocks = values.shape[0], sums.shape[0]
    for block in range(part * blocks // parts, (part + 1) * blocks // parts):
        sums[block] = _sum_of_squares(values[block * NORM_BLOCK : min((block + 1) * NORM_BLOCK, N)])


@compiled_on_all_threads
def _clip(part: int, parts: int, grad: NDArray, limit: float, numbers: NDArray) -> None:
    """Bound the absolute value of each gradient times the factor, the last of ``numbers``; the factor is applied later."""
    N, bound = grad.shape[0], grad.dtype.type(limit / max(numbers[-1], SMALLEST_FACTOR))
    own = grad[part * N // parts : (part + 1) * N // parts]
    for i in range(len(own)):
        value = own[i]
        own[i] = bound if value > bound else -bound if value < -bound else value  # a NaN stays


@compiled_parallel
def _finish(
    part: int, parts: int, squares: NDArray, sums: NDArray, numbers: NDArray, max_norm: float, constants: NDArray,
    outcome: NDArray,
) -> None:  # fmt: skip
    """Fill the rule's constants, and the outcome of an update: the gradients' norm, and whether it and the loss are finite.

    The last of ``numbers`` is the factor of the gradients; the others are the constants after the first. ``max_norm`` is
    infinite where there is no clipping by norm (``unrolled.engine.optimizers.gradient_scaling.clip_scale``).
    """
    total, factor = 0.0, numbers[-1]
    for block in range(len(squares)):
        total += squares[block]
    norm = factor * math.sqrt(total)
    scale = factor
    if math.isfinite(norm) and norm > max_norm - 1e-6:
        scale = factor * (max_norm / (norm + 1e-6))
    constants[0] = scale
    for i in range(len(numbers) - 1):
        constants[i + 1] = numbers[i]
    outcome[0] = norm
    outcome[1] = 1.0 if math.isfinite(norm) and math.isfinite(sums[0]) else 0.0


@compiled
def _clear(part: int, parts: int, grad: NDArray) -> None:
    """Set a part's share of the gradients to 0."""
    N = grad.shape[0]
    grad[part * N // parts : (part + 1) * N // parts] = 0


@compiled_on_all_threads
def _sgd_kernel(
    part: int, parts: int, param: NDArray, grad: NDArray, first: NDArray, second: NDArray, constants: NDArray,
    outcome: NDArray,
) -> None:  # fmt: skip
    """Update parameters by SGD, with momentum if it is not 0."""
    if outcome[1] == 0:
        _clear(part, parts, grad)
        return
    N = param.shape[0]
    scaled, rate, decayed, kept = constants[0], constants[1], constants[2], constants[3]
    begin, end = part * N // parts, (part + 1) * N // parts
    p, g, m = param[begin:end], grad[begin:end], first[begin:end]
    if kept == 0:
        for i in range(end - begin):
            p[i] -= rate * (g[i] * scaled + decayed * p[i])
            g[i] = 0
    else:
        for i in range(end - begin):
            m[i] = kept * m[i] + (g[i] * scaled + decayed * p[i])
            p[i] -= rate * m[i]
            g[i] = 0


def _sgd(config: OptimizerConfig, step: Step) -> tuple[float, ...]:
    return step.learning_rate, config.effective_weight_decay, config.momentum


@compiled_on_all_threads
def _rmsprop_kernel(
    part: int, parts: int, param: NDArray, grad: NDArray, first: NDArray, second: NDArray, constants: NDArray,
    outcome: NDArray,
) -> None:  # fmt: skip
    """Update parameters by RMSprop."""
    if outcome[1] == 0:
        _clear(part, parts, grad)
        return
    N = param.shape[0]
    scaled, rate, decayed, small = constants[0], constants[1], constants[2], constants[3]
    kept, new = constants[4], constants[5]
    begin, end = part * N // parts, (part + 1) * N // parts
    p, g, v = param[begin:end], grad[begin:end], second[begin:end]
    for i in range(end - begin):
        d = g[i] * scaled + decayed * p[i]
        v[i] = kept * v[i] + new * d * d
        p[i] -= rate * d / (np.sqrt(v[i]) + small)
        g[i] = 0


def _rmsprop(config: OptimizerConfig, step: Step) -> tuple[float, ...]:
    return step.learning_rate, config.effective_weight_decay, config.eps, config.alpha, 1 - config.alpha


@compiled_on_all_threads
def _adam_kernel(
    part: int, parts: int, param: NDArray, grad: NDArray, first: NDArray, second: NDArray, constants: NDArray,
    outcome: NDArray,
) -> None:  # fmt: skip
    """Update parameters by Adam or AdamW; ``_adam_constants`` lists the constants after the first."""
    if outcome[1] == 0:
        _clear(part, parts, grad)
        return
    N = param.shape[0]
    begin, end = part * N // parts, (part + 1) * N // parts
    p, g, m, v = param[begin:end], grad[begin:end], first[begin:end], second[begin:end]
    scale, decay, kept, new_m, beta2, new_v = (
        constants[0], constants[1], constants[2], constants[3], constants[4], constants[5],
    )  # fmt: skip
    root_scale, eps, rate = constants[6], constants[7], constants[8]
    for i in range(end - begin):
        w = p[i] * kept
        d = g[i] * scale + decay * w
        m[i] += new_m * (d - m[i])
        v[i] = beta2 * v[i] + new_v * d * d
        p[i] = w - rate * m[i] / (np.sqrt(v[i]) * root_scale + eps)
        g[i] = 0


def _adam_constants(config: OptimizerConfig, step: Step, decay: float, kept: float) -> tuple[float, ...]:
    """Return the constants of Adam with L2 ``decay``, after the parameters are multiplied by ``kept``."""
    root_scale = 1 / math.sqrt(1 - config.beta2**step.number)
    rate = step.learning_rate / (1 - config.beta1**step.number)
    return decay, kept, 1 - config.beta1, config.beta2, 1 - config.beta2, root_scale, config.eps, rate


def _adam(config: OptimizerConfig, step: Step) -> tuple[float, ...]:
    return _adam_constants(config, step, config.effective_weight_decay, 1.0)


def _adamw(config: OptimizerConfig, step: Step) -> tuple[float, ...]:
    return _adam_constants(config, step, 0.0, 1 - step.learning_rate * config.effective_weight_decay)


class _Rule(NamedTuple):
    """An update rule: its constants after the factor of the gradients, and its kernel."""

    constants: Callable[[OptimizerConfig, Step], tuple[float, ...]]
    kernel: Callable[..., Any]


RULES: dict[str, _Rule] = {
    "sgd": _Rule(_sgd, _sgd_kernel),
    "rmsprop": _Rule(_rmsprop, _rmsprop_kernel),
    "adam": _Rule(_adam, _adam_kernel),
    "adamw": _Rule(_adamw, _adam_kernel),
}


def prepare(config: OptimizerConfig, step: Step) -> NDArray[np.float64]:
    """Return the constants of the rule after the first, and the factor of the gradients."""
    return np.array((*RULES[config.name].constants(config, step), step.factor))


def apply(
    config: OptimizerConfig, max_norm: float | None, param: NDArray, grad: NDArray, moments: Moments, numbers: NDArray,
    sums: NDArray,
) -> NDArray[np.float64]:  # fmt: skip
    """Clip the gradients and update the parameters."""
    squares, outcome = np.empty(-(-len(grad) // NORM_BLOCK)), np.empty(2)
    constants = np.empty(CONSTANTS, param.dtype)
    if config.clip_value is not None:
        _clip(grad, float(config.clip_value), numbers)
    _sums_of_squares(grad, squares)
    _finish(1, squares, sums, numbers, math.inf if max_norm is None else float(max_norm), constants, outcome)
    RULES[config.name].kernel(param, grad, *moments, constants, outcome)
    return outcome


UPDATE = UpdateFunctions(prepare, apply)
