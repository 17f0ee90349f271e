"""ONNX files written from the weights alone, without torch.

Graphs have standard operators of opset 17 and IR version 8, which every runtime tried can load; int8 products have operators
of onnxruntime alone.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnx
from onnx import helper

from unrolled.engine.checks import check_choice
from unrolled.engine.models.language_model_config import language_model_of
from unrolled.engine.models.parameters import Params
from unrolled.engine.models.spec import ModelSpec
from unrolled.engine.network.language_model import LanguageModel
from unrolled.engine.network.network import Network
from unrolled.engine.storage.atomic_files import write_atomically
from unrolled.engine.storage.checkpoint import Checkpoint
from unrolled.export.artifact.forms import RUN, forms_of
from unrolled.export.artifact.golden_cases import golden_cases
from unrolled.export.artifact.golden_runs import golden_runs
from unrolled.export.artifact.metadata import file_metadata, producer
from unrolled.export.artifact.weight_storage import FLOAT32_STORAGE, WeightStorage, as_restored
from unrolled.export.onnx.cells import ONNXRUNTIME_DOMAIN
from unrolled.export.onnx.language_model_graph import language_model_graph
from unrolled.export.onnx.run_graph import run_graph
from unrolled.export.onnx.runner import OnnxRunner
from unrolled.export.onnx.stepper import OnnxStepper, open_session

OPSET, IR_VERSION = 17, 8


def build(
    checkpoint: Checkpoint, form: str | None = None, storage: WeightStorage = FLOAT32_STORAGE, golden: bool = True
) -> onnx.ModelProto:
    """Return a checkpoint as an ONNX model, metadata included.

    Args:
        form: one of ``forms_of`` the model's spec; the first if left out.
        golden: record golden cases; a model that stays in memory needs none.

    Raises:
        ConfigError: files of the model have no such form.
    """
    forms = forms_of(checkpoint.spec)
    form = form or forms[0]
    check_choice("form", form, forms)
    restored = as_restored(checkpoint, storage.storage)
    storage = storage._replace(digest=restored.digest)
    cases: list[dict[str, Any]] = []
    if golden and storage.quantized:
        cases = _quantized_cases(checkpoint, form, storage)
    elif golden and form == RUN:
        cases = golden_runs(Network(restored.spec, restored.params))
    elif golden:
        cases = golden_cases(LanguageModel(restored.config, restored.params))
    return _build_model(checkpoint, form, storage, cases)


def _quantized_cases(checkpoint: Checkpoint, form: str, storage: WeightStorage) -> list[dict[str, Any]]:
    """Return golden cases computed by onnxruntime on this processor: no other engine has the operators."""
    read = RUN if form == RUN else "step"
    model, where = bare_model(checkpoint.spec, checkpoint.float32(), read, storage), "the graph of the checkpoint"
    session = open_session(model.SerializeToString(), where)
    if form == RUN:
        return golden_runs(OnnxRunner(session, checkpoint.spec, where))
    stepper = OnnxStepper(session, checkpoint.config, "step", where)
    return golden_cases(stepper, 2 * storage.tolerance, drawn=False)


def _build_model(
    checkpoint: Checkpoint, form: str, storage: WeightStorage, cases: list[dict[str, Any]]
) -> onnx.ModelProto:
    model = bare_model(checkpoint.spec, checkpoint.float32(), form, storage)
    helper.set_model_props(model, file_metadata(checkpoint, form, storage, cases))
    return model


def bare_model(spec: ModelSpec, params: Params, form: str, storage: WeightStorage = FLOAT32_STORAGE) -> onnx.ModelProto:
    """Return a model without metadata in a form of ``forms_of(spec)``, given its parameters in float32."""
    if form == RUN:
        graph = run_graph(spec, params, storage)
    else:
        graph = language_model_graph(language_model_of(spec), params, form, storage)
    opsets = [helper.make_opsetid("", OPSET)]
    if storage.quantized:
        opsets.append(helper.make_opsetid(ONNXRUNTIME_DOMAIN, 1))
    return helper.make_model(
        graph,
        opset_imports=opsets,
        ir_version=IR_VERSION,
        producer_name="unrolled",
        producer_version=producer().removeprefix("unrolled "),
    )


def write_onnx(
    checkpoint: Checkpoint, path: Path, form: str | None = None, storage: WeightStorage = FLOAT32_STORAGE
) -> None:
    """Write one self-contained file."""
    model = build(checkpoint, form, storage)
    onnx.checker.check_model(model, full_check=True)
    write_atomically(path, model.SerializeToString())
