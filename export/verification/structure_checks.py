"""Checks of a file's structure: names and axes of its graph, the ONNX specification, methods of a module, the digest."""

from __future__ import annotations

from collections.abc import Callable

from unrolled.engine.errors import first_line
from unrolled.engine.storage.description import PARTS
from unrolled.export.artifact.forms import RUN, signature_of
from unrolled.export.artifact.metadata import FileInfo
from unrolled.export.verification.checks import CheckFailed, need
from unrolled.export.verification.model_file import ModelFile

METHODS = ("forward", "step", "choose", "generate")  # of a scripted module


def _check_onnx_names(file: ModelFile, info: FileInfo) -> str:
    """Check the graph with onnx's checker, and names of inputs and outputs."""
    import onnx

    model = file.onnx.model
    try:
        onnx.checker.check_model(model, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise CheckFailed(f"not a valid ONNX model: {first_line(error)}") from error
    form = signature_of(info.form, info.spec)
    for kind, values, expected in (
        ("inputs", model.graph.input, form.inputs),
        ("outputs", model.graph.output, form.outputs),
    ):
        names = [value.name for value in values]
        need(names == list(expected), f"{kind} are {', '.join(names)}; form {info.form} has {', '.join(expected)}")
    return f"{', '.join(form.inputs)} -> {', '.join(form.outputs)}; opset {model.opset_import[0].version}"


def _check_onnx_axes(file: ModelFile, info: FileInfo) -> str:
    """Check that no dynamic axis has a fixed size, and that the others have their own."""
    model, form = file.onnx.model, signature_of(info.form, info.spec)
    free = set()
    for value in (*model.graph.input, *model.graph.output):
        axes = (form.inputs | form.outputs)[value.name].axes
        dims = value.type.tensor_type.shape.dim
        need(len(dims) == len(axes), f"{value.name} has {len(dims)} axes, needs {len(axes)}")
        for place, (dim, axis) in enumerate(zip(dims, axes, strict=True)):
            if isinstance(axis, str):
                free.add(axis)
                need(
                    dim.dim_param == axis and not dim.HasField("dim_value"),
                    f"{value.name}, axis {place}: {axis} is frozen at {dim.dim_value}",
                )
            else:
                need(
                    not dim.HasField("dim_value") or dim.dim_value == axis,
                    f"{value.name}, axis {place}: is {dim.dim_value}, needs {axis}",
                )
    return f"{', '.join(sorted(free))} are free"


def _check_specification(file: ModelFile, info: FileInfo) -> str:
    """Check rules of the ONNX specification that neither its checker nor onnxruntime enforces."""
    from unrolled.export.onnx.specification import violations

    found = violations(file.onnx.model)
    need(
        not found,
        f"the graph breaks the ONNX specification: {'; '.join(found)}; onnxruntime runs it all the same, other runtimes "
        "fail or write other tokens: export it again",
    )
    return "the rules of the ONNX specification that its checker leaves out"


def _check_torchscript_names(file: ModelFile, info: FileInfo) -> str:
    """Check that the module has the methods that hosts call."""
    module, _ = file.torchscript
    methods = METHODS[:1] if info.form == RUN else METHODS
    missing = [name for name in methods if not hasattr(module, name)]
    need(not missing, f"the module has no {', '.join(missing)}")
    return ", ".join(methods)


def check_digest(file: ModelFile, info: FileInfo) -> str:
    """Check that weights and description in the file are those it was written with, to the bit."""
    parts = PARTS[info.description.format_version]
    need(
        info.description.digest(file.params(info.spec)) == info.weights.digest,
        f"weights, {' or '.join(parts)} are not those the file was written with",
    )
    return f"weights, {' and '.join(parts)} as written, to the bit"


# By ending: checks that need the file itself, not only a model of it.
STRUCTURE_CHECKS: dict[str, list[tuple[str, Callable[[ModelFile, FileInfo], str]]]] = {
    ".onnx": [("names", _check_onnx_names), ("axes", _check_onnx_axes), ("specification", _check_specification)],
    ".pt": [("names", _check_torchscript_names)],
}
