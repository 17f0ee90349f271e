"""What a model file says of itself, without running it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from unrolled.engine.models.parameters import parameter_count
from unrolled.engine.storage.checkpoint import CHECKPOINT_SUFFIX, load_checkpoint, resolve_model_file
from unrolled.engine.storage.json_text import object_in
from unrolled.export.artifact.weight_storage import WeightStorage
from unrolled.runtime.models.load import load


def describe(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Kind, size, model, vocabulary and training of a run folder, checkpoint or exported file; JSON values only.

    Raises:
        ModelFileError: it cannot be read, or is not one of ours.
    """
    path = resolve_model_file(path)
    graph: dict[str, Any] = {}  # of an ONNX file
    if path.suffix == CHECKPOINT_SUFFIX:
        checkpoint = load_checkpoint(path)
        kind, config, tokenizer, training = "checkpoint", checkpoint.config, checkpoint.tokenizer, checkpoint.training
    else:
        model: Any = load(path)
        kind, config, tokenizer, training = model.engine, model.config, model.tokenizer, model.training
        if isinstance(weights := getattr(model, "weights", None), WeightStorage):
            graph = {"form": model.form, "weights": weights.storage, "int8_products": weights.quantized}
    result, data, optimizer = (object_in(training, name) for name in ("result", "data", "optimizer"))
    # the last validation is of these weights, unless the training went on behind it and was interrupted
    scored = object_in(result, "last") if result.get("last_step") == result.get("steps") else {}
    return {
        "file": str(path),
        "kind": kind,
        "bytes": Path(path).stat().st_size,
        **graph,
        "parameters": parameter_count(config),
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
