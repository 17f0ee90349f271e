"""Checks of the batches of training and evaluation on any engine: inputs, state, targets and weights."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from unrolled.engine.errors import ConfigError, ShapeError
from unrolled.engine.models.dropout import Masks
from unrolled.engine.models.input_checks import checked_inputs, ragged
from unrolled.engine.models.inputs.batch import Batch
from unrolled.engine.models.inputs.input import sized
from unrolled.engine.models.spec import ModelSpec
from unrolled.engine.models.step_contract import check_state


def checked_batch(spec: ModelSpec, batch: Batch, state: NDArray, dtype: np.dtype) -> Batch:
    """Return a batch with zeros in the padding of inputs and weights, after checks of all its arrays and the initial state.

    Lengths that are all T become None: such a batch has no padding. Weights become bool, float32 or float64.

    Args:
        state: (S, L·D, B, H), the initial state.
        dtype: the dtype of the model's parameters, which the state needs.

    Raises:
        ShapeError: an array does not fit the model or the others.
        ConfigError: the batch carries a state into a model of two directions.
    """
    head = spec.head
    if batch.carry and spec.core.bidirectional:
        raise ConfigError("carry: a bidirectional model cannot continue a sequence; needs whole sequences")
    inputs = checked_inputs(spec, batch.inputs, batch.lengths)
    T, B = inputs[spec.timed.name].shape[:2]
    check_state(spec, state, B, dtype)
    check_targets(head.target_axes, head.target_dtype, batch, T, B)
    weights, lengths = _plain_weights(batch.weights), ragged(batch.lengths, T)
    if lengths is not None and weights.shape == (T, B):
        weights = weights * (np.arange(T)[:, None] < lengths)
    head.check_targets(batch.targets, weights)
    return batch._replace(inputs=inputs, weights=weights, lengths=lengths)


def _plain_weights(weights: NDArray) -> NDArray:
    """Return checked weights in a dtype that all engines read: half precision, for one, is not compiled."""
    if weights.dtype in (np.bool_, np.float32, np.float64):  # in the byte order of the machine
        return weights
    return weights.astype(np.float32 if weights.dtype.itemsize <= np.dtype(np.float32).itemsize else np.float64)


def check_masks(spec: ModelSpec, masks: Masks, T: int, B: int) -> None:
    """Check the shapes of dropout masks for T time steps of B rows.

    Raises:
        ShapeError: a mask has another shape, or there is not one for each boundary between layers.
    """
    E, width, between = spec.input_size, spec.core.output_size, masks.between or ()
    if between and len(between) != spec.core.num_layers - 1:
        raise ShapeError(f"masks: got {len(between)} between layers, needs {spec.core.num_layers - 1}")
    for name, mask, size in (
        ("inputs", masks.inputs, E), ("outputs", masks.outputs, width), *[("between", mask, width) for mask in between],
    ):  # fmt: skip
        if mask is not None and mask.shape not in ((T, B, size), (1, B, size)):
            raise ShapeError(f"masks: got {name} of shape {mask.shape}, needs {(T, B, size)} or {(1, B, size)}")


def check_targets(axes: tuple[str | int, ...], dtype: np.dtype, batch: Batch, T: int, B: int) -> None:
    """Check shapes and dtypes of the targets and weights of a batch against a head's axes.

    Raises:
        ShapeError: one does not fit.
    """
    if not isinstance(batch.targets, np.ndarray):
        raise ShapeError(f"targets: got {type(batch.targets).__name__}, needs an array")
    if not isinstance(batch.weights, np.ndarray):
        raise ShapeError(f"weights: got {type(batch.weights).__name__}, needs an array")
    wanted, named = sized(axes, T, B), sized([axis for axis in axes if isinstance(axis, str)], T, B)
    if batch.targets.shape != wanted or batch.weights.shape != named:
        raise ShapeError(
            f"batch: inputs of (T, B) = ({T}, {B}), targets {batch.targets.shape} and weights {batch.weights.shape}; "
            f"needs targets {wanted} and weights {named}"
        )
    if batch.targets.dtype != dtype:
        raise ShapeError(f"targets: got dtype {batch.targets.dtype}, needs {dtype}")
    if batch.weights.dtype == np.bool_:
        return
    if batch.weights.dtype.kind != "f":
        raise ShapeError(f"weights: got dtype {batch.weights.dtype}, needs bool or float")
    if not (np.isfinite(batch.weights).all() and (batch.weights >= 0).all()):
        raise ShapeError("weights: needs finite numbers of at least 0")
