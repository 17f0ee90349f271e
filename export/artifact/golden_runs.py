"""Golden cases of form ``run``: seeded inputs of padded sequences, and what the model computes from them.

Arrays are recorded as flat lists in row-major order. Padding of inputs holds zeros. Of large outputs a seeded choice of values
is recorded, so that a file stays small.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from unrolled.engine.errors import ModelFileError, ShapeError
from unrolled.engine.models.heads.head import Outputs
from unrolled.engine.models.input_checks import checked_inputs
from unrolled.engine.models.inputs.input import sized
from unrolled.engine.models.spec import ModelSpec
from unrolled.engine.models.step_contract import Runner
from unrolled.export.artifact.forms import RUN, signature_of

LENGTHS: tuple[tuple[int, ...], ...] = ((1,), (5, 1, 3), (4, 9))  # of the rows of each case
MAX_VALUES = 256  # recorded of an output
MAX_POSITIONS = 1 << 12  # T·B of a case that is read
FINAL_STATE = "final_state"


class Recorded(NamedTuple):
    """Recorded values of an output, by their index in the flat array."""

    indices: NDArray[np.int64]
    values: NDArray[np.float64]


class RunCase(NamedTuple):
    """A golden case.

    Args:
        inputs: arrays of the model's inputs by name.
        lengths: (B,), the valid time steps of each row.
        outputs: values of the head's outputs and of ``final_state``, by name.
    """

    inputs: dict[str, NDArray]
    lengths: NDArray[np.int64]
    outputs: dict[str, Recorded]


def run_values(
    model: Runner, inputs: Mapping[str, NDArray], lengths: NDArray[np.int64] | None, state: NDArray | None = None
) -> Outputs:
    """Return the outputs of the head and ``final_state`` by name."""
    outputs, final_state = model.run(inputs, lengths, state)
    return {**outputs, FINAL_STATE: final_state}


def random_inputs(spec: ModelSpec, lengths: NDArray[np.int64], seed: int) -> dict[str, NDArray]:
    """Return seeded inputs of rows of the given lengths, with zeros in the padding."""
    rng = np.random.default_rng(seed)
    T, B = int(lengths.max()), len(lengths)
    return checked_inputs(spec, {column.name: column.example(rng, T, B) for column in spec.inputs}, lengths)


def golden_runs(model: Runner) -> list[dict[str, Any]]:
    """Return the cases of a model, which start from zero states."""
    cases = []
    for number, rows in enumerate(LENGTHS):
        lengths = np.array(rows)
        inputs = random_inputs(model.spec, lengths, number)
        outputs = run_values(model, inputs, lengths)
        cases.append(
            {
                "time": max(rows),
                "batch": len(rows),
                "lengths": list(rows),
                "inputs": {name: _numbers(array) for name, array in inputs.items()},
                "outputs": {name: _recorded(array, number) for name, array in outputs.items()},
            }
        )
    return cases


def _recorded(array: NDArray, seed: int) -> dict[str, list[Any]]:
    """Return the record of an output: all its values, or a seeded choice of them."""
    flat = array.reshape(-1).astype(np.float32)
    indices = np.arange(flat.size)
    if flat.size > MAX_VALUES:
        indices = np.sort(np.random.default_rng(seed).choice(flat.size, MAX_VALUES, replace=False))
    return {"indices": indices.tolist(), "values": _numbers(flat[indices])}


def _numbers(array: NDArray) -> list[Any]:
    """Return an array as a flat list of whole numbers, or of the shortest decimal numbers that give the same float32."""
    flat = array.reshape(-1)
    return flat.tolist() if flat.dtype.kind == "i" else [float(str(value)) for value in flat]


def check_golden_runs(cases: Any, spec: ModelSpec) -> None:
    """Check the golden cases of a file before anything is computed with them.

    Raises:
        ModelFileError: other content than valid inputs, and numbers of the outputs.
    """
    if not isinstance(cases, list):
        raise ModelFileError("golden: not a list of cases")
    for case in cases:
        read_golden_run(case, spec)


def read_golden_run(case: Any, spec: ModelSpec) -> RunCase:
    """Return a golden case of a file.

    Raises:
        ModelFileError: it is no case of the model.
    """
    if not isinstance(case, dict) or not {"time", "batch", "lengths", "inputs", "outputs"} <= set(case):
        raise ModelFileError("golden: a case needs time, batch, lengths, inputs and outputs")
    T, B, lengths = case["time"], case["batch"], case["lengths"]
    if not all(type(size) is int and 1 <= size <= MAX_POSITIONS for size in (T, B)) or T * B > MAX_POSITIONS:
        raise ModelFileError(f"golden: time and batch are {T!r} and {B!r}; needs at most {MAX_POSITIONS} positions")
    inputs = {}
    for column in spec.inputs:
        shape = sized(column.axes, T, B)
        inputs[column.name] = _read_array(_named(case["inputs"], column.name), shape, column.dtype, column.name)
    row_lengths = _read_array(lengths, (B,), np.dtype(np.int64), "lengths")
    try:
        inputs = checked_inputs(spec, inputs, row_lengths)
    except ShapeError as error:
        raise ModelFileError(f"golden: {error}") from error
    outputs = {
        name: _read_recorded(_named(case["outputs"], name), math.prod(sized(value.axes, T, B)), name)
        for name, value in signature_of(RUN, spec).outputs.items()
    }
    return RunCase(inputs, row_lengths, outputs)


def _named(values: Any, name: str) -> Any:
    if not isinstance(values, dict) or name not in values:
        raise ModelFileError(f"golden: a case has no {name}")
    return values[name]


def _read_array(values: Any, shape: tuple[int, ...], dtype: np.dtype, name: str) -> NDArray:
    """Return the array of a flat list, whose length is checked before anything is allocated."""
    if not isinstance(values, list) or len(values) != math.prod(shape):
        raise ModelFileError(f"golden: {name} needs a list of {math.prod(shape)} values")
    whole = dtype.kind == "i"
    if not all(_is_whole(value) if whole else _is_finite(value) for value in values):
        raise ModelFileError(f"golden: {name} has values that are no {'whole numbers' if whole else 'numbers'}")
    return np.array(values, dtype).reshape(shape)


def _read_recorded(values: Any, size: int, name: str) -> Recorded:
    """Return the recorded values of an output of ``size`` values."""
    indices, numbers = _named(values, "indices"), _named(values, "values")
    good = isinstance(indices, list) and isinstance(numbers, list) and 0 < len(indices) == len(numbers)
    if not good or not all(_is_whole(index) and 0 <= index < size for index in indices):
        raise ModelFileError(f"golden: {name} needs indices below {size} and as many values")
    if not all(map(_is_finite, numbers)):
        raise ModelFileError(f"golden: {name} has values that are no numbers")
    return Recorded(np.array(indices, np.int64), np.array(numbers, np.float64))


def _is_whole(value: Any) -> bool:
    return type(value) is int and abs(value) < 2**63


def _is_finite(value: Any) -> bool:
    """Return whether a value of JSON is a number that float32 can hold."""
    return (type(value) is float or (type(value) is int and abs(value) < 2**53)) and abs(value) <= 3.4e38
