"""Size, perplexity and speed of an export, compared with those of ONNX with the weights as they are."""

from __future__ import annotations

import statistics
import time
from pathlib import Path
from typing import Any

from unrolled.engine.data.corpus import Corpus
from unrolled.engine.data.evaluation_batches import batches_to_score
from unrolled.engine.models.step_contract import StepModel
from unrolled.engine.storage.checkpoint import Checkpoint
from unrolled.engine.training.evaluation import evaluate_tokens
from unrolled.export.artifact.weight_storage import FLOAT32_STORAGE, WeightStorage
from unrolled.export.formats import FORMATS
from unrolled.export.onnx.writer import build
from unrolled.runtime.generation.generate import generate
from unrolled.runtime.models.load import load_language_model
from unrolled.runtime.models.onnx_model import open_checkpoint

TIMED_TOKENS, TIMED_ROUNDS = 200, 5


def measure(checkpoint: Checkpoint, path: Path, form: str, weights: WeightStorage, text: Corpus) -> dict[str, Any]:
    """Return bytes, perplexity and tokens/s of one stream of an ONNX file in memory ("before") and of ``path`` ("after").

    The file in memory has the same form, or form step for a file of another format. Speeds are medians of rounds in turn.
    Logits are the file's own; a file of form generate has none, and they come from the same weights in form step.

    Args:
        checkpoint: the model.
        path: an exported file of any format.
        form: of that file.
        weights: storage of the weights in that file.
        text: corpus on which the perplexity is computed.
    """
    before_form = form if path.suffix == FORMATS["onnx"].suffix else "step"
    sizes = {"before": build(checkpoint, before_form).ByteSize(), "after": path.stat().st_size}
    models = {"before": open_checkpoint(checkpoint, before_form), "after": load_language_model(path)}
    rates: dict[str, list[float]] = {when: [] for when in models}
    for model in models.values():
        _rate(model)
    for _ in range(TIMED_ROUNDS):
        for when, model in models.items():
            rates[when].append(_rate(model))
    if form == "generate":
        models = {
            when: open_checkpoint(checkpoint, "step", held)
            for when, held in (("before", FLOAT32_STORAGE), ("after", weights))
        }
    return {
        when: {
            "bytes": sizes[when],
            "perplexity": _perplexity(model, text),
            "tokens_per_s": statistics.median(rates[when]),
        }
        for when, model in models.items()
    }


def _perplexity(model: StepModel, text: Corpus) -> float:
    batches = batches_to_score(text, model.tokenizer, model.training)
    return evaluate_tokens(model, batches).perplexity


def _rate(model: StepModel) -> float:
    started = time.perf_counter()
    generation = generate(model, [model.tokenizer.start_prompt()], max_new_tokens=TIMED_TOKENS)[0]
    return len(generation.tokens) / (time.perf_counter() - started)
