"""Description of a model file from its metadata, without running it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from unrolled.engine.models.language_model_config import LanguageModelConfig
from unrolled.engine.models.parameters import parameter_count
from unrolled.engine.models.spec import ModelSpec
from unrolled.engine.storage.checkpoint import CHECKPOINT_SUFFIX, load_checkpoint, resolve_model_file
from unrolled.engine.storage.description import Preprocessing, text_preprocessing
from unrolled.engine.storage.json_text import object_in
from unrolled.engine.tokenizers.contract import Tokenizer
from unrolled.export.artifact.forms import RUN
from unrolled.export.artifact.weight_storage import WeightStorage
from unrolled.runtime.models.argument_checks import check_language_model
from unrolled.runtime.models.load import load
from unrolled.runtime.models.onnx_model import OnnxModel
from unrolled.runtime.models.sequence_model import EngineSequenceModel


class _Described(NamedTuple):
    """Metadata of a model file; ``graph`` is empty except for ONNX files."""

    kind: str
    spec: ModelSpec
    preprocessing: Preprocessing
    training: dict[str, Any]
    graph: dict[str, Any]


def _read(path: Path) -> _Described:
    """Return the description of a file's model."""
    if path.suffix == CHECKPOINT_SUFFIX:
        checkpoint = load_checkpoint(path)
        return _Described("checkpoint", checkpoint.spec, checkpoint.preprocessing, checkpoint.training, {})
    model = load(path)
    if isinstance(model, EngineSequenceModel):
        graph = {} if model.storage is None else _graph(RUN, model.storage)
        return _Described(model.engine, model.spec, model.preprocessing, model.training, graph)
    language_model = check_language_model(model)
    graph = _graph(model.form, model.weights) if isinstance(model, OnnxModel) else {}
    preprocessing = text_preprocessing(language_model.tokenizer)
    return _Described(model.engine, language_model.config.spec, preprocessing, model.training, graph)


def _graph(form: str, weights: WeightStorage) -> dict[str, Any]:
    return {"form": form, "weights": weights.storage, "int8_products": weights.quantized}


def describe(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Return kind, size, model, preprocessing and training of a run folder, checkpoint or exported file, as JSON values.

    Raises:
        ModelFileError: the file cannot be read, or was not written by this package.
    """
    path = resolve_model_file(path)
    described = _read(path)
    training = described.training
    result, data, optimizer = (object_in(training, name) for name in ("result", "data", "optimizer"))
    # The last validation belongs to these weights, unless the training continued after it and was interrupted.
    scored = object_in(result, "last") if result.get("last_step") == result.get("steps") else {}
    return {
        "file": str(path),
        "kind": described.kind,
        "bytes": Path(path).stat().st_size,
        **described.graph,
        "parameters": parameter_count(described.spec),
        **_model(described.spec, described.preprocessing, scored),
        "trained": {
            "corpus": object_in(training, "corpus").get("name"),
            **{key: result.get(key) for key in ("engine", "steps", "epochs", "tokens", "seconds", "tokens_per_s")},
            **{key: data.get(key) for key in ("batching", "batch_size", "length")},
            "optimizer": optimizer.get("name"),
            "learning_rate": optimizer.get("learning_rate"),
            **{key: object_in(training, "training").get(key) for key in ("schedule", "seed")},
        },
    }


def _model(spec: ModelSpec, preprocessing: Preprocessing, scored: Mapping[str, Any]) -> dict[str, Any]:
    """Return the parts of the description that depend on the task: figures of the last validation, model, preprocessing."""
    config = LanguageModelConfig.from_spec(spec)
    tokenizers = {name: _tokenizer(rules.tokenizer) for name, rules in preprocessing.items() if rules.tokenizer}
    if config is not None:
        return {
            "val_loss": scored.get("loss"),
            "val_perplexity": scored.get("perplexity"),
            "model": config.to_dict(),
            "tokenizer": tokenizers.get(spec.inputs[0].name),
        }
    values = spec.to_dict()
    inputs = {one["name"]: {key: value for key, value in one.items() if key != "name"} for one in values["inputs"]}
    return {
        **{f"val_{metric.name}": scored.get(metric.name) for metric in spec.head.metrics},
        "capabilities": ", ".join(sorted(spec.capabilities)),
        "model": {**values, "inputs": inputs},
        "tokenizers": tokenizers,
    }


def _tokenizer(tokenizer: Tokenizer) -> dict[str, Any]:
    """Return the rules of a tokeniser and its first tokens; ``normalize`` only where files have it."""
    described = tokenizer.to_dict()
    return {
        "level": tokenizer.level,
        "tokens": len(tokenizer.vocabulary),
        "unknown": tokenizer.unknown,
        **({"normalize": described["normalize"]} if "normalize" in described else {}),
        "first": " ".join(repr(token)[1:-1] for token in tokenizer.examples(12)),
    }
