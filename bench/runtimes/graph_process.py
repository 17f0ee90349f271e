"""Worker process that runs exported graphs in one runtime.

    python graph_process.py RUNTIME OPERATORS

OPERATORS is a file with operators for onnx's reference evaluator, or empty. The interpreter of any virtual environment can run
this file: it imports nothing of this package, and speaks the protocol of ``unrolled.engine.processes`` by itself. It sends
``version`` or ``missing`` first, then answers each job by its outputs or its error.
"""

from __future__ import annotations

import base64
import importlib
import importlib.metadata
import importlib.util
import json
import os
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

GraphArrays = dict[str, NDArray]
GraphRunner = Callable[[GraphArrays], GraphArrays]


def open_onnxruntime(path: str, settings: dict[str, Any]) -> GraphRunner:
    """Open a graph in onnxruntime on the CPU."""
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return lambda inputs: dict(zip(names, session.run(names, inputs), strict=True))


def open_reference(path: str, settings: dict[str, Any]) -> GraphRunner:
    """Open a graph in onnx's reference evaluator, with the operators of the settings."""
    from onnx.reference import ReferenceEvaluator

    operators = []
    if settings["operators"]:
        spec = importlib.util.spec_from_file_location("operators", settings["operators"])
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        operators = module.OPERATORS
    evaluator = ReferenceEvaluator(path, new_ops=operators)
    return lambda inputs: dict(zip(evaluator.output_names, evaluator.run(None, inputs), strict=True))


def open_openvino(path: str, settings: dict[str, Any]) -> GraphRunner:
    """Open a graph in OpenVINO, with the options of the settings."""
    import openvino

    core, options = openvino.Core(), dict(settings["options"])
    fixed = options.pop("fixed shapes", "")
    model = core.read_model(path)
    compiled = None

    def run(inputs: GraphArrays) -> GraphArrays:
        nonlocal compiled
        if fixed:
            model.reshape({name: list(array.shape) for name, array in inputs.items()})
        if fixed or compiled is None:
            compiled = core.compile_model(model, "CPU", options)
        return {value.any_name: np.array(array) for value, array in compiled(inputs).items()}

    return run


def open_tract(path: str, settings: dict[str, Any]) -> GraphRunner:
    """Open a graph in tract."""
    import tract

    model = tract.onnx().load(path)
    inputs = [model.input_name(place) for place in range(model.input_count())]
    outputs = settings["outputs"]  # tract names them after the nodes that compute them
    runnable = model.into_model().into_runnable()

    def run(given: GraphArrays) -> GraphArrays:
        values = runnable.run([given[name] for name in inputs])
        return {name: value.to_numpy() for name, value in zip(outputs, values, strict=True)}

    return run


# the package of each runtime, and the function that opens a file with it
PYTHON_RUNTIMES: dict[str, tuple[str, Callable[[str, dict[str, Any]], GraphRunner]]] = {
    "onnxruntime": ("onnxruntime", open_onnxruntime),
    "onnx": ("onnx", open_reference),
    "openvino": ("openvino", open_openvino),
    "tract": ("tract", open_tract),
}


def _unpack(values: dict[str, Any]) -> GraphArrays:
    return {
        name: np.frombuffer(base64.b64decode(value["base64"]), np.dtype(value["dtype"]).newbyteorder("<"))
        .astype(value["dtype"])
        .reshape(value["shape"])
        for name, value in values.items()
    }


def _pack(arrays: GraphArrays) -> dict[str, Any]:
    return {
        name: {
            "dtype": array.dtype.name,
            "shape": list(array.shape),
            "base64": base64.b64encode(array.astype(array.dtype.newbyteorder("<")).tobytes()).decode(),
        }
        for name, array in arrays.items()
    }


def main() -> None:
    """Send the version, then answer jobs until the input ends."""
    name, operators = sys.argv[1], sys.argv[2]
    package, open_model = PYTHON_RUNTIMES[name]
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # the output of libraries goes to standard error, not between the answers
    try:
        importlib.import_module(package)
        hello = {"version": importlib.metadata.version(package)}
    except ImportError:
        hello = {"missing": f"{package} is not installed"}
    print(json.dumps(hello), file=answers, flush=True)
    for line in sys.stdin:
        job = json.loads(line)
        try:
            run = open_model(job["path"], {**job, "operators": operators})
            answer: dict[str, Any] = {"outputs": [_pack(run(_unpack(inputs))) for inputs in job["inputs"]]}
        except Exception as error:  # whatever a runtime raises is a finding
            answer = {"error": {"type": type(error).__name__, "message": str(error)}}
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main()
