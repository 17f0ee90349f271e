"""The contract of a head: what a model predicts, and how its predictions are scored."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from unrolled.engine.models.inputs.batch import Batch
from unrolled.engine.models.inputs.input import Input, Shapes
from unrolled.engine.models.layers.core_config import CoreConfig
from unrolled.engine.models.layers.output_loss import LossSums

Outputs = dict[str, NDArray]


class Metrics(Protocol):
    """Means over the counted positions or sequences of an evaluation; a head has a frozen dataclass of its own.

    Its fields of type float are the means from which all other figures follow.
    """

    __dataclass_fields__: ClassVar[dict[str, Any]]

    @property
    def loss(self) -> float:
        """Return the mean loss, Σ wℓ / Σ w."""
        ...

    @property
    def count(self) -> int:
        """Return the number of counted positions or sequences."""
        ...

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON form: each of the head's metrics by its name, and the count by the head's ``counts``."""
        ...


class Metric(NamedTuple):
    """A figure of a head's metrics.

    Args:
        name: the attribute of the metrics, and the key of its JSON form.
        higher_is_better: the direction of improvement.
        title: how screens, tables and graphs name it.
        form: its format specification.
        unit: what the value counts, such as "bits a token"; empty for a figure without a unit.
        axis: label of an axis of its values; empty: the title.
        derived: whether it follows from the other metrics, so that it is not logged at every training step.
        detail: whether it is shown only where there is room.
    """

    name: str
    higher_is_better: bool
    title: str
    form: str = ".4f"
    unit: str = ""
    axis: str = ""
    derived: bool = False
    detail: bool = False

    def of(self, metrics: Metrics) -> float:
        """Return the value in some metrics."""
        return float(getattr(metrics, self.name))

    def cost(self, metrics: Metrics) -> float:
        """Return the value, negated where higher is better: of two costs, the lower is the better one."""
        value = self.of(metrics)
        return -value if self.higher_is_better else value

    @property
    def label(self) -> str:
        """Return the label of an axis of its values."""
        return self.axis or self.title

    def text(self, value: float) -> str:
        """Return the value as text."""
        return f"{value:{self.form}}"


class HeadLoss(NamedTuple):
    """The loss of a batch and, if it was asked for, its gradients.

    Args:
        sums: (2 + n,) float64, the sums over the counted positions or sequences, as ``LossSums.to_array`` orders them.
        dy: (T, B, D·H), gradient of the mean loss with respect to the core's outputs, an array that the caller may overwrite;
            None without gradients.
        dfinal: (S, L·D, B, H), its gradient with respect to the core's final state; None: zero.
    """

    sums: NDArray[np.float64]
    dy: NDArray | None = None
    dfinal: NDArray | None = None


class Head(Protocol):
    """A frozen dataclass of a head's settings. Code outside the registries never tests which head it has.

    ``kind`` is its key in ``HEADS``. ``metrics`` are its figures, the loss first; the one named ``selects`` chooses the best
    checkpoint. ``counts`` is a word in the plural for the positions or sequences that count, such as "tokens"; it is part
    of keys in files. ``smooths`` says whether its loss takes label smoothing, and
    ``stepwise`` whether it is a sum over time steps, each from its own y, target and weight: an engine then gives ``loss`` the
    valid time steps alone, (N, ·) instead of (T, B, ·), without lengths.
    """

    kind: ClassVar[str]
    metrics: ClassVar[tuple[Metric, ...]]
    selects: ClassVar[str]
    counts: ClassVar[str]
    smooths: ClassVar[bool]
    stepwise: ClassVar[bool]
    target_dtype: ClassVar[np.dtype]

    @property
    def target_axes(self) -> tuple[str | int, ...]:
        """Return the axes of the targets: ("time", "batch", …) or ("batch", …); the weights have those that are named."""
        ...

    @property
    def outputs(self) -> dict[str, tuple[str | int, ...]]:
        """Return the axes of each float32 array that ``forward`` returns, by name."""
        ...

    @property
    def guess_loss(self) -> float:
        """Return the mean loss of a blind guess."""
        ...

    def check(self, core: CoreConfig, inputs: Sequence[Input]) -> None:
        """Check that the head goes with a core and its inputs.

        Raises:
            ConfigError: it does not.
        """
        ...

    def capabilities(self, core: CoreConfig, inputs: Sequence[Input]) -> frozenset[str]:
        """Return what a model with this head can do: "step", "run", "generate"."""
        ...

    def parameter_shapes(self, core: CoreConfig) -> Shapes:
        """Return names and shapes of its own parameters, in the order of creation."""
        ...

    @property
    def shared(self) -> tuple[str, ...]:
        """Return the names of the inputs' parameters that the head uses too, as tied weights."""
        ...

    def check_targets(self, targets: NDArray, weights: NDArray) -> None:
        """Check the values of targets whose shape and dtype are right; those of weight 0 may have any value.

        Raises:
            ShapeError: a value is out of range.
        """
        ...

    def forward(
        self,
        params: Mapping[str, NDArray],
        y: NDArray,
        final_state: NDArray,
        lengths: NDArray | None,
        inputs: Mapping[str, NDArray],
    ) -> Outputs:
        """Return the predictions from the core's outputs (T, B, D·H) and final state (S, L·D, B, H).

        Args:
            lengths: (B,), the valid time steps of each row; None: all.
            inputs: the arrays of the batch's inputs by name.
        """
        ...

    def loss(
        self,
        params: Mapping[str, NDArray],
        y: NDArray,
        final_state: NDArray,
        batch: Batch,
        grads: Mapping[str, NDArray] | None,
        smoothing: float,
    ) -> HeadLoss:
        """Return the loss of a batch; with ``grads``, add the gradients of the mean loss to them, and return those of ``y``."""
        ...

    def metrics_of(self, sums: LossSums) -> Metrics:
        """Return the metrics of the sums over an evaluation."""
        ...

    def metrics_from_dict(self, values: Mapping[str, Any]) -> Metrics:
        """Return the metrics that ``to_dict`` wrote.

        Raises:
            ConfigError: a value is missing or not a number.
        """
        ...

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON form, with ``kind``."""
        ...


def selecting_metric(head: Head) -> Metric:
    """Return the metric that chooses the best checkpoint."""
    return next(metric for metric in head.metrics if metric.name == head.selects)


def logged_metrics(head: Head) -> tuple[Metric, ...]:
    """Return the metrics of a training step beside its loss from which all others follow."""
    return tuple(metric for metric in head.metrics[1:] if not metric.derived)


class HeadFunctions(NamedTuple):
    """The two functions of a head on an engine, with the head itself as the first argument of each.

    Their signatures are those of ``Head.forward`` and ``Head.loss`` for every head and engine.

    Args:
        recordable: whether both compute by the engine's kernels alone, so that their calls can be recorded and made again
            (``unrolled.engine.kernels.threads.recording``).
    """

    forward: Callable[..., Outputs]
    loss: Callable[..., HeadLoss]
    recordable: bool = False
