"""Norm of the gradients, and the factors that clipping and the loss's normalisation apply to them.

Source: clipping by norm, R. Pascanu et al., "On the difficulty of training recurrent neural networks" (2013).
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from unrolled.engine.optimizers.config import OptimizerConfig

SMALLEST_FACTOR = 1e-30  # that bounds of gradients are divided by


def grad_norm(grads: NDArray) -> float:
    """Return the Euclidean norm of all gradients, one flat array, summed in float64."""
    # No BLAS: after a threaded call its workers spin for some 20 ms and take a core from the Numba kernels.
    return math.sqrt(float(np.square(grads, dtype=np.float64).sum()))


def clip_scale(norm: float, max_norm: float | None) -> float:
    """Return the factor that brings gradients of this joint Euclidean norm to at most ``max_norm``."""
    # 1e-6 as in torch.nn.utils.clip_grad_norm_. A norm that is NaN or infinite is left alone: the loop reports it.
    if max_norm is not None and math.isfinite(norm) and norm > max_norm - 1e-6:
        return max_norm / (norm + 1e-6)
    return 1.0


def clip_values(grads: NDArray, limit: float, factor: float) -> None:
    """Bound the absolute value of each gradient times ``factor`` by ``limit``, in place; the factor is applied later."""
    bound = limit / max(factor, SMALLEST_FACTOR)
    np.clip(grads, -bound, bound, out=grads)


def gradient_factor(config: OptimizerConfig, weight: float, rows: int) -> float:
    """Return the factor that normalises the gradients of a mean over positions of joint ``weight`` in ``rows`` rows."""
    return weight / rows if config.sum_over_time else 1.0
