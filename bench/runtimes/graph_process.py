"""Run exported graphs in one runtime: a JSON line with a job in, one with its outputs or its error out.

Nothing of this package is imported, so that the interpreter of any virtual environment can run this file:

    python graph_process.py RUNTIME OPERATORS

OPERATORS is a file with operators for onnx's reference evaluator, or empty.
"""

from __future__ import annotations

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

Arrays = dict[str, NDArray]
Run = Callable[[Arrays], Arrays]


def open_onnxruntime(path: str, settings: dict[str, Any]) -> Run:
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return lambda inputs: dict(zip(names, session.run(names, inputs), strict=True))


def open_reference(path: str, settings: dict[str, Any]) -> Run:
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


def open_openvino(path: str, settings: dict[str, Any]) -> Run:
    import openvino

    core, options = openvino.Core(), dict(settings["options"])
    fixed = options.pop("fixed shapes", "")
    model = core.read_model(path)
    compiled = None

    def run(inputs: Arrays) -> Arrays:
        nonlocal compiled
        if fixed:
            model.reshape({name: list(array.shape) for name, array in inputs.items()})
        if fixed or compiled is None:
            compiled = core.compile_model(model, "CPU", options)
        return {value.any_name: np.array(array) for value, array in compiled(inputs).items()}

    return run


def open_tract(path: str, settings: dict[str, Any]) -> Run:
    import tract

    model = tract.onnx().load(path)
    inputs = [model.input_name(place) for place in range(model.input_count())]
    outputs = settings["outputs"]  # tract calls them after the nodes that compute them
    runnable = model.into_model().into_runnable()

    def run(given: Arrays) -> Arrays:
        values = runnable.run([given[name] for name in inputs])
        return {name: value.to_numpy() for name, value in zip(outputs, values, strict=True)}

    return run


RUNTIMES: dict[str, tuple[str, Callable[[str, dict[str, Any]], Run]]] = {  # the package, and how it opens a file
    "onnxruntime": ("onnxruntime", open_onnxruntime),
    "onnx": ("onnx", open_reference),
    "openvino": ("openvino", open_openvino),
    "tract": ("tract", open_tract),
}


def _arrays(values: dict[str, Any]) -> Arrays:
    return {name: np.array(v["data"], v["dtype"]).reshape(v["shape"]) for name, v in values.items()}


def _plain(arrays: Arrays) -> dict[str, Any]:
    return {
        name: {"dtype": array.dtype.name, "shape": list(array.shape), "data": array.reshape(-1).tolist()}
        for name, array in arrays.items()
    }


def main() -> None:
    name, operators = sys.argv[1], sys.argv[2]
    package, open_model = RUNTIMES[name]
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what a library prints goes to standard error, not among the answers
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
            answer: dict[str, Any] = {"outputs": [_plain(run(_arrays(inputs))) for inputs in job["inputs"]]}
        except Exception as error:  # whatever a runtime raises is what is asked for
            answer = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main()
