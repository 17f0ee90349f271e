"""The contract between training loop and engines, and the network from scratch as a trainable."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from unrolled.engine.errors import ConfigError, ModelFileError, SettingName
from unrolled.engine.models.batch_checks import checked_batch
from unrolled.engine.models.dropout import NO_MASKS, Masks
from unrolled.engine.models.heads.head import Outputs
from unrolled.engine.models.inputs.batch import Batch
from unrolled.engine.models.layers.output_loss import LossSums
from unrolled.engine.models.parameters import Params, check_params, parameter_count, parameter_shapes, parameter_views
from unrolled.engine.models.spec import ModelSpec
from unrolled.engine.network.backends import FLOAT32, get_backend
from unrolled.engine.network.network import Inputs, Network
from unrolled.engine.network.recordings import Recordings
from unrolled.engine.optimizers.config import OptimizerConfig
from unrolled.engine.optimizers.gradient_scaling import gradient_factor
from unrolled.engine.optimizers.optimizer import Optimizer


class StepResult(NamedTuple):
    """Loss, gradient norm and new state of a training step."""

    loss: LossSums
    grad_norm: float  # before clipping
    state: NDArray  # (S, L·D, B, H), the final state of the batch


class Trainable(Protocol):
    """A model with its optimizer. Dropout masks come from the loop, so that all engines drop the same units."""

    @property
    def spec(self) -> ModelSpec:
        """Return the description of the model."""
        ...

    @property
    def engine(self) -> str:
        """Return the engine's name."""
        ...

    @property
    def dtype(self) -> np.dtype:
        """Return the dtype of parameters and state."""
        ...

    @property
    def learning_rate(self) -> float:
        """Return the learning rate before the schedule."""
        ...

    def step(self, inputs: Inputs, state: NDArray) -> tuple[Outputs, NDArray]:
        """Return the head's outputs for time steps that continue ``state``, and the state after them."""
        ...

    def train_step(self, batch: Batch, state: NDArray, learning_rate: float, masks: Masks | None) -> StepResult:
        """Update the parameters from one batch, unless its loss or gradient norm is not finite."""
        ...

    def evaluate(self, batch: Batch, state: NDArray) -> tuple[LossSums, NDArray]:
        """Return the loss sums of a batch and the state after it, without gradients."""
        ...

    def warm_up(self, batch: Batch, state: NDArray) -> None:
        """Compile and allocate for training steps of this size, without changing the parameters."""
        ...

    def export_params(self) -> Params:
        """Return a copy of the parameters."""
        ...

    def load_params(self, params: Params) -> None:
        """Replace the parameters, and keep the optimizer's state."""
        ...

    def training_state(self) -> dict[str, NDArray]:
        """Return copies of the arrays that determine the next update: parameters, moments, and the number of updates."""
        ...

    def load_training_state(self, arrays: Mapping[str, NDArray]) -> None:
        """Restore the arrays that ``training_state`` returned.

        Raises:
            ModelFileError: an array is missing, unexpected, or of another shape or dtype.
        """
        ...


def check_state(arrays: Mapping[str, NDArray], expected: Mapping[str, NDArray]) -> None:
    """Check names, shapes and dtypes of a training state against those of ``expected``.

    Raises:
        ModelFileError: an array is missing, unexpected, or of another shape or dtype.
    """
    if different := sorted(set(arrays) ^ set(expected)):
        raise ModelFileError(f"training state: {', '.join(different)} missing or not expected")
    for name, value in expected.items():
        got = arrays[name]
        if (got.shape, got.dtype) != (value.shape, value.dtype):
            raise ModelFileError(
                f"training state: {name} is {got.dtype} of shape {got.shape}, needs {value.dtype} of {value.shape}"
            )


def check_smoothing(spec: ModelSpec, optimizer: OptimizerConfig) -> None:
    """Check that the head takes the label smoothing of an optimizer's settings.

    Raises:
        ConfigError: it takes none.
    """
    if optimizer.label_smoothing and not spec.head.smooths:
        raise ConfigError(
            SettingName("label_smoothing"),
            f": got {optimizer.label_smoothing}, which the head {spec.head.kind} takes none of",
        )


class _Updated(NamedTuple):
    """The results of an update in arrays that the next one may write over."""

    sums: NDArray[np.float64]  # of the loss
    outcome: NDArray[np.float64]  # of the optimizer
    state: NDArray


_NO_MASK = np.empty(0, np.float32)


