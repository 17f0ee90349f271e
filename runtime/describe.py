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
    result = training.get("result", {})
    best = result.get("best") or {}
    return {
        "file": str(path),
        "kind": kind,
        "bytes": Path(path).stat().st_size,
        "parameters": parameter_count(config),
        "val_loss": best.get("loss"),
        "val_perplexity": best.get("perplexity"),
        "model": config.to_dict(),
        "tokenizer": {
            "level": tokenizer.level,
            "tokens": len(tokenizer.vocabulary),
            "unknown": tokenizer.unknown,
            "first": " ".join(repr(token)[1:-1] for token in tokenizer.vocabulary[:12]),
        },
        "trained": {
            "corpus": training.get("corpus", {}).get("name"),
            "engine": result.get("engine"),
            "steps": result.get("steps"),
            "epochs": result.get("epochs"),
            "tokens": result.get("tokens"),
            "seconds": result.get("seconds"),
            "tokens_per_s": result.get("tokens_per_s"),
            "optimizer": training.get("optimizer", {}).get("name"),
            "seed": training.get("training", {}).get("seed"),
        },
    }
