"""Checks of a file of form ``run``: shapes, chunks, lengths, golden cases, and agreement with its weights and a checkpoint.

Letters: T time, B batch, L layers, D directions.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from unrolled.engine.models.heads.head import Outputs
from unrolled.engine.models.parameters import Params
from unrolled.engine.models.spec import ModelSpec
from unrolled.engine.models.step_contract import Runner
from unrolled.engine.network.network import Network
from unrolled.export.artifact.forms import RUN, signature_of
from unrolled.export.artifact.golden_runs import FINAL_STATE, random_inputs, read_golden_run, run_values
from unrolled.export.artifact.program_runner import ProgramRunner
from unrolled.export.artifact.weight_storage import WeightStorage
from unrolled.export.verification.checks import close, described, need
from unrolled.export.verification.model_file import ModelFile

SIZES: tuple[tuple[int, ...], ...] = ((1,), (1, 1, 1), (7,), (2, 13, 5, 1, 9))  # lengths of rows that were never traced
CHUNK_STEPS, CHUNK_CUT, CHUNK_ROWS = 9, 4, 3
RAGGED = (6, 1, 4, 2)  # lengths of rows in one batch
EXTRA_STEPS = 2  # of padding after the longest row
WILD_ID = -(10**9)  # in the padding, where nothing may read it


def check_run_shapes(model: Runner) -> str:
    """Check the shapes of all outputs at several sizes."""
    for rows in SIZES:
        lengths = np.array(rows)
        sizes: dict[str | int, int] = {"time": max(rows), "batch": len(rows)}
        values = run_values(model, random_inputs(model.spec, lengths, 1), lengths)
        for name, value in signature_of(RUN, model.spec).outputs.items():
            wanted = tuple(sizes.get(axis, axis) for axis in value.axes)
            need(values[name].shape == wanted, f"{name} of rows of {rows}: {values[name].shape}, needs {wanted}")
    return f"{len(SIZES)} sizes of (T, B)"


def check_run_chunks(model: Runner, storage: WeightStorage) -> str:
    """Check that a sequence equals its chunks, which fails if a state is dropped or mixed up between rows."""
    spec, T, cut = model.spec, CHUNK_STEPS, CHUNK_CUT
    inputs, state = random_inputs(spec, np.full(CHUNK_ROWS, T), 2), _random_state(spec, CHUNK_ROWS)
    timed = {column.name for column in spec.inputs if "time" in column.axes}
    parts = [
        {name: np.ascontiguousarray(array[times]) if name in timed else array for name, array in inputs.items()}
        for times in (slice(0, cut), slice(cut, T))
    ]
    whole = run_values(model, inputs, None, state)
    first = run_values(model, parts[0], None, state)
    second = run_values(model, parts[1], None, first[FINAL_STATE])
    for s, layer in np.ndindex(state.shape[:2]):
        other = state.copy()
        other[s, layer] = 0
        moved = run_values(model, inputs, None, other)
        need(
            any((moved[name] != whole[name]).any() for name in whole),
            f"the state that goes in makes no difference (state {s} of layer {layer})",
        )
    if storage.quantized:  # rounding depends on all numbers of a call, so chunks differ from the whole
        return "the state makes a difference"
    worst = 0.0
    for name, value in signature_of(RUN, spec).outputs.items():
        # A head without a time axis predicts as if the sequence ended with the chunk.
        pieces = np.concatenate([first[name], second[name]]) if value.axes[0] == "time" else second[name]
        worst = max(worst, close(pieces, whole[name], f"{name} in two chunks"))
    return f"a sequence is its chunks, within {worst:.1e}"


def check_run_lengths(model: ProgramRunner, storage: WeightStorage) -> str:
    """Check that each row ends at its own length: a padded row equals the row alone, whatever is in the padding."""
    spec, lengths = model.spec, np.array(RAGGED)
    inputs = random_inputs(spec, lengths, 3)
    state = _random_state(spec, len(lengths)) if "state" in signature_of(RUN, spec).inputs else None
    padded = run_values(model, inputs, lengths, state)
    full = run_values(model, inputs, None, state)
    need(bool((full[FINAL_STATE] != padded[FINAL_STATE]).any()), "the lengths of rows make no difference")
    given = {**_with_wild_padding(spec, inputs, lengths), "lengths": lengths}
    wild = model.unchecked(given if state is None else {**given, "state": state})
    for name, array in padded.items():
        need(bool(np.array_equal(wild[name], array)), f"{name} depends on what is in the padding")
    _check_longer_padding(model, inputs, lengths, state, padded)
    if storage.quantized:  # rounding depends on all numbers of a call, so rows differ from the batch
        return "lengths make a difference, and padding none"
    worst = 0.0
    for b, length in enumerate(RAGGED):
        alone = _row_of_inputs(spec, inputs, b, length)
        got = run_values(model, alone, None, None if state is None else np.ascontiguousarray(state[:, :, b : b + 1]))
        for name, value in signature_of(RUN, spec).outputs.items():
            row = padded[name][_row(value.axes, b, length)]
            worst = max(worst, close(row, got[name], f"{name} of row {b}, padded from {length} to {max(RAGGED)} steps"))
    return f"a padded row is the row alone, within {worst:.1e}"


def _check_longer_padding(
    model: Runner, inputs: Outputs, lengths: NDArray[np.int64], state: NDArray | None, padded: Outputs
) -> None:
    """Check that rows of a batch with more time steps than its longest row have the values of ``padded``."""
    spec = model.spec
    longer = {
        column.name: np.concatenate([inputs[column.name], np.zeros_like(inputs[column.name][:EXTRA_STEPS])])
        if "time" in column.axes
        else inputs[column.name]
        for column in spec.inputs
    }
    got = run_values(model, longer, lengths, state)
    for name, value in signature_of(RUN, spec).outputs.items():
        array = got[name][: max(RAGGED)] if value.axes[0] == "time" else got[name]
        close(array, padded[name], f"{name} of rows padded by {EXTRA_STEPS} more time steps")


def check_golden_run_values(model: Runner, golden: list[Any], tolerance: float) -> str:
    """Check the recorded values of the golden cases."""
    need(bool(golden), "the file has no golden cases")
    worst = 0.0
    for number, recorded in enumerate(golden):
        case = read_golden_run(recorded, model.spec)
        values = run_values(model, case.inputs, case.lengths)
        for name, (indices, expected) in case.outputs.items():
            got = values[name].reshape(-1)[indices]
            worst = max(worst, close(got, expected, f"golden case {number + 1}, {name}", tolerance))
    return f"{len(golden)} golden cases, within {worst:.1e}"


def check_same_description(spec: ModelSpec, other: ModelSpec) -> str:
    """Check that file and checkpoint are of one model."""
    parts, others = spec.to_dict(), other.to_dict()
    differing = ", ".join(name for name in parts if parts[name] != others[name])
    need(
        not differing,
        f"the file is a {described(spec)}, the checkpoint a {described(other)}; they differ in {differing}",
    )
    return described(spec)


def check_own_weights(model: Runner, file: ModelFile, storage: WeightStorage) -> str:
    """Check that the program computes what the weights in the file give.

    int8 products round the numbers of a call, by more than any tolerance where weights are large, so the program of a
    quantized file is held to a graph that is written from its weights and rounds in the same way.
    """
    if storage.quantized:
        worst = _worst_difference(model, file.rewritten(), storage.tolerance)
        return f"outputs and states of a graph of the same weights, within {worst:.1e}"
    return check_against_params(model, file.params(model.spec), storage.tolerance)


def check_against_params(model: Runner, params: Params, tolerance: float) -> str:
    """Check all outputs and final states, in the padding too, against the reference engine with the given parameters."""
    worst = _worst_difference(model, Network(model.spec, params), tolerance)
    return f"outputs and states of the reference engine, within {worst:.1e}"


def _worst_difference(model: Runner, reference: Runner, tolerance: float) -> float:
    """Return the largest difference of outputs and final states from a reference for seeded rows of different lengths.

    Raises:
        CheckFailed: a value differs by more than the tolerance.
    """
    spec = model.spec
    takes_state = "state" in signature_of(RUN, spec).inputs
    worst = 0.0
    for rows in SIZES:
        lengths = np.array(rows)
        inputs = random_inputs(spec, lengths, 4)
        state = _random_state(spec, len(rows)) if takes_state else None
        expected, got = (run_values(each, inputs, lengths, state) for each in (reference, model))
        for name in expected:
            worst = max(worst, close(got[name], expected[name], f"{name} of rows of {rows}", tolerance))
    return worst


def _random_state(spec: ModelSpec, B: int) -> NDArray:
    """Return a state (S, L·D, B, H) of distinct numbers."""
    return np.random.default_rng(5).uniform(-1, 1, spec.state_shape(B)).astype(np.float32)


def _with_wild_padding(spec: ModelSpec, inputs: Outputs, lengths: NDArray[np.int64]) -> Outputs:
    """Return the inputs with ids of no vocabulary and NaN in the padding."""
    T, wild = int(lengths.max()), dict(inputs)
    for column in spec.inputs:
        if "time" in column.axes:
            array = inputs[column.name].copy()
            array[np.arange(T)[:, None] >= lengths] = WILD_ID if column.dtype.kind == "i" else np.nan
            wild[column.name] = array
    return wild


def _row_of_inputs(spec: ModelSpec, inputs: Outputs, b: int, length: int) -> Outputs:
    """Return the inputs of one row, without its padding."""
    return {
        column.name: np.ascontiguousarray(inputs[column.name][_row(column.axes, b, length)]) for column in spec.inputs
    }


def _row(axes: tuple[str | int, ...], b: int, length: int) -> tuple[slice, ...]:
    """Return the index of the valid time steps of row ``b`` in an array of the given axes."""
    parts = {"time": slice(0, length), "batch": slice(b, b + 1)}
    return tuple(parts.get(str(axis), slice(None)) for axis in axes)
