"""The head of a tagger: one of C classes at every time step, by a softmax."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from unrolled.engine.canonical import canonical_settings
from unrolled.engine.checks import check_whole
from unrolled.engine.models.heads.head import HeadLoss, Metric, Outputs
from unrolled.engine.models.heads.softmax import (
    BIAS,
    check_class_targets,
    numbers_of,
    softmax_loss,
    softmax_outputs,
    step_metrics,
)
from unrolled.engine.models.inputs.batch import Batch
from unrolled.engine.models.inputs.input import Input, Shapes
from unrolled.engine.models.layers.core_config import CoreConfig
from unrolled.engine.models.layers.output_loss import LossSums


@dataclass(frozen=True)
class StepLabelMetrics:
    """Means over ``labels`` classified time steps."""

    loss: float  # nats a label
    accuracy: float  # share of labels that were the most probable class
    labels: int

    @property
    def count(self) -> int:
        """Return the number of labels."""
        return self.labels

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON form."""
        return asdict(self)


@dataclass(frozen=True)
class StepLabelsHead:
    """Predicts one of C classes at every time step.

    Args:
        classes: C, at least 2.
    """

    classes: int

    kind: ClassVar[str] = "step_labels"
    metrics: ClassVar[tuple[Metric, ...]] = (
        Metric("loss", False, "loss", unit="nats a label", axis="cross-entropy, nats a label"),
        Metric("accuracy", True, "accuracy", ".1%"),
    )
    selects: ClassVar[str] = "loss"
    counts: ClassVar[str] = "labels"
    smooths: ClassVar[bool] = True
    stepwise: ClassVar[bool] = True
    target_dtype: ClassVar[np.dtype] = np.dtype(np.int64)

    def __post_init__(self) -> None:
        check_whole("classes", self.classes, 2)

    @property
    def target_axes(self) -> tuple[str | int, ...]:
        """Return the axes of the targets."""
        return ("time", "batch")

    @property
    def outputs(self) -> dict[str, tuple[str | int, ...]]:
        """Return the axes of the logits."""
        return {"logits": ("time", "batch", self.classes)}

    @property
    def guess_loss(self) -> float:
        """Return ln C, the loss of uniform probabilities."""
        return math.log(self.classes)

    @property
    def weight_name(self) -> str:
        """Return the name of the output layer's (C, D·H) matrix."""
        return "output.weight"

    def check(self, core: CoreConfig, inputs: Sequence[Input]) -> None:
        """Accept every core and all inputs."""

    def capabilities(self, core: CoreConfig, inputs: Sequence[Input]) -> frozenset[str]:
        """Return "run", and "step" for a core of one direction."""
        return frozenset({"run"} if core.bidirectional else {"run", "step"})

    def parameter_shapes(self, core: CoreConfig) -> Shapes:
        """Return the shapes of the output layer's matrix and bias."""
        return {self.weight_name: (self.classes, core.output_size), BIAS: (self.classes,)}

    @property
    def shared(self) -> tuple[str, ...]:
        """Return no names: the output layer has a matrix of its own."""
        return ()

    def check_targets(self, targets: NDArray, weights: NDArray) -> None:
        """Check that all targets of positive weight are classes."""
        check_class_targets(targets, weights, self.classes)

    def forward(
        self,
        params: Mapping[str, NDArray],
        y: NDArray,
        final_state: NDArray,
        lengths: NDArray | None,
        inputs: Mapping[str, NDArray],
    ) -> Outputs:
        """Return the logits (T, B, C)."""
        return softmax_outputs(params, self.weight_name, y)

    def loss(
        self,
        params: Mapping[str, NDArray],
        y: NDArray,
        final_state: NDArray,
        batch: Batch,
        grads: Mapping[str, NDArray] | None,
        smoothing: float,
    ) -> HeadLoss:
        """Return the cross-entropy of the classes."""
        return softmax_loss(params, self.weight_name, y, batch, grads, smoothing)

    def metrics_of(self, sums: LossSums) -> StepLabelMetrics:
        """Return loss and accuracy of an evaluation."""
        means = step_metrics(sums)
        return StepLabelMetrics(means.loss, means.accuracy, means.count)

    def metrics_from_dict(self, values: Mapping[str, Any]) -> StepLabelMetrics:
        """Return the metrics that ``to_dict`` wrote."""
        return StepLabelMetrics(*numbers_of(values, self.counts))

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON form."""
        return {"kind": self.kind, **canonical_settings(self)}
