"""The network from scratch: inputs, recurrent core and head, forward and backward, on either backend."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from unrolled.engine.errors import ConfigError
from unrolled.engine.models.batch_checks import check_masks, checked_batch
from unrolled.engine.models.dropout import NO_MASKS, Masks
from unrolled.engine.models.heads.head import HeadLoss, Outputs
from unrolled.engine.models.input_checks import checked_inputs, ragged
from unrolled.engine.models.inputs.batch import Batch
from unrolled.engine.models.layers.output_loss import LossSums
from unrolled.engine.models.layers.recurrent import DirectionGradients
from unrolled.engine.models.parameters import Params, check_params, layer_names, parameter_shapes, parameter_views
from unrolled.engine.models.spec import ModelSpec
from unrolled.engine.models.step_contract import check_state, zero_state
from unrolled.engine.network.backends import FLOAT32, get_backend
from unrolled.engine.network.core import (
    CoreTape,
    add_layer_gradients,
    core_backward,
    core_forward,
    direction_params,
    input_gradient,
)
from unrolled.engine.network.recordings import Recordings

Inputs = Mapping[str, NDArray]
# Of a run or an evaluation that is recorded: of more, Python takes a small share, and memory grows.
MOST_FLOPS = 1 << 28


class Gradients(NamedTuple):
    """Loss sums of a batch, gradients of its mean loss, and the state after it."""

    loss: LossSums
    params: Params
    flat: NDArray  # the memory of ``params`` as one array, in the parameters' order
    state: NDArray  # (S, L·D, B, H), the final state
    dstate: NDArray  # (S, L·D, B, H), gradient of the initial state


class Computed(NamedTuple):
    """The contents of ``Gradients`` in arrays that may be written over later."""

    sums: NDArray[np.float64]
    params: Params
    flat: NDArray
    state: NDArray
    dstate: NDArray


class _Forward(NamedTuple):
    """Values of a forward pass that the head and the backward pass read.

    Args:
        y: (T, B, D·H), the core's outputs in the engine's layout.
        ids: the packed ids of the only input, if the engine multiplies its embedding as a table.
        x: (T, B, E), the core's inputs in the engine's layout, otherwise.
    """

    y: NDArray
    final: NDArray
    tape: CoreTape
    ids: NDArray | None
    x: NDArray | None


class Network:
    """A model on NumPy arrays; it holds parameters and no state.

    Args:
        spec: description of the model.
        params: its parameters, float32 or float64; contiguous arrays that can be written to are kept, not copied. Whoever
            changes them in place calls ``parameters_changed`` afterwards, because short runs keep what follows from them.
        backend: "numpy" (the reference) or "numba" (compiled, the same results).
        precision: precision of the products: "float32", or "bf16" for float32 parameters on "numba", where everything
            else stays in float32.

    Raises:
        ConfigError: backend, precision, parameters and processor do not go together.
    """

    def __init__(
        self, spec: ModelSpec, params: Params, backend: str = "numpy", precision: str = FLOAT32
    ) -> None:  # fmt: skip
        check_params(spec, params)
        self.spec = spec
        # for arrays that cannot be written to, all kernels would be compiled anew
        self._params = {name: np.require(value, requirements=("C", "W")) for name, value in params.items()}
        self._shapes = parameter_shapes(spec)
        self._size = sum(map(math.prod, self._shapes.values()))
        self.backend, self.precision = get_backend(backend, precision), precision
        if precision != FLOAT32 and self.dtype != np.float32:
            raise ConfigError(f"precision: {precision} is for float32 parameters, got {self.dtype}")
        self._views = {name: value.view() for name, value in self._params.items()}
        for view in self._views.values():
            view.flags.writeable = False
        inputs = all(self.backend.inputs[column.kind].recordable for column in spec.inputs)
        self.recordable = inputs and self.backend.heads[spec.head.kind].recordable
        constants = list(self._params.values())
        self._runs = Recordings(self.backend, self.recordable, constants)
        self._evaluations = Recordings(self.backend, self.recordable, constants)
        self._version = 0  # of the parameters

    def __reduce__(self) -> Any:
        return type(self), (self.spec, self._params, self.backend.name, self.precision)

    @property
    def params(self) -> Params:
        """Return the parameters by name; these views cannot be written to."""
        return self._views

    def parameters_changed(self) -> None:
        """Forget what was computed from the parameters alone."""
        self._version += 1

    @property
    def engine(self) -> str:
        """Return the name of the backend, with the precision unless it is float32."""
        return self.backend.name if self.precision == FLOAT32 else f"{self.backend.name}-{self.precision}"

    @property
    def dtype(self) -> np.dtype:
        """Return the dtype of the parameters."""
        return next(iter(self._params.values())).dtype

    def run(
        self, inputs: Inputs, lengths: NDArray[np.int64] | None = None, state: NDArray | None = None
    ) -> tuple[Outputs, NDArray]:
        """Return the head's outputs for whole sequences, and the final state (S, L·D, B, H).

        Args:
            inputs: an array for each input of the model, by name.
            lengths: (B,) int64, the valid time steps of each row; None: all.
            state: (S, L·D, B, H), the initial state; None: zero.
        """
        inputs = checked_inputs(self.spec, inputs, lengths)
        T, B = inputs[self.spec.timed.name].shape[:2]
        state = zero_state(self.spec, B, self.dtype) if state is None else state
        check_state(self.spec, state, B, self.dtype)
        return self.run_checked(inputs, ragged(lengths, T), state)

    def run_checked(
        self, inputs: Inputs, lengths: NDArray[np.int64] | None, state: NDArray
    ) -> tuple[Outputs, NDArray]:  # fmt: skip
        """Return the results of ``run`` for arguments whose checks the caller has made."""
        flops = self._forward_flops(inputs)
        if lengths is not None or flops > MOST_FLOPS:
            return self._run(inputs, lengths, state)
        return self._runs.call(self._run_arrays, [*inputs.values(), state], _copies, flops, self._version)

    def _forward_flops(self, inputs: Inputs) -> float:
        """Return the floating-point operations of a forward pass, roughly: two for each position and parameter."""
        T, B = inputs[self.spec.timed.name].shape[:2]
        return 2.0 * T * B * self._size

    def _run_arrays(self, *arrays: NDArray) -> tuple[Outputs, NDArray]:
        """Run the network on its inputs, in the order of the spec, and a state."""
        *inputs, state = arrays
        return self._run(self._named(inputs), None, state)

    def _named(self, arrays: Sequence[NDArray]) -> Inputs:
        """Return the arrays of the inputs by name."""
        return {column.name: array for column, array in zip(self.spec.inputs, arrays, strict=True)}

    def _run(
        self, inputs: Inputs, lengths: NDArray[np.int64] | None, state: NDArray
    ) -> tuple[Outputs, NDArray]:  # fmt: skip
        """Return outputs and final state."""
        forward = self._forward(inputs, lengths, state, NO_MASKS)
        head = self.spec.head
        y = self.backend.recurrent.unpack(forward.y, forward.tape.steps)
        outputs = self.backend.heads[head.kind].forward(head, self._params, y, forward.final, lengths, inputs)
        return outputs, forward.final

    def step(self, inputs: Inputs, state: NDArray) -> tuple[Outputs, NDArray]:
        """Return the head's outputs for time steps that continue ``state`` (S, L, B, H), and the state after them.

        Raises:
            ConfigError: the model has no steps, as one of two directions.
        """
        self.spec.require("step")
        return self.run(inputs, None, state)

    def evaluate(self, batch: Batch, state: NDArray) -> tuple[LossSums, NDArray]:
        """Return the loss sums of a batch and the state after it, without gradients."""
        batch = checked_batch(self.spec, batch, state, self.dtype)
        flops = self._forward_flops(batch.inputs)
        if batch.lengths is not None or flops > MOST_FLOPS:
            return _evaluation(self._evaluate(batch, state))
        arrays = [*batch.inputs.values(), batch.targets, batch.weights, state]
        return self._evaluations.call(self._evaluate_arrays, arrays, _evaluation, flops, self._version)

    def _evaluate_arrays(self, *arrays: NDArray) -> tuple[NDArray[np.float64], NDArray]:
        """Evaluate on the arrays of a batch without lengths and a state."""
        *inputs, targets, weights, state = arrays
        return self._evaluate(Batch(self._named(inputs), targets, weights, None, False), state)

    def _evaluate(self, batch: Batch, state: NDArray) -> tuple[NDArray[np.float64], NDArray]:
        """Return the loss sums of a checked batch and the state after it."""
        forward = self._forward(batch.inputs, batch.lengths, state, NO_MASKS)
        return self._loss(forward, batch, NO_MASKS, None, 0.0).sums, forward.final

    def gradients(
        self, batch: Batch, state: NDArray, masks: Masks | None = None, smoothing: float = 0.0
    ) -> Gradients:  # fmt: skip
        """Return the loss sums of a batch, the gradients of its mean loss by name, and the state after it.

        Back-propagation through time stops at the batch's first step: the initial state is a constant.

        Args:
            masks: dropout masks.
            smoothing: label smoothing, for heads that take it; the loss is the smoothed one.
        """
        batch = checked_batch(self.spec, batch, state, self.dtype)
        flat = self.backend.layers.zeros(self._size, self.dtype)
        computed = self.compute(batch, state, masks or NO_MASKS, smoothing, flat)
        return Gradients(LossSums.from_array(computed.sums), *computed[1:])

    def compute(
        self, batch: Batch, state: NDArray, masks: Masks, smoothing: float, flat: NDArray
    ) -> Computed:  # fmt: skip
        """Return the results of ``gradients`` for a checked batch, with the loss sums as an array.

        Args:
            flat: zeros, to which the gradients of all parameters are added.
        """
        T, B = batch.inputs[self.spec.timed.name].shape[:2]
        check_masks(self.spec, masks, T, B)
        forward = self._forward(batch.inputs, batch.lengths, state, masks)
        grads = parameter_views(flat, self._shapes)
        loss = self._loss(forward, batch, masks, grads, smoothing)
        dy, dfinal = loss.dy, np.zeros(state.shape, state.dtype) if loss.dfinal is None else loss.dfinal
        assert dy is not None  # computed because ``grads`` are given
        gradients, dstate = core_backward(
            self.backend, self.spec.core, self._params, dy, dfinal, forward.tape, grads
        )  # fmt: skip
        self._input_backward(gradients, batch.inputs, forward, masks, grads)
        return Computed(loss.sums, grads, flat, forward.final, dstate)

    def _forward(
        self, inputs: Inputs, lengths: NDArray[np.int64] | None, state: NDArray, masks: Masks
    ) -> _Forward:  # fmt: skip
        """Run inputs and core."""
        recurrent, layers, core = self.backend.recurrent, self.backend.layers, self.spec.core
        T, B = inputs[self.spec.timed.name].shape[:2]
        steps, state = recurrent.plan(T, B, lengths), np.ascontiguousarray(state)
        own = direction_params(core, self._params, 0)
        lookup = self._lookup(masks)
        ids = x = None
        if lookup is not None:
            ids = recurrent.pack(np.ascontiguousarray(inputs[self.spec.inputs[0].name]), steps)
            xgs = [layers.embedded_linear_forward(self._params[lookup], ids, p.w_ih, p.b_ih) for p in own]
        else:
            x = recurrent.pack(self._columns(inputs, T), steps)
            x = x if masks.inputs is None else layers.mask(x, recurrent.pack(masks.inputs, steps))
            xgs = [layers.linear_forward(x, p.w_ih, p.b_ih) for p in own]
        between = None if masks.between is None else [recurrent.pack(mask, steps) for mask in masks.between]
        y, final, tape = core_forward(self.backend, core, self._params, xgs, state, steps, between)
        return _Forward(y, final, tape, ids, x)

    def _lookup(self, masks: Masks) -> str | None:
        """Return the embedding of the only input, if no mask changes it: its product with the first layer can be a table."""
        return self.spec.inputs[0].lookup if len(self.spec.inputs) == 1 and masks.inputs is None else None

    def _columns_of(self, dx: NDArray, name: str) -> NDArray:
        """Return the columns of dx (T, B, E) that belong to an input."""
        columns = self.spec.input_columns[name]
        return self.backend.layers.take_columns(dx, columns.start, columns.stop)

    def _columns(self, inputs: Inputs, T: int) -> NDArray:
        """Return x (T, B, E), the columns of all inputs."""
        columns = [
            self.backend.inputs[column.kind].forward(column, self._params, inputs[column.name], T)
            for column in self.spec.inputs
        ]
        return columns[0] if len(columns) == 1 else self.backend.layers.join_columns(columns)

    def _loss(
        self, forward: _Forward, batch: Batch, masks: Masks, grads: Params | None, smoothing: float
    ) -> HeadLoss:  # fmt: skip
        """Return the head's loss and, with ``grads``, the gradients of y, in the engine's layout, and the final state."""
        head, recurrent, steps = self.spec.head, self.backend.recurrent, forward.tape.steps
        y, mask, padded = forward.y, masks.outputs, batch.lengths is not None
        if padded and head.stepwise:  # it takes the valid time steps as they are, so that padding costs nothing
            mask = None if mask is None else recurrent.pack(mask, steps)
            targets, weights = recurrent.pack(batch.targets, steps), recurrent.pack(batch.weights, steps)
            batch = batch._replace(targets=targets, weights=weights, lengths=None)
        elif padded:
            y = recurrent.unpack(y, steps)
        y = y if mask is None else self.backend.layers.mask(y, mask)
        loss = self.backend.heads[head.kind].loss(head, self._params, y, forward.final, batch, grads, smoothing)
        dy = loss.dy
        if dy is None:
            return loss
        if mask is not None:
            dy = self.backend.layers.mask(dy, mask)
            loss = loss._replace(dy=dy)
        return loss._replace(dy=recurrent.pack(dy, steps)) if padded and not head.stepwise else loss

    def _input_backward(
        self, gradients: list[DirectionGradients], inputs: Inputs, forward: _Forward, masks: Masks, grads: Params
    ) -> None:
        """Add the gradients of the inputs and of the first layer."""
        own, steps = direction_params(self.spec.core, self._params, 0), forward.tape.steps
        if forward.x is None:
            lookup = self._lookup(masks)
            assert lookup is not None  # as in ``_forward``
            assert forward.ids is not None
            for direction, (gradient, layer) in enumerate(zip(gradients, own, strict=True)):
                names = layer_names(0, direction)
                self.backend.layers.first_layer_backward(
                    *gradient, self._params[lookup], forward.ids, layer.w_ih,
                    (grads[lookup], grads[names.w_ih], grads[names.b_ih], grads[names.w_hh], grads[names.b_hh]),
                )  # fmt: skip
            return
        add_layer_gradients(self.backend, 0, gradients, forward.x, grads)
        if not any(column.parameter_shapes() for column in self.spec.inputs):
            return
        dx = self.backend.recurrent.unpack(input_gradient(self.backend, gradients, own), steps)
        dx = dx if masks.inputs is None else self.backend.layers.mask(dx, masks.inputs)
        for column in self.spec.inputs:
            self.backend.inputs[column.kind].backward(
                column, self._params, self._columns_of(dx, column.name), inputs[column.name], grads
            )


def _copies(results: tuple[Outputs, NDArray]) -> tuple[Outputs, NDArray]:
    """Return copies of outputs and state, which the next run writes over."""
    outputs, state = results
    return {name: array.copy() for name, array in outputs.items()}, state.copy()


def _evaluation(results: tuple[NDArray[np.float64], NDArray]) -> tuple[LossSums, NDArray]:
    """Return the sums of an evaluation and a copy of the state."""
    sums, state = results
    return LossSums.from_array(sums), state.copy()
