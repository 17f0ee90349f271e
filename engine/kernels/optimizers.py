"""Optimisers' update rules and the gradient norm, compiled; signatures and formulas in ``unrolled.engine.optimizers``.

Each is one loop over all parameters, which the threads share: the readable forms are the NumPy expressions of the reference.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from unrolled.engine.kernels.jit.compilation import compiled_sum
from unrolled.engine.kernels.threads.thread_pool import compiled_on_all_threads
from unrolled.engine.optimizers.config import OptimizerConfig
from unrolled.engine.optimizers.update_rules import Moments, UpdateRule, UpdateScalars

NORM_BLOCK = 1 << 14  # numbers that one thread sums at a time; the blocks' sums are added in order on any threads


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


def grad_norm(grads: NDArray) -> float:
    """Return the Euclidean norm of flat gradients."""
    sums = np.empty(-(-len(grads) // NORM_BLOCK))
    _sums_of_squares(grads, sums)
    return math.sqrt(float(sums.sum()))


@compiled_on_all_threads
def _sgd_kernel(
    part: int, parts: int, param: NDArray, grad: NDArray, first: NDArray, lr: float, scale: float, decay: float,
    momentum: float,
) -> None:  # fmt: skip
    """Update parameters by SGD, with momentum if it is not 0."""
    N, number = param.shape[0], param.dtype.type
    rate, scaled, decayed, kept = number(lr), number(scale), number(decay), number(momentum)
    begin, end = part * N // parts, (part + 1) * N // parts
    p, g, m = param[begin:end], grad[begin:end], first[begin:end]
    if kept == 0:
        for i in range(end - begin):
            p[i] -= rate * (g[i] * scaled + decayed * p[i])
    else:
        for i in range(end - begin):
            m[i] = kept * m[i] + (g[i] * scaled + decayed * p[i])
            p[i] -= rate * m[i]


def _sgd(config: OptimizerConfig, param: NDArray, grad: NDArray, moments: Moments, scalars: UpdateScalars) -> None:
    rate, _, scale = scalars
    _sgd_kernel(param, grad, moments.first, rate, scale, config.effective_weight_decay, config.momentum)


@compiled_on_all_threads
def _rmsprop_kernel(
    part: int, parts: int, param: NDArray, grad: NDArray, second: NDArray, lr: float, scale: float, decay: float,
    alpha: float, eps: float,
) -> None:  # fmt: skip
    """Update parameters by RMSprop."""
    N, number = param.shape[0], param.dtype.type
    rate, scaled, decayed, small = number(lr), number(scale), number(decay), number(eps)
    kept, new = number(alpha), number(1 - alpha)
    begin, end = part * N // parts, (part + 1) * N // parts
    p, g, v = param[begin:end], grad[begin:end], second[begin:end]
    for i in range(end - begin):
        d = g[i] * scaled + decayed * p[i]
        v[i] = kept * v[i] + new * d * d
        p[i] -= rate * d / (np.sqrt(v[i]) + small)


def _rmsprop(config: OptimizerConfig, param: NDArray, grad: NDArray, moments: Moments, scalars: UpdateScalars) -> None:
    rate, _, scale = scalars
    _rmsprop_kernel(
        param, grad, moments.second, rate, scale, config.effective_weight_decay, config.alpha, config.eps
    )  # fmt: skip


@compiled_on_all_threads
def _adam_kernel(
    part: int, parts: int, param: NDArray, grad: NDArray, first: NDArray, second: NDArray, constants: NDArray,
) -> None:  # fmt: skip
    """Update parameters by Adam or AdamW; ``_run_adam`` lists the constants, which have the dtype of the parameters."""
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


def _run_adam(
    config: OptimizerConfig, param: NDArray, grad: NDArray, moments: Moments, scalars: UpdateScalars, decay: float,
    kept: float,
) -> None:  # fmt: skip
    """Run Adam with L2 ``decay``, after the parameters are multiplied by ``kept``."""
    rate, step, scale = scalars
    root_scale = 1 / math.sqrt(1 - config.beta2**step)
    rate /= 1 - config.beta1**step
    numbers = (scale, decay, kept, 1 - config.beta1, config.beta2, 1 - config.beta2, root_scale, config.eps, rate)
    _adam_kernel(param, grad, *moments, np.array(numbers, param.dtype))


def _adam(config: OptimizerConfig, param: NDArray, grad: NDArray, moments: Moments, scalars: UpdateScalars) -> None:
    _run_adam(config, param, grad, moments, scalars, config.effective_weight_decay, 1.0)


def _adamw(config: OptimizerConfig, param: NDArray, grad: NDArray, moments: Moments, scalars: UpdateScalars) -> None:
    _run_adam(config, param, grad, moments, scalars, 0.0, 1 - scalars.learning_rate * config.effective_weight_decay)


UPDATE_RULES: dict[str, UpdateRule] = {"sgd": _sgd, "rmsprop": _rmsprop, "adam": _adam, "adamw": _adamw}
