"""ONNX files written from the weights alone, without torch.

The step form: ``tokens`` (T, B) int64 and ``state`` (S, L, B, H) in, ``logits`` (T, B, V) and ``next_state`` out; T and B
are dynamic. The generate form reads ragged prompts and writes tokens inside the graph (``generation_loop``). Graphs
have standard operators of opset 17 and IR version 8, which every runtime tried can load; int8 products have operators of
onnxruntime alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import onnx
from onnx import TensorProto, helper

from unrolled.engine.models.language_model_config import LanguageModelConfig
from unrolled.engine.network.language_model import LanguageModel
from unrolled.engine.storage.atomic_files import write_atomically
from unrolled.engine.storage.checkpoint import Checkpoint
from unrolled.export.artifact.golden_cases import golden_cases
from unrolled.export.artifact.metadata import FORMS, Axes, file_metadata, producer
from unrolled.export.artifact.weight_storage import FLOAT32_STORAGE, WeightStorage, as_restored
from unrolled.export.onnx.cells import ONNXRUNTIME_DOMAIN
from unrolled.export.onnx.generation_loop import add_generation
from unrolled.export.onnx.graph_builder import GraphBuilder
from unrolled.export.onnx.layers import add_initial_states, add_layer, add_sequence_logits, add_stacked_state
from unrolled.export.onnx.stepper import OnnxStepper, open_session
from unrolled.export.onnx.weights import add_weights

OPSET, IR_VERSION = 17, 8
VALUE_TYPES = {  # inputs and outputs with another type than float32
    **dict.fromkeys(("tokens", "lengths", "top_k", "end_token", "written"), TensorProto.INT64),
    **dict.fromkeys(("uniforms", "temperature", "top_p"), TensorProto.DOUBLE),
}


def build(
    checkpoint: Checkpoint, form: str = "step", storage: WeightStorage = FLOAT32_STORAGE, golden: bool = True
) -> onnx.ModelProto:
    """Return a checkpoint as an ONNX model in a form of ``FORMS``, metadata included.

    Args:
        golden: record golden cases; a model that stays in memory needs none.
    """
    restored = as_restored(checkpoint, storage.storage)
    storage = storage._replace(digest=restored.digest)
    cases: list[dict[str, Any]] = []
    if golden and storage.quantized:
        cases = _quantized_cases(checkpoint, storage)
    elif golden:
        cases = golden_cases(LanguageModel(restored.config, restored.params))
    return _build_model(checkpoint, form, storage, cases)


def _quantized_cases(checkpoint: Checkpoint, storage: WeightStorage) -> list[dict[str, Any]]:
    """Return golden cases computed by onnxruntime on this processor: no other engine has the operators."""
    model, where = _build_model(checkpoint, "step", storage, []), "the graph of the checkpoint"
    stepper = OnnxStepper(open_session(model.SerializeToString(), where), checkpoint.config, "step", where)
    return golden_cases(stepper, 2 * storage.tolerance, drawn=False)


def _build_model(
    checkpoint: Checkpoint, form: str, storage: WeightStorage, cases: list[dict[str, Any]]
) -> onnx.ModelProto:
    opsets = [helper.make_opsetid("", OPSET)]
    if storage.quantized:
        opsets.append(helper.make_opsetid(ONNXRUNTIME_DOMAIN, 1))
    model = helper.make_model(
        _build_graph(checkpoint, form, storage),
        opset_imports=opsets,
        ir_version=IR_VERSION,
        producer_name="unrolled",
        producer_version=producer().removeprefix("unrolled "),
    )
    helper.set_model_props(model, file_metadata(checkpoint, form, storage, cases))
    return model


def _build_graph(checkpoint: Checkpoint, form: str, storage: WeightStorage) -> onnx.GraphProto:
    config = checkpoint.config
    graph = GraphBuilder()
    axis_0 = graph.constant("axis_0", [0])
    axis_1 = graph.constant("axis_1", [1])
    weights = add_weights(graph, config, checkpoint.float32(), storage)
    x = graph.node("Gather", [weights.embedding, "tokens"], "embedded", axis=0)
    initial = add_initial_states(graph, config, axis_0)
    lengths = "" if form == "step" else graph.node("Cast", ["lengths"], "sequence_lengths", to=TensorProto.INT32)
    finals: list[list[str]] = []
    for layer in range(config.num_layers):
        y, last = add_layer(graph, config, layer, weights.layers[layer], x, initial[layer], lengths)
        finals.append(last)
        if layer < config.num_layers - 1 or form != "generate":  # generate needs only the last layer's final state
            x = graph.node("Squeeze", [y, axis_1], f"hidden_l{layer}")
    if form != "generate":
        add_sequence_logits(graph, config, weights, x)
        add_stacked_state(graph, finals, axis_0, "next_state")
    if form != "step":
        add_generation(graph, config, weights, finals, axis_0)
    inputs, outputs = (_describe(names, config) for names in FORMS[form])
    return graph.proto(f"unrolled_{form}", inputs, outputs)


def _describe(names: Mapping[str, Axes], config: LanguageModelConfig) -> list[onnx.ValueInfoProto]:
    """Return types and shapes of inputs or outputs; unnamed axes take the sizes of the config."""
    sizes = {"state": config.state_shape(0), "logits": (None, None, config.vocab_size)}
    infos = []
    for name, axes in names.items():
        fixed = sizes.get(name.removeprefix("next_").removeprefix("final_"), (None,) * len(axes))
        shape = [axis or size for axis, size in zip(axes, fixed, strict=True)]
        infos.append(helper.make_tensor_value_info(name, VALUE_TYPES.get(name, TensorProto.FLOAT), shape))
    return infos


def write_onnx(
    checkpoint: Checkpoint, path: Path, form: str = "step", storage: WeightStorage = FLOAT32_STORAGE
) -> None:
    """Write one self-contained file."""
    model = build(checkpoint, form, storage)
    onnx.checker.check_model(model, full_check=True)
    write_atomically(path, model.SerializeToString())
