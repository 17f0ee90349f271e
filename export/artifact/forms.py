"""Forms of exported files: inputs and outputs of a graph, with their types and axes.

A language model has the forms ``step``, ``generate`` and ``both``, every other model the form ``run``.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from unrolled.engine.models.language_model_config import LanguageModelConfig
from unrolled.engine.models.spec import ModelSpec

Axes = tuple[str | None, ...]
RUN = "run"


class Form(NamedTuple):
    """Inputs and outputs of a graph by name; for each axis its name if it is dynamic, else None."""

    inputs: dict[str, Axes]
    outputs: dict[str, Axes]


# Forms of language models. Frozen, because hosts rely on them.
STEP_INPUTS: dict[str, Axes] = {"tokens": ("time", "batch"), "state": (None, None, "batch", None)}
STEP_OUTPUTS: dict[str, Axes] = {"logits": ("time", "batch", None), "next_state": (None, None, "batch", None)}
GENERATE_INPUTS: dict[str, Axes] = {
    **STEP_INPUTS,
    "lengths": ("batch",),
    "uniforms": ("steps", "batch"),
    **dict.fromkeys(("temperature", "top_k", "top_p", "end_token"), ()),
}
GENERATE_OUTPUTS: dict[str, Axes] = {"written": ("written", "batch"), "final_state": (None, None, "batch", None)}
FORMS = {
    "step": Form(STEP_INPUTS, STEP_OUTPUTS),
    "generate": Form(GENERATE_INPUTS, GENERATE_OUTPUTS),
    "both": Form(GENERATE_INPUTS, STEP_OUTPUTS | GENERATE_OUTPUTS),
}
DTYPES = {  # of inputs and outputs that are not float32
    **dict.fromkeys(("tokens", "lengths", "top_k", "end_token", "written"), "int64"),
    **dict.fromkeys(("uniforms", "temperature", "top_p"), "float64"),
}


class Value(NamedTuple):
    """An input or output of a graph for one model.

    Args:
        dtype: the name of its dtype in NumPy.
        axes: the names of dynamic axes and the sizes of the others.
        kind: the kind of the model's input that it is, the kind of the head that returns it, "lengths", "state", or
            "generation" for what only the forms that write text have.
    """

    dtype: str
    axes: tuple[str | int, ...]
    kind: str


class Signature(NamedTuple):
    """Inputs and outputs of the graph of one model by name, in their order."""

    inputs: dict[str, Value]
    outputs: dict[str, Value]


def forms_of(spec: ModelSpec) -> tuple[str, ...]:
    """Return the forms that files of a model can have; the first is the default."""
    return (RUN,) if LanguageModelConfig.from_spec(spec) is None else tuple(FORMS)


def signature_of(form: str, spec: ModelSpec) -> Signature:
    """Return inputs and outputs of the graph of a form of ``forms_of``."""
    return _run_signature(spec) if form == RUN else _text_signature(form, spec)


def _run_signature(spec: ModelSpec) -> Signature:
    """Return inputs and outputs of the form ``run``: whole sequences, padded to the longest.

    A model that has steps takes the state from which the sequences start, so that a sequence can be run in chunks. Other
    models start from zeros.
    """
    state = Value("float32", _state_axes(spec), "state")
    inputs = {column.name: Value(column.dtype.name, column.axes, column.kind) for column in spec.inputs}
    inputs["lengths"] = Value("int64", ("batch",), "lengths")
    if "step" in spec.capabilities:
        inputs["state"] = state
    outputs = {name: Value("float32", axes, spec.head.kind) for name, axes in spec.head.outputs.items()}
    return Signature(inputs, {**outputs, "final_state": state})


def _text_signature(form: str, spec: ModelSpec) -> Signature:
    """Return inputs and outputs of a form of ``FORMS``."""
    logits = spec.head.outputs["logits"]
    kinds = {"tokens": spec.inputs[0].kind, "lengths": "lengths", "logits": spec.head.kind}

    def value(name: str, axes: Axes) -> Value:
        dtype = DTYPES.get(name, "float32")
        if name == "state" or name.endswith("_state"):
            return Value(dtype, _state_axes(spec), "state")
        sizes = logits if name == "logits" else axes
        return Value(dtype, tuple(size for size in sizes if size is not None), kinds.get(name, "generation"))

    return Signature(*({name: value(name, axes) for name, axes in names.items()} for names in FORMS[form]))


def _state_axes(spec: ModelSpec) -> tuple[str | int, ...]:
    S, layers, _, H = spec.state_shape(1)
    return (S, layers, "batch", H)


def describe_signature(form: str, spec: ModelSpec) -> dict[str, list[dict[str, Any]]]:
    """Return inputs and outputs of the graph of a form as JSON values for hosts, each in its order."""
    return {
        part: [
            {"name": name, "dtype": value.dtype, "axes": list(value.axes), "kind": value.kind}
            for name, value in values.items()
        ]
        for part, values in signature_of(form, spec)._asdict().items()
    }


def describe_state(form: str, spec: ModelSpec, version: int) -> dict[str, Any]:
    """Return the description of the state array for hosts, as a file of a format contains it."""
    signature = signature_of(form, spec)
    # Format 1 names the output of the form step, whatever the form.
    output = "next_state" if version == 1 or "next_state" in signature.outputs else "final_state"
    S, layers, _, H = spec.state_shape(1)
    return {
        "input": "state" if "state" in signature.inputs else None,
        "output": output,
        "axes": ["states", "layers", "batch", "hidden"],
        "shape": [S, layers, None, H],
        "initial": "zeros",
        "index_0": "h",
    }
