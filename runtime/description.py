"""Description of a model file from its metadata, without running it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from unrolled.engine.models.parameters import parameter_count
from unrolled.engine.storage.checkpoint import CHECKPOINT_SUFFIX, load_checkpoint, resolve_model_file
from unrolled.engine.storage.json_text import object_in
from unrolled.runtime.models.load import load
from unrolled.runtime.models.onnx_model import OnnxModel


def describe(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Return kind, size, model, vocabulary and training of a run folder, checkpoint or exported file, as JSON values.

    Raises:
        ModelFileError: the file cannot be read, or was not written by this package.
    """
    path = resolve_model_file(path)
    graph: dict[str, Any] = {}  # ONNX files only
    if path.suffix == CHECKPOINT_SUFFIX:
        checkpoint = load_checkpoint(path)
        kind, config, tokenizer, training = "checkpoint", checkpoint.config, checkpoint.tokenizer, checkpoint.training
    else:
        model = load(path)
        kind, config, tokenizer, training = model.engine, model.config, model.tokenizer, model.training
        if isinstance(model, OnnxModel):
            weights = model.weights
            graph = {"form": model.form, "weights": weights.storage, "int8_products": weights.quantized}
    result, data, optimizer = (object_in(training, name) for name in ("result", "data", "optimizer"))
    # The last validation belongs to these weights, unless the training continued after it and was interrupted.
    scored = object_in(result, "last") if result.get("last_step") == result.get("steps") else {}
    return {
        "file": str(path),
        "kind": kind,
        "bytes": Path(path).stat().st_size,
        **graph,
        "parameters": parameter_count(config.spec),
        "val_loss": scored.get("loss"),
        "val_perplexity": scored.get("perplexity"),
        "model": config.to_dict(),
        "tokenizer": {
            "level": tokenizer.level,
            "tokens": len(tokenizer.vocabulary),
            "unknown": tokenizer.unknown,
            "first": " ".join(repr(token)[1:-1] for token in tokenizer.examples(12)),
        },
        "trained": {
            "corpus": object_in(training, "corpus").get("name"),
            **{key: result.get(key) for key in ("engine", "steps", "epochs", "tokens", "seconds", "tokens_per_s")},
            **{key: data.get(key) for key in ("batching", "batch_size", "length")},
            "optimizer": optimizer.get("name"),
            "learning_rate": optimizer.get("learning_rate"),
            **{key: object_in(training, "training").get(key) for key in ("schedule", "seed")},
        },
    }
