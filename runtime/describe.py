"""What a model file says of itself, without running it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from unrolled.engine.checkpoint import SUFFIX, load_checkpoint, resolve_checkpoint
from unrolled.engine.params import parameter_count
from unrolled.runtime.session import load


def describe(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Kind, size, model, vocabulary and training of a run folder, checkpoint or exported file; JSON values only.

    Raises:
        ModelFileError: it cannot be read, or is not one of ours.
    """
    path = resolve_checkpoint(path)
    if path.suffix == SUFFIX:
        checkpoint = load_checkpoint(path)
        kind, config, tokenizer, training = (
            "checkpoint",
            checkpoint.config,
            checkpoint.tokenizer,
            checkpoint.training,
        )
    else:
        model: Any = load(path)
        kind, config, tokenizer, training = model.engine, model.config, model.tokenizer, model.info.training
    result, data, optimizer = (_part(training, name) for name in ("result", "data", "optimizer"))
    scored = _part(result, "last")  # the last validation before the file was written: of these weights
    return {
        "file": str(path),
        "kind": kind,
        "bytes": Path(path).stat().st_size,
        "parameters": parameter_count(config),
        "val_loss": scored.get("loss"),
        "val_perplexity": scored.get("perplexity"),
        "model": config.to_dict(),
        "tokenizer": {
            "level": tokenizer.level,
            "tokens": len(tokenizer.vocabulary),
            "unknown": tokenizer.unknown,
            "first": " ".join(repr(token)[1:-1] for token in tokenizer.vocabulary[:12]),
        },
        "trained": {
            "corpus": _part(training, "corpus").get("name"),
            **{key: result.get(key) for key in ("engine", "steps", "epochs", "tokens", "seconds", "tokens_per_s")},
            **{key: data.get(key) for key in ("batching", "batch_size", "length")},
            "optimizer": optimizer.get("name"),
            "learning_rate": optimizer.get("learning_rate"),
            **{key: _part(training, "training").get(key) for key in ("schedule", "seed")},
        },
    }


def _part(values: dict[str, Any], name: str) -> dict[str, Any]:
    """An object inside an object; the training record is free-form, so what is not there or not one is empty."""
    part = values.get(name)
    return part if isinstance(part, dict) else {}


def training_record(path: str | os.PathLike[str]) -> dict[str, Any]:
    """How the model of a file was trained, as far as the file says."""
    path = resolve_checkpoint(path)
    if path.suffix == SUFFIX:
        return load_checkpoint(path).training
    model: Any = load(path)
    return model.info.training
