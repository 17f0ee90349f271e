"""Training with an exponential moving average of the weights as the model.

Source: B. T. Polyak and A. B. Juditsky, "Acceleration of Stochastic Approximation by Averaging" (1992), in the form of an
exponential moving average.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from unrolled.engine.errors import ModelFileError
from unrolled.engine.models.dropout import Masks
from unrolled.engine.models.heads.head import Outputs
from unrolled.engine.models.inputs.batch import Batch
from unrolled.engine.models.layers.output_loss import LossSums
from unrolled.engine.models.parameters import Params
from unrolled.engine.models.spec import ModelSpec
from unrolled.engine.network.network import Inputs
from unrolled.engine.training.trainable import StepResult, Trainable

AVERAGE_PREFIX, AVERAGE_UPDATES = "average/", "average_updates"  # keys in a training state


class AveragedTrainable:
    """A trainable that trains as ``inner`` does, and evaluates, samples and saves with averaged weights.

    average ← average + (1 - d)·(weights - average),   d = min(decay, (1 + n) / (10 + n)) at the n-th update,
    so that the random initial weights soon lose their influence.

    Args:
        inner: any engine's trainable.
        decay: in (0, 1); weights older than about 1 / (1 - decay) updates count little.
    """

    def __init__(self, inner: Trainable, decay: float) -> None:
        self.inner, self.decay = inner, decay
        self._average = inner.export_params()
        self._updates = 0
        self._weights: Params | None = None  # the trained weights, while ``inner`` holds the average

    @property
    def spec(self) -> ModelSpec:
        return self.inner.spec

    @property
    def engine(self) -> str:
        return self.inner.engine

    @property
    def dtype(self) -> np.dtype:
        return self.inner.dtype

    @property
    def learning_rate(self) -> float:
        return self.inner.learning_rate

    def _load_weights(self) -> None:
        """Put the trained weights into ``inner``, if it holds the average."""
        if self._weights is not None:
            self.inner.load_params(self._weights)
            self._weights = None

    def _load_average(self) -> None:
        """Put the average into ``inner``, and keep the trained weights."""
        if self._weights is None:
            self._weights = self.inner.export_params()
            self.inner.load_params(self._average)

    def train_step(self, batch: Batch, state: NDArray, learning_rate: float, masks: Masks | None) -> StepResult:
        self._load_weights()
        result = self.inner.train_step(batch, state, learning_rate, masks)
        self._updates += 1
        decay = min(self.decay, (1 + self._updates) / (10 + self._updates))
        for name, value in self.inner.export_params().items():
            value -= self._average[name]
            value *= value.dtype.type(1 - decay)
            self._average[name] += value
        return result

    def evaluate(self, batch: Batch, state: NDArray) -> tuple[LossSums, NDArray]:
        self._load_average()
        return self.inner.evaluate(batch, state)

    def step(self, inputs: Inputs, state: NDArray) -> tuple[Outputs, NDArray]:
        self._load_average()
        return self.inner.step(inputs, state)

    def warm_up(self, batch: Batch, state: NDArray) -> None:
        self._load_weights()
        self.inner.warm_up(batch, state)

    def export_params(self) -> Params:
        return {name: value.copy() for name, value in self._average.items()}

    def load_params(self, params: Params) -> None:
        """Restart training and average from ``params``."""
        self._weights = None
        self.inner.load_params(params)
        self._average, self._updates = self.inner.export_params(), 0

    def training_state(self) -> dict[str, NDArray]:
        self._load_weights()
        averages = {AVERAGE_PREFIX + name: value for name, value in self.export_params().items()}
        return {**self.inner.training_state(), **averages, AVERAGE_UPDATES: np.array([self._updates])}

    def load_training_state(self, arrays: Mapping[str, NDArray]) -> None:
        self._weights = None
        averages, inner = {}, {}
        for name, value in arrays.items():
            if name.startswith(AVERAGE_PREFIX):
                averages[name.removeprefix(AVERAGE_PREFIX)] = value
            elif name != AVERAGE_UPDATES:
                inner[name] = value
        if set(averages) != set(self._average) or AVERAGE_UPDATES not in arrays:
            raise ModelFileError("training state: the averaged weights are missing")
        self.inner.load_training_state(inner)
        self._average = {name: averages[name].copy() for name in self._average}
        self._updates = int(arrays[AVERAGE_UPDATES][0])
