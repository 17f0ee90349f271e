"""The softmax over classes at every time step, on which several heads build.

logits_t = y_t·Wᵀ + b,   ℓ_t = -ln softmax(logits_t)[target_t]
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from unrolled.engine.canonical import canonical_settings
from unrolled.engine.errors import ConfigError, ShapeError
from unrolled.engine.models.heads.head import HeadLoss, Outputs
from unrolled.engine.models.inputs.batch import Batch
from unrolled.engine.models.inputs.input import Shapes
from unrolled.engine.models.layers.core_config import CoreConfig
from unrolled.engine.models.layers.linear import linear_forward
from unrolled.engine.models.layers.output_loss import LossSums, output_loss

WEIGHT, BIAS = "output.weight", "output.bias"


@dataclass(frozen=True)
class StepMetrics:
    """Means over ``count`` classified positions."""

    loss: float  # nats a position
    accuracy: float  # share of targets that were the most probable class
    count: int


class SoftmaxHead(ABC):
    """The parts that heads with a softmax over C classes at every time step share; derived classes are frozen dataclasses.

    ``whose`` names, in messages, what the classes are those of.
    """

    kind: ClassVar[str]
    whose: ClassVar[str]
    selects: ClassVar[str] = "loss"
    smooths: ClassVar[bool] = True
    stepwise: ClassVar[bool] = True
    target_dtype: ClassVar[np.dtype] = np.dtype(np.int64)

    @property
    @abstractmethod
    def num_classes(self) -> int:
        """Return C."""

    @property
    def weight_name(self) -> str:
        """Return the name of the output layer's (C, D·H) matrix."""
        return WEIGHT

    @property
    def shared(self) -> tuple[str, ...]:
        """Return the output layer's matrix if it is that of an input."""
        return () if self.weight_name == WEIGHT else (self.weight_name,)

    @property
    def target_axes(self) -> tuple[str | int, ...]:
        """Return the axes of the targets."""
        return ("time", "batch")

    @property
    def outputs(self) -> dict[str, tuple[str | int, ...]]:
        """Return the axes of the logits."""
        return {"logits": ("time", "batch", self.num_classes)}

    @property
    def guess_loss(self) -> float:
        """Return ln C, the loss of uniform probabilities."""
        return math.log(self.num_classes)

    def parameter_shapes(self, core: CoreConfig) -> Shapes:
        """Return the shapes of the output layer's matrix, unless it is that of an input, and bias."""
        weight = {} if self.shared else {WEIGHT: (self.num_classes, core.output_size)}
        return {**weight, BIAS: (self.num_classes,)}

    def check_targets(self, targets: NDArray, weights: NDArray) -> None:
        """Check that all targets of positive weight are from 0 to C - 1.

        Raises:
            ShapeError: one is not.
        """

        def within(ids: NDArray) -> bool:
            return int(ids.view(np.uint64).max(initial=0)) < self.num_classes

        # Targets of weight 0 may hold any value, but rarely do: the cheap check of all comes first.
        if not within(targets) and not within(targets[weights > 0]):
            raise ShapeError(f"targets: ids outside {self.whose} 0 … {self.num_classes - 1}")

    def forward(
        self,
        params: Mapping[str, NDArray],
        y: NDArray,
        final_state: NDArray,
        lengths: NDArray | None,
        inputs: Mapping[str, NDArray],
    ) -> Outputs:
        """Return the logits (T, B, C) of outputs (T, B, D·H)."""
        return {"logits": linear_forward(y, params[self.weight_name], params[BIAS])}

    def loss(
        self,
        params: Mapping[str, NDArray],
        y: NDArray,
        final_state: NDArray,
        batch: Batch,
        grads: Mapping[str, NDArray] | None,
        smoothing: float,
    ) -> HeadLoss:
        """Return the cross-entropy of the classes for outputs (T, B, D·H)."""
        weight = self.weight_name
        pair = None if grads is None else (grads[weight], grads[BIAS])
        sums, dy = output_loss(y, params[weight], params[BIAS], batch.targets, batch.weights, pair, smoothing)
        return HeadLoss(sums.to_array(), dy)

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON form."""
        return {"kind": self.kind, **canonical_settings(self)}


def step_metrics(sums: LossSums) -> StepMetrics:
    """Return the metrics of sums."""
    correct, positions = sums.details
    return StepMetrics(sums.loss / (sums.weight or 1), correct / (positions or 1), int(positions))


def numbers_of(values: Mapping[str, Any], count: str) -> tuple[float, float, int]:
    """Return loss, accuracy and count of the JSON form of metrics.

    Raises:
        ConfigError: a value is missing or not a number.
    """
    try:
        return float(values["loss"]), float(values["accuracy"]), int(values[count])
    except (KeyError, TypeError, ValueError) as error:
        raise ConfigError(f"metrics: got {values!r}, needs loss, accuracy and {count}") from error