class EngineTrainable(Network):
    """The network from scratch with its optimizer, on either backend.

    Args:
        params: initial parameters; copied.
        optimizer: optimizer and hyperparameters.
        clip_norm: upper bound of the gradient norm; None: no bound.
        backend, precision: as in ``Network``.

    Raises:
        ConfigError: the head takes no label smoothing, or as in ``Network``.
    """

    def __init__(
        self,
        spec: ModelSpec,
        params: Params,
        optimizer: OptimizerConfig,
        clip_norm: float | None = None,
        backend: str = "numpy",
        precision: str = FLOAT32,
    ) -> None:
        check_params(spec, params)
        check_smoothing(spec, optimizer)
        zeros, shapes = get_backend(backend, precision).layers.zeros, parameter_shapes(spec)
        flat = zeros(parameter_count(spec), next(iter(params.values())).dtype)
        own = parameter_views(flat, shapes)
        for name, value in own.items():
            value[...] = params[name]
        super().__init__(spec, own, backend, precision)
        self.optimizer = Optimizer(optimizer, flat, clip_norm, self.backend.update, zeros)
        self._grads = zeros(len(flat), flat.dtype)  # zero between steps
        self._steps = Recordings(self.backend, self.recordable)
        self.learning_rate = optimizer.base_learning_rate

    def __reduce__(self) -> Any:
        raise ConfigError(
            "trainable: a model in training cannot be pickled or copied, as its parameters and its optimiser share memory; "
            "pass the Experiment and prepare it in the other process, or go on from a run folder with resume"
        )

    def train_step(self, batch: Batch, state: NDArray, learning_rate: float, masks: Masks | None = None) -> StepResult:
        batch, masks = checked_batch(self.spec, batch, state, self.dtype), masks or NO_MASKS
        config = self.optimizer.config
        # the weight of the batch is a pass over all positions, so it is asked for only where it counts
        factor = gradient_factor(config, batch.weight, batch.batch_size) if config.sum_over_time else 1.0
        numbers = self.optimizer.prepare(learning_rate, factor)
        try:
            return self._step(batch, state, masks, numbers)
        except BaseException:
            self._grads.fill(0)  # some may have been computed
            self.parameters_changed()  # an interrupt may come after the update
            raise

    def _step(self, batch: Batch, state: NDArray, masks: Masks, numbers: NDArray) -> StepResult:
        """Make a training step on a checked batch, given the numbers of the update."""
        if batch.lengths is not None:
            return self._taken(self._update(batch, state, masks, numbers))
        arrays = [*batch.inputs.values(), batch.targets, batch.weights, state, numbers, *self._mask_arrays(masks)]
        return self._steps.call(self._update_arrays, arrays, self._taken, 3 * self._forward_flops(batch.inputs))

    def _update_arrays(self, *arrays: NDArray) -> _Updated:
        """Update the parameters from the arrays of a batch without lengths, a state, the update's numbers and masks."""
        count = len(self.spec.inputs)
        targets, weights, state, numbers, *factors = arrays[count:]
        inputs, outputs, *between = (mask if mask.size else None for mask in factors)
        masks = Masks(inputs, [mask for mask in between if mask is not None] or None, outputs)
        return self._update(Batch(self._named(arrays[:count]), targets, weights, None, False), state, masks, numbers)

    def _mask_arrays(self, masks: Masks) -> list[NDArray]:
        """Return all masks that there may be, empty arrays for those that there are not."""
        between = masks.between or [_NO_MASK] * (self.spec.core.num_layers - 1)
        return [mask if mask is not None else _NO_MASK for mask in (masks.inputs, masks.outputs, *between)]

    def _update(self, batch: Batch, state: NDArray, masks: Masks, numbers: NDArray) -> _Updated:
        """Update the parameters from a checked batch."""
        computed = self.compute(batch, state, masks, self.optimizer.config.label_smoothing, self._grads)
        outcome = self.optimizer.apply(computed.flat, numbers, computed.sums)
        return _Updated(computed.sums, outcome, computed.state)

    def _taken(self, result: _Updated) -> StepResult:
        """Count an update that was made, and return copies of its results."""
        outcome = self.optimizer.count(result.outcome)
        self.parameters_changed()
        return StepResult(LossSums.from_array(result.sums), outcome.norm, result.state.copy())

    def warm_up(self, batch: Batch, state: NDArray) -> None:
        self.gradients(batch, state)
        self.evaluate(batch, state)

    def export_params(self) -> Params:
        return {name: value.copy() for name, value in self.params.items()}

    def load_params(self, params: Params) -> None:
        check_params(self.spec, params)
        for name, value in self._params.items():
            value[...] = params[name]
        self.parameters_changed()

    def training_state(self) -> dict[str, NDArray]:
        return {name: value.copy() for name, value in self._state.items()}

    def load_training_state(self, arrays: Mapping[str, NDArray]) -> None:
        check_state(arrays, self._state)
        for name, value in self._state.items():
            value[...] = arrays[name]
        self.parameters_changed()

    @property
    def _state(self) -> dict[str, NDArray]:
        optimizer = self.optimizer
        return {
            "params": optimizer.params,
            "first": optimizer.moments.first,
            "second": optimizer.moments.second,
            "updates": optimizer.updates,
        }
