"""The head of a tagger: one of C classes at every time step, by a softmax."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

from unrolled.engine.checks import check_whole
from unrolled.engine.models.heads.head import Metric
from unrolled.engine.models.heads.softmax import SoftmaxHead, numbers_of, step_metrics
from unrolled.engine.models.inputs.input import Input
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
class StepLabelsHead(SoftmaxHead):
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
    counts: ClassVar[str] = "labels"
    whose: ClassVar[str] = "the classes'"

    def __post_init__(self) -> None:
        check_whole("classes", self.classes, 2)

    @property
    def num_classes(self) -> int:
        """Return C."""
        return self.classes

    def check(self, core: CoreConfig, inputs: Sequence[Input]) -> None:
        """Accept every core and all inputs."""

    def capabilities(self, core: CoreConfig, inputs: Sequence[Input]) -> frozenset[str]:
        """Return "run", and "step" for a core of one direction."""
        return frozenset({"run"} if core.bidirectional else {"run", "step"})

    def metrics_of(self, sums: LossSums) -> StepLabelMetrics:
        """Return loss and accuracy of an evaluation."""
        means = step_metrics(sums)
        return StepLabelMetrics(means.loss, means.accuracy, means.count)

    def metrics_from_dict(self, values: Mapping[str, Any]) -> StepLabelMetrics:
        """Return the metrics that ``to_dict`` wrote."""
        return StepLabelMetrics(*numbers_of(values, self.counts))
