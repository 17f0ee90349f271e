"""An optimizer: the moments of all parameters, and their update in place."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from unrolled.engine.optimizers.config import OptimizerConfig
from unrolled.engine.optimizers.update_rules import UPDATE_RULES, Moments, UpdateRule, UpdateScalars


class Optimizer:
    """Moments of all parameters, and their update in place.

    Args:
        config: the optimizer and its hyperparameters.
        params: all parameters as one flat array.
        rules: the update rules of an engine, by the optimizer's name.
    """

    def __init__(
        self, config: OptimizerConfig, params: NDArray, rules: Mapping[str, UpdateRule] = UPDATE_RULES
    ) -> None:
        self.config, self.params = config, params
        self.updates = np.zeros(1, np.int64)  # number of updates so far
        self.moments = Moments(np.zeros_like(params), np.zeros_like(params))
        self._rule = rules[config.name]

    def update(self, grads: NDArray, learning_rate: float, grad_scale: float = 1.0) -> None:
        """Update every parameter in place from flat gradients times ``grad_scale``."""
        self.updates += 1
        scalars = UpdateScalars(learning_rate, int(self.updates[0]), grad_scale)
        self._rule(self.config, self.params, grads, self.moments, scalars)
