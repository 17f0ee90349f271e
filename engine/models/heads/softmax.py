"""The softmax over classes at every time step, on which several heads build.

logits_t = y_t·Wᵀ + b,   ℓ_t = -ln softmax(logits_t)[target_t]
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unrolled.engine.errors import ConfigError, ShapeError
from unrolled.engine.models.heads.head import HeadLoss, Outputs
from unrolled.engine.models.inputs.batch import Batch
from unrolled.engine.models.layers.linear import linear_forward
from unrolled.engine.models.layers.output_loss import LossSums, output_loss

BIAS = "output.bias"


@dataclass(frozen=True)
class StepMetrics:
    """Means over ``count`` classified positions."""

    loss: float  # nats a position
    accuracy: float  # share of targets that were the most probable class
    count: int


def softmax_outputs(params: Mapping[str, NDArray], weight: str, y: NDArray) -> Outputs:
    """Return the logits (T, B, C) of outputs (T, B, D·H), with the matrix (C, D·H) named ``weight``."""
    return {"logits": linear_forward(y, params[weight], params[BIAS])}


def softmax_loss(
    params: Mapping[str, NDArray],
    weight: str,
    y: NDArray,
    batch: Batch,
    grads: Mapping[str, NDArray] | None,
    smoothing: float,
) -> HeadLoss:
    """Return the loss of ``output_loss`` for outputs (T, B, D·H)."""
    pair = None if grads is None else (grads[weight], grads[BIAS])
    sums, dy = output_loss(y, params[weight], params[BIAS], batch.targets, batch.weights, pair, smoothing)
    return HeadLoss(sums, dy)


def check_class_targets(targets: NDArray, weights: NDArray, classes: int) -> None:
    """Check that all targets of positive weight are from 0 to classes - 1.

    Raises:
        ShapeError: one is not.
    """

    def within(ids: NDArray) -> bool:
        return int(ids.view(np.uint64).max(initial=0)) < classes

    # Targets of weight 0 may hold any value, but rarely do: the cheap check of all comes first.
    if not within(targets) and not within(targets[weights > 0]):
        raise ShapeError(f"targets: ids outside the vocabulary's 0 … {classes - 1}")


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
