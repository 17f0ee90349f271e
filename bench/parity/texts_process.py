"""Measure one engine on one model, in a process of its own: ``python -m unrolled.bench.parity.texts_process < job > result``.

Thread pools of NumPy, Numba, torch and onnxruntime disturb each other in one process, so every contestant gets its own.
"""

from __future__ import annotations

import json
import sys
import time
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unrolled.engine.models.step_contract import StepModel, zero_state
from unrolled.runtime import generate, load
from unrolled.runtime.generation.requests.config import GenerationConfig

STREAMS = 64  # rows in the batch whose speed is measured


@dataclass(frozen=True)
class Job:
    """What a worker is to do; JSON on its standard input."""

    model: str  # path
    engine: str | None  # of a checkpoint; None for an exported file
    prompts: list[str]
    tokens: int  # written behind each prompt
    number: int  # texts sampled behind each prompt
    seed: int
    logits_on: list[list[int]]  # (B, T): tokens on which to compute logits; empty: the model's own greedy ones
    output: str  # .npz for the arrays


def _texts(model: StepModel, job: Job, **settings: Any) -> NDArray[np.int64]:
    """Tokens (rows, N) behind every prompt; a row that ended early is filled with -1."""
    rows = generate(model, job.prompts, GenerationConfig(max_new_tokens=job.tokens, seed=job.seed, **settings))
    out = np.full((len(rows), job.tokens), -1, np.int64)
    for row, generation in zip(out, rows, strict=True):
        row[: len(generation.tokens)] = generation.tokens
    return out


def _teacher_forced(model: StepModel, tokens: NDArray[np.int64]) -> NDArray:
    """Logits (T, B, V) on the given tokens (B, T)."""
    logits, _ = model.step(np.ascontiguousarray(tokens.T), zero_state(model.config, len(tokens)))
    return logits


def _speed(model: StepModel, rows: int, tokens: int, repeats: int = 3) -> float:
    """Median tokens/s of sampled ``generate`` with ``rows`` texts at once; one that ends at <eos> leaves the batch."""
    prompt = model.tokenizer.start_prompt()
    config = GenerationConfig(max_new_tokens=tokens, num_return_sequences=rows, batch_size=rows)
    rates = []
    for _ in range(repeats):
        started = time.perf_counter()
        written = sum(len(text.tokens) for text in generate(model, [prompt], config))
        rates.append(written / (time.perf_counter() - started))
    return float(np.median(rates))


def run(job: Job) -> dict[str, Any]:
    """Open the model, write greedy and sampled texts, compute logits, measure; arrays go to ``job.output``."""
    started = time.perf_counter()
    model = load(job.model, job.engine)
    generate(model, job.prompts[:1], max_new_tokens=1)
    first_call = time.perf_counter() - started
    greedy = _texts(model, job, do_sample=False)
    on = np.array(job.logits_on, np.int64) if job.logits_on else np.maximum(greedy, 0)
    sampled = _texts(model, job, num_return_sequences=job.number)
    arrays: dict[str, Any] = {"greedy": greedy, "sampled": sampled, "on": on}
    if getattr(model, "form", "step") != "generate":  # whose files show no logits
        arrays["logits"] = _teacher_forced(model, on)
    np.savez(job.output, **arrays)
    return {
        "engine": model.engine,
        "digest": model.digest,
        "first_call_s": first_call,
        "tokens_per_s_1": _speed(model, 1, 200),
        f"tokens_per_s_{STREAMS}": _speed(model, STREAMS, 50),
    }


def main() -> None:
    """Read a job, run it, print the result; an expected error is printed as ``{"error": …}``."""
    job = Job(**json.load(sys.stdin))
    try:
        result = run(job)
    except (ValueError, ImportError) as error:
        result = {"error": str(error)}
    print(json.dumps(result))


if __name__ == "__main__":
    main()
