"""What a smaller export costs: its size, perplexity and speed beside those of the file with the weights as they are."""

from __future__ import annotations

import statistics
import time
from pathlib import Path
from typing import Any

from unrolled.engine.checkpoint import Checkpoint
from unrolled.engine.contract import StepModel
from unrolled.engine.corpus import Corpus
from unrolled.engine.evaluation import evaluate, step_evaluator
from unrolled.engine.rescore import batches_to_score
from unrolled.export.onnx_graph import build
from unrolled.export.storage import FLOAT32, Weights
from unrolled.runtime.generate import generate
from unrolled.runtime.onnx_model import open_checkpoint, open_onnx

TOKENS, ROUNDS = 200, 5


def measure(checkpoint: Checkpoint, path: Path, form: str, weights: Weights, text: Corpus) -> dict[str, Any]:
    """Bytes, perplexity of ``text`` and tokens/s of one stream, "before" and "after", of an ONNX file in memory and ``path``.

    Speeds are medians of rounds that take turns. Logits come from the step form, whatever the form of the file.
    """
    sizes = {"before": build(checkpoint, form).ByteSize(), "after": path.stat().st_size}
    models = {"before": open_checkpoint(checkpoint, form), "after": open_onnx(path)}
    rates: dict[str, list[float]] = {when: [] for when in models}
    for model in models.values():
        _rate(model)
    for _ in range(ROUNDS):
        for when, model in models.items():
            rates[when].append(_rate(model))
    return {
        when: {
            "bytes": sizes[when],
            "perplexity": _perplexity(checkpoint, FLOAT32 if when == "before" else weights, text),
            "tokens_per_s": statistics.median(rates[when]),
        }
        for when in models
    }


def _perplexity(checkpoint: Checkpoint, weights: Weights, text: Corpus) -> float:
    model = open_checkpoint(checkpoint, "step", weights)
    batches = batches_to_score(text, model.tokenizer, model.training)
    return evaluate(step_evaluator(model), model.config, batches).perplexity


def _rate(model: StepModel) -> float:
    started = time.perf_counter()
    generation = generate(model, [model.tokenizer.start_prompt()], max_new_tokens=TOKENS)[0]
    return len(generation.tokens) / (time.perf_counter() - started)
