"""An optimizer: the moments of all parameters, and their update in place."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from unrolled.engine.optimizers.config import OptimizerConfig
from unrolled.engine.optimizers.gradient_scaling import clip_scale, clip_values, grad_norm
from unrolled.engine.optimizers.update_rules import UPDATE_RULES, Moments, UpdateScalars


class Step(NamedTuple):
    """Numbers that an update reads besides the gradients.

    Args:
        learning_rate: step size.
        number: the updates up to and with this one.
        factor: factor of the gradients, from the normalisation of the loss.
    """

    learning_rate: float
    number: int
    factor: float = 1.0


class Outcome(NamedTuple):
    """The outcome of an update."""

    norm: float  # of the gradients times the factor, before clipping by norm
    updated: bool  # not if norm or loss is NaN or infinite: the parameters then stay as they are


class UpdateFunctions(NamedTuple):
    """The update of an engine, in two halves: only the second reads gradients, and it may run without Python.

    Args:
        prepare: (config, step) -> the numbers (n,) float64 of one update.
        apply: (config, max_norm, param, grad, moments, numbers, sums) -> (2,) float64, norm and 1 if the parameters were
            updated. It clips the flat gradients ``grad`` by value and by their norm, and updates the flat ``param`` and the
            moments in place, unless the norm or the loss, the first of ``sums``, is not finite. It leaves zeros in ``grad``,
            for the next step to add to: a pass over it less.
    """

    prepare: Callable[[OptimizerConfig, Step], NDArray[np.float64]]
    apply: Callable[[OptimizerConfig, float | None, NDArray, NDArray, Moments, NDArray, NDArray], NDArray[np.float64]]


def prepare(config: OptimizerConfig, step: Step) -> NDArray[np.float64]:
    """Return learning rate, number and factor of an update."""
    return np.array(step, np.float64)


def apply(
    config: OptimizerConfig, max_norm: float | None, param: NDArray, grad: NDArray, moments: Moments, numbers: NDArray,
    sums: NDArray,
) -> NDArray[np.float64]:  # fmt: skip
    """Clip the gradients and update the parameters, see ``UpdateFunctions``."""
    rate, number, factor = numbers.tolist()
    if config.clip_value is not None:
        clip_values(grad, config.clip_value, factor)
    norm = factor * grad_norm(grad)
    finite = math.isfinite(norm) and math.isfinite(sums[0])
    if finite:
        scalars = UpdateScalars(rate, int(number), factor * clip_scale(norm, max_norm))
        UPDATE_RULES[config.name](config, param, grad, moments, scalars)
    grad.fill(0)
    return np.array([norm, finite])


REFERENCE = UpdateFunctions(prepare, apply)


class Optimizer:
    """Moments of all parameters, and their update in place.

    Args:
        config: the optimizer and its hyperparameters.
        params: all parameters as one flat array.
        max_norm: bound on the Euclidean norm of all gradients together; None: no bound.
        functions: the update of an engine.
        zeros: (size, dtype) -> an array of zeros. The Numba engine's starts at a cache line, like ``params``: Adam on one
            thread then takes 36 to 43 µs for 116,000 parameters, and up to 99 µs with arrays as NumPy places them.
    """

    def __init__(
        self,
        config: OptimizerConfig,
        params: NDArray,
        max_norm: float | None = None,
        functions: UpdateFunctions = REFERENCE,
        zeros: Callable[[int, np.dtype], NDArray] = np.zeros,
    ) -> None:
        self.config, self.params, self.max_norm = config, params, max_norm
        self.updates = np.zeros(1, np.int64)  # number of updates so far
        self.moments = Moments(*(zeros(len(params), params.dtype) for _ in range(2)))
        self._functions = functions

    def prepare(self, learning_rate: float, factor: float = 1.0) -> NDArray[np.float64]:
        """Return the numbers of the next update."""
        return self._functions.prepare(self.config, Step(learning_rate, int(self.updates[0]) + 1, factor))

    def apply(self, grads: NDArray, numbers: NDArray, sums: NDArray) -> NDArray[np.float64]:
        """Update every parameter in place from flat gradients, see ``UpdateFunctions``; ``count`` takes what it returns."""
        return self._functions.apply(self.config, self.max_norm, self.params, grads, self.moments, numbers, sums)

    def count(self, outcome: NDArray[np.float64]) -> Outcome:
        """Count an update, if it was made; return its outcome."""
        norm, updated = outcome.tolist()
        self.updates += int(updated)
        return Outcome(norm, bool(updated))

    def update(self, grads: NDArray, learning_rate: float, factor: float = 1.0) -> Outcome:
        """Update every parameter in place from flat gradients, whose loss is finite."""
        return self.count(self.apply(grads, self.prepare(learning_rate, factor), np.zeros(1)))
