"""Mutations of ONNX graphs of form run that ``verify`` must detect, each with the check that detects it."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import mutations
import numpy as np
import onnx
from mutations import Change, array, drop_input, freeze, rename, set_attribute, set_initializer, set_metadata

from unrolled.export.onnx.cells import reorder_gates


def _values(name: str, change: Callable[[np.ndarray], Any]) -> Change:
    """Change the values of an initializer; ``change`` returns new ones, or None if it changed them in place."""

    def mutation(model: onnx.ModelProto) -> None:
        value = array(model, name)
        changed = change(value)
        set_initializer(model, name, value if changed is None else changed)

    return mutation


def _scale_one(value: np.ndarray) -> None:
    value.reshape(-1)[3] *= 1.05


def _reorder(order: tuple[int, ...]) -> Callable[[np.ndarray], np.ndarray]:
    return lambda value: np.stack([reorder_gates(direction, order) for direction in value])


def _exchange_directions(model: onnx.ModelProto) -> None:
    for kind in ("weight_ih", "weight_hh", "bias"):
        name = f"rnn.{kind}_l0"
        set_initializer(model, name, np.ascontiguousarray(array(model, name)[::-1]))


def _reverse_classes(model: onnx.ModelProto) -> None:
    for name in ("output.weight", "output.bias"):
        set_initializer(model, name, np.ascontiguousarray(array(model, name)[::-1]))


def _read_padding(name: str) -> Change:
    return lambda model: rename(
        [node for node in model.graph.node if node.op_type != "Where"], f"inputs/{name}/clean", name
    )


def _ignore_lengths(model: onnx.ModelProto) -> None:
    for node in model.graph.node:
        if node.op_type in mutations.RECURRENT:
            node.input[4] = ""


def _reverse_time(model: onnx.ModelProto) -> None:
    for node in model.graph.node:
        if node.op_type in mutations.RECURRENT:
            node.attribute.append(onnx.helper.make_attribute("direction", "reverse"))


def _flip_a_bit(value: np.ndarray) -> None:
    value.view(np.uint32).reshape(-1)[7] ^= 1


def _json_of(model: onnx.ModelProto, key: str) -> Any:
    return json.loads(next(prop.value for prop in model.metadata_props if prop.key == key))


def _scale_in_the_spec(model: onnx.ModelProto) -> None:
    spec = _json_of(model, "unrolled.spec")
    next(column for column in spec["inputs"] if column["kind"] == "values")["scale"][0] *= 1.5
    set_metadata(model, "unrolled.spec", json.dumps(spec))


def _reverse_vocabulary(model: onnx.ModelProto) -> None:
    preprocessing = _json_of(model, "unrolled.preprocessing")
    preprocessing["tokens"]["tokenizer"]["vocabulary"].reverse()
    set_metadata(model, "unrolled.preprocessing", json.dumps(preprocessing))


def _no_golden(model: onnx.ModelProto) -> None:
    set_metadata(model, "unrolled.golden", "[]")


def _off_by_one_in_padding(model: onnx.ModelProto) -> None:
    """Count one time step of padding as valid, where inputs are cleaned."""
    next(node for node in model.graph.node if node.op_type == "Less").op_type = "LessOrEqual"


EVERY_MODEL: dict[str, tuple[Change, str]] = {
    "a weight of the head": (_values("output.weight", _scale_one), "values"),
    "a recurrent weight": (_values("rnn.weight_hh_l1", _scale_one), "values"),
    "a bit": (_values("rnn.weight_ih_l1", _flip_a_bit), "digest"),
    "classes in another order": (_reverse_classes, "values"),
    "another row of an embedding": (
        _values("embeddings.categories.weight", lambda value: value[::-1].copy()),
        "values",
    ),
    "another scale": (_values("inputs/values/scale", _scale_one), "values"),
    "another mean": (_values("inputs/values/mean", _scale_one), "values"),
    "another scale of statics": (_values("inputs/static/scale", lambda value: value * 1.1), "values"),
    "lengths ignored": (_ignore_lengths, "lengths"),
    "ids in the padding read": (_read_padding("tokens"), "lengths"),
    "a step of padding read": (_off_by_one_in_padding, "lengths"),
    "another scale in the spec": (_scale_in_the_spec, "digest"),
    "another vocabulary": (_reverse_vocabulary, "digest"),
    "no golden cases": (_no_golden, "values"),
    "batch frozen": (freeze("values", 1), "axes"),
    "time of the logits frozen": (freeze("logits", 0, 7), "axes"),
    "batch of the lengths frozen": (freeze("lengths", 0, 3), "axes"),
    "another number of columns": (freeze("values", 2, 6), "names"),
    "output renamed": (mutations.rename_output, "names"),
}
ONE_DIRECTION: dict[str, tuple[Change, str]] = {
    "state dropped": (drop_input(5), "chunks"),
    "time reversed": (_reverse_time, "chunks"),
}
# By cell and number of directions.
RUN_MUTATIONS: dict[tuple[str, bool], dict[str, tuple[Change, str]]] = {
    ("lstm", True): {
        **EVERY_MODEL,
        "directions exchanged": (_exchange_directions, "values"),
        "gates exchanged": (_values("rnn.weight_ih_l0", _reorder((1, 0, 2, 3))), "values"),
    },
    ("gru", True): {
        "directions exchanged": (_exchange_directions, "values"),
        "gates exchanged": (_values("rnn.weight_hh_l1", _reorder((1, 0, 2))), "values"),
        "reset before the product": (set_attribute("linear_before_reset", 0), "values"),
    },
    ("lstm", False): {**EVERY_MODEL, **ONE_DIRECTION, "c dropped": (drop_input(6), "chunks")},
    ("rnn", False): {**ONE_DIRECTION, "another activation": (set_attribute("activations", ["Relu"]), "values")},
}
