"""Mutations of exported files that ``verify`` must detect: of ONNX graphs, and of the source of the TorchScript program."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper

from unrolled.export.onnx.cells import reorder_gates

Change = Callable[[onnx.ModelProto], None]
RECURRENT = ("RNN", "GRU", "LSTM", "DynamicQuantizeLSTM")
LOOPS = ("plain", "filtered")


def set_initializer(model: onnx.ModelProto, name: str, value: np.ndarray) -> None:
    tensor = next(tensor for tensor in model.graph.initializer if tensor.name == name)
    tensor.CopyFrom(numpy_helper.from_array(value, name))


def array(model: onnx.ModelProto, name: str) -> np.ndarray:
    return numpy_helper.to_array(next(t for t in model.graph.initializer if t.name == name)).copy()


def set_metadata(model: onnx.ModelProto, key: str, value: str) -> None:
    next(prop for prop in model.metadata_props if prop.key == key).value = value


def body(model: onnx.ModelProto, loop: str) -> onnx.GraphProto:
    """Return the graph of the loop without or with filters; "": the graph that contains both."""
    if not loop:
        return model.graph
    loops = [node for node in model.graph.node if node.op_type == "Loop"]
    return loops[LOOPS.index(loop)].attribute[0].g


def rename(nodes: Any, old: str, new: str) -> None:
    """Make the nodes that read ``old`` read ``new``."""
    found = 0
    for node in nodes:
        found += list(node.input).count(old)
        node.input[:] = [new if name == old else name for name in node.input]
    assert found


def drop_input(place: int, loop: str = "") -> Change:
    """Start the recurrent nodes from a zero state: input 5 is h, 6 is c."""

    def change(model: onnx.ModelProto) -> None:
        for node in body(model, loop).node:
            if node.op_type in RECURRENT:
                node.input[place] = ""

    return change


def set_attribute(name: str, value: Any, loop: str = "") -> Change:
    def change(model: onnx.ModelProto) -> None:
        for node in body(model, loop).node:
            for attribute in node.attribute:
                if attribute.name == name:
                    attribute.CopyFrom(onnx.helper.make_attribute(name, value))

    return change


def swap_gates(order: tuple[int, ...], loop: str = "") -> Change:
    """Exchange two gates; in a loop, generation then uses other weights than the prompt."""

    def change(model: onnx.ModelProto) -> None:
        value = reorder_gates(array(model, "rnn.weight_hh_l0")[0], order)[None]
        if not loop:
            return set_initializer(model, "rnn.weight_hh_l0", value)
        model.graph.initializer.append(numpy_helper.from_array(value, "swapped"))
        return rename(body(model, loop).node, "rnn.weight_hh_l0", "swapped")

    return change


def scale_row(name: str, factor: float) -> Change:
    def change(model: onnx.ModelProto) -> None:
        value = array(model, name)
        value[4] = value[4] * factor
        set_initializer(model, name, value)

    return change


def freeze(name: str, axis: int, size: int = 1) -> Change:
    def change(model: onnx.ModelProto) -> None:
        value = next(v for v in (*model.graph.input, *model.graph.output) if v.name == name)
        value.type.tensor_type.shape.dim[axis].dim_value = size

    return change


def rename_output(model: onnx.ModelProto) -> None:
    for node in model.graph.node:
        node.output[:] = ["scores" if name == "logits" else name for name in node.output]
    model.graph.output[0].name = "scores"


def give_h_for_c(model: onnx.ModelProto) -> None:
    rename([node for node in model.graph.node if node.op_type == "Concat"], "final_1_l0", "final_0_l0")


EVERY_CELL: dict[str, tuple[Change, str]] = {
    "a row scaled": (scale_row("output.weight", 1.05), "values"),
    "batch frozen": (freeze("tokens", 1), "axes"),
    "time frozen": (freeze("tokens", 0), "axes"),
    "batch of the state frozen": (freeze("state", 2), "axes"),
    "time of the logits frozen": (freeze("logits", 0, 7), "axes"),
    "batch of the next state frozen": (freeze("next_state", 2), "axes"),
    "state dropped": (drop_input(5), "chunks"),
    "output renamed": (rename_output, "names"),
}
# Mutations by cell, each with the check that detects it.
MUTATIONS: dict[str, dict[str, tuple[Change, str]]] = {
    "gru": {
        **EVERY_CELL,
        "gates exchanged": (swap_gates((1, 0, 2)), "values"),
        "reset before the product": (set_attribute("linear_before_reset", 0), "values"),
    },
    "lstm": {
        **EVERY_CELL,
        "input and output exchanged": (swap_gates((1, 0, 2, 3)), "values"),
        "forget and cell exchanged": (swap_gates((0, 1, 3, 2)), "values"),
        "c dropped": (drop_input(6), "chunks"),
        "h given back for c": (give_h_for_c, "chunks"),
    },
    "rnn": {**EVERY_CELL, "another activation": (set_attribute("activations", ["Relu"]), "values")},
}


def _no_top_k(model: onnx.ModelProto, loop: str) -> None:
    next(node for node in model.graph.node if list(node.output) == ["wanted_k"]).input[2] = "partly"


def _no_temperature(model: onnx.ModelProto, loop: str) -> None:
    rename(body(model, loop).node, "temperature", "one")


def _read_padding(model: onnx.ModelProto, loop: str) -> None:
    rename(model.graph.node, "sequence_lengths", "")


# Mutations of the loop, by cell.
WRITING_MUTATIONS: dict[str, dict[str, Callable[[onnx.ModelProto, str], None]]] = {
    "gru": {
        "gates exchanged": lambda model, loop: swap_gates((1, 0, 2), loop)(model),
        "state dropped": lambda model, loop: drop_input(5, loop)(model),
        "reset before the product": lambda model, loop: set_attribute("linear_before_reset", 0, loop)(model),
        "top-k left out": _no_top_k,
        "temperature left out": _no_temperature,
        "padding read": _read_padding,
    },
    "lstm": {
        "input and output exchanged": lambda model, loop: swap_gates((1, 0, 2, 3), loop)(model),
        "forget and cell exchanged": lambda model, loop: swap_gates((0, 1, 3, 2), loop)(model),
        "h dropped": lambda model, loop: drop_input(5, loop)(model),
        "c dropped": lambda model, loop: drop_input(6, loop)(model),
    },
    "rnn": {
        "state dropped": lambda model, loop: drop_input(5, loop)(model),
        "another activation": lambda model, loop: set_attribute("activations", ["Relu"], loop)(model),
    },
}


def exchange_layers(end: str) -> Change:
    """Exchange the recurrent weights of the layers; ``end`` is the suffix of the names that nodes read."""

    def change(model: onnx.ModelProto) -> None:
        first, second = (f"rnn.weight_hh_l{layer}{end}" for layer in range(2))
        for old, new in ((first, "between"), (second, first), ("between", second)):
            rename(model.graph.node, old, new)

    return change


# Mutations of files with compact weights, which have other graphs and other tolerances.
SMALLER_MUTATIONS: dict[str, dict[str, tuple[Change, str]]] = {
    "fp16": {
        "layers exchanged": (exchange_layers(":float32"), "values"),
        "a row scaled": (scale_row("output.weight", 1.25), "values"),
        "c dropped": (drop_input(6), "chunks"),
    },
    "int8": {
        "layers exchanged": (exchange_layers(":scaled"), "values"),
        "scales exchanged": (exchange_layers(":scale"), "values"),
        "c dropped": (drop_input(6), "chunks"),
    },
    "quantized": {
        "state dropped": (drop_input(5), "chunks"),
        "c dropped": (drop_input(6), "chunks"),
        "layers exchanged": (exchange_layers(""), "values"),
        "a row scaled": (scale_row("output.weight:scale", 1.5), "values"),
    },
}


def truncate_vocabulary(model: onnx.ModelProto) -> None:
    key = "unrolled.tokenizer"
    values = json.loads(next(prop.value for prop in model.metadata_props if prop.key == key))
    set_metadata(model, key, json.dumps({**values, "vocabulary": values["vocabulary"][:-1]}))


# Mutations of the source of the TorchScript program: the original, its replacement, and the check that detects it.

_TOKEN = "token = torch.where(ended, torch.full_like(token, end_token), token)"
PROGRAMS: dict[str, tuple[str, str, str]] = {
    "forward scaled": ("return self.output(h), state", "return self.output(h) * 1.01, state", "values"),
    "h and c exchanged": ("torch.stack([h, c])", "torch.stack([c, h])", "chunks"),
    "step scaled": ("return logits[0], state\n", "return logits[0] * 1.01, state\n", "own step"),
    "step keeps the state": (
        "logits, state = self.forward(tokens.unsqueeze(0), state)",
        "logits, moved = self.forward(tokens.unsqueeze(0), state)",
        "own step",
    ),
    "another sampler": ("cdf = torch.cumsum(p, dim=-1)", "cdf = torch.cumsum(p.flip([-1]), dim=-1)", "own tokens"),
    "top-k one more": ("keep[:, top_k:] = False", "keep[:, top_k + 1:] = False", "own tokens"),
    "top-p left out": ("before < top_p * p.sum", "before < 2.0 * p.sum", "own tokens"),
    "temperature left out": ("logits.to(torch.float64) / temperature", "logits.to(torch.float64)", "own tokens"),
    "choose that fails": ("cdf = torch.cumsum(p, dim=-1)", 'raise ValueError("no")', "own tokens"),
    "other uniforms": ("self.choose(logits, uniforms[n],", "self.choose(logits, 1 - uniforms[n],", "written tokens"),
    "settings left out": ("uniforms[n], temperature, top_k, top_p)", "uniforms[n], 1.0, 0, 1.0)", "written tokens"),
    "padding read": ("reads = t < lengths", "reads = lengths > 0", "written tokens"),
    "state dropped": ("self.step(tokens[-1], state)", "self.step(tokens[-1], state * 0)", "written tokens"),
    "end forgotten": (_TOKEN, "", "written pieces"),
    "stops too soon": ("bool(ended.all())", "bool(ended.any())", "written pieces"),
    "never stops": ("bool(ended.all())", "n < 0", "written tokens"),
    "state lost at the end": ("torch.stack(tokens), state", "torch.stack(tokens), state * 0", "written pieces"),
    "generate that fails": ("shortest = int(lengths.min())", 'raise ValueError("no")', "written tokens"),
    "no generate": ("    @torch.jit.export\n    def generate", "    def generate", "names"),
}  # fmt: skip


def changed_program(old: str, new: str, folder: Path) -> Any:
    """Return ``unrolled.export.torch.model`` with a part of its source replaced, from a file, because scripting reads it."""
    import unrolled.export.torch.model as original

    text = Path(original.__file__).read_text(encoding="utf-8")
    assert text.count(old) == 1, old
    path = folder / "changed_model.py"
    path.write_text(text.replace(old, new), encoding="utf-8")
    spec = importlib.util.spec_from_file_location(f"changed_model_{abs(hash((old, new)))}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
