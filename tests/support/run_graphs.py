"""Graphs of form run for the tests: their inputs, with garbage in the padding, and the engines that run them."""

from __future__ import annotations

from collections.abc import Callable

import models
import numpy as np
import onnx
import onnx_operators
import onnxruntime as ort
from exports import STORED
from numpy.typing import NDArray
from onnx.reference import ReferenceEvaluator
from tolerances import assert_close

from unrolled.engine.models.parameters import Params
from unrolled.engine.models.spec import ModelSpec
from unrolled.engine.network.network import Network
from unrolled.export.artifact.forms import RUN
from unrolled.export.onnx.writer import bare_model

ALL_INPUTS = models.MIXTURES[-1]
STEPS, ROWS = 6, 9
LENGTHS = np.array([4, 1, 6, 2, 5, 3, 6, 1, 2])  # every length from 1 to T, in no order

Results = dict[str, NDArray]


def model_of(spec: ModelSpec, params: Params | None = None, stored: str = "float32") -> onnx.ModelProto:
    model = bare_model(spec, models.params(spec, np.float32) if params is None else params, RUN, STORED[stored])
    onnx.checker.check_model(model, full_check=True)
    onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True, data_prop=True)
    return model


def inputs_of(spec: ModelSpec, lengths: NDArray[np.int64] = LENGTHS, steps: int = STEPS, seed: int = 2) -> Results:
    """Return the arrays of a graph's inputs, with NaN and wild ids in the padding and a state that is not zero."""
    rng, padding = np.random.default_rng(seed), np.arange(steps)[:, None] >= lengths
    inputs: Results = {column.name: column.example(rng, steps, len(lengths)) for column in spec.inputs}
    for column in spec.inputs:
        if "time" in column.axes:
            inputs[column.name][padding] = -(10**6) if column.dtype == np.int64 else np.nan
    inputs["lengths"] = lengths
    if "step" in spec.capabilities:
        inputs["state"] = models.state(spec, len(lengths), np.float32)
    return inputs


def by_onnxruntime(model: onnx.ModelProto, inputs: Results) -> Results:
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return dict(zip([value.name for value in session.get_outputs()], session.run(None, inputs), strict=True))


def by_evaluator(model: onnx.ModelProto, inputs: Results) -> Results:
    evaluator = ReferenceEvaluator(model, new_ops=onnx_operators.OPERATORS)
    values = evaluator.run(None, inputs, check_shape_annotations=True)
    return dict(zip(evaluator.output_names, values, strict=True))


def by_reference(spec: ModelSpec, inputs: Results, params: Params | None = None) -> Results:
    """Return the results of the NumPy network in float64."""
    values = models.params(spec, np.float32) if params is None else params
    network = Network(spec, {name: value.astype(np.float64) for name, value in values.items()})
    own = {column.name: inputs[column.name] for column in spec.inputs}
    state = inputs["state"].astype(np.float64) if "state" in inputs else None
    outputs, final_state = network.run(own, inputs["lengths"], state)
    return {**outputs, "final_state": final_state}


ENGINES: dict[str, Callable[[onnx.ModelProto, Results], Results]] = {
    "onnxruntime": by_onnxruntime,
    "evaluator": by_evaluator,
}


def assert_results(got: Results, expected: Results, kind: str = "export") -> None:
    assert set(got) == set(expected)
    for name, value in got.items():
        assert value.dtype == np.float32
        assert_close(value, expected[name], kind, what=name)


def assert_computes(spec: ModelSpec, inputs: Results | None = None, params: Params | None = None) -> None:
    """Check that both engines compute what the reference does."""
    inputs = inputs_of(spec) if inputs is None else inputs
    model, expected = model_of(spec, params), by_reference(spec, inputs, params)
    for run in ENGINES.values():
        assert_results(run(model, inputs), expected)
