"""Texts, logits and speed of one engine on one model, in a worker process: ``python -m unrolled.bench.parity.texts_process``.

Thread pools of NumPy, Numba, torch and onnxruntime disturb each other in one process, so every implementation gets its own.
"""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unrolled.engine.models.step_contract import StepModel, zero_state
from unrolled.engine.processes.messages import Message, pack_arrays, unpack_arrays
from unrolled.engine.processes.serving import serve
from unrolled.engine.processes.worker import WorkerDiedError, WorkerFailedError, WorkerProcess, python_module
from unrolled.runtime import generate, load_language_model
from unrolled.runtime.generation.requests.config import GenerationConfig

STREAMS = 64  # rows in the batch whose speed is measured


@dataclass(frozen=True)
class TextsJob:
    """Texts that a worker process generates."""

    model: str  # path
    engine: str | None  # of a checkpoint; None for an exported file
    prompts: list[str]
    tokens: int  # generated after each prompt
    number: int  # texts sampled after each prompt
    seed: int


def _texts(model: StepModel, job: TextsJob, **settings: Any) -> NDArray[np.int64]:
    """Return tokens (rows, N) after every prompt; a row that ended early is filled with -1."""
    rows = generate(model, job.prompts, GenerationConfig(max_new_tokens=job.tokens, seed=job.seed, **settings))
    out = np.full((len(rows), job.tokens), -1, np.int64)
    for row, generation in zip(out, rows, strict=True):
        row[: len(generation.tokens)] = generation.tokens
    return out


def _teacher_forced(model: StepModel, tokens: NDArray[np.int64]) -> NDArray:
    """Return logits (T, B, V) on the given tokens (B, T)."""
    logits, _ = model.step(np.ascontiguousarray(tokens.T), zero_state(model.config, len(tokens)))
    return logits


def _speed(model: StepModel, rows: int, tokens: int, repeats: int = 3) -> float:
    """Return median tokens/s of sampled ``generate`` with ``rows`` texts at once; one that ends at <eos> leaves the batch."""
    prompt = model.tokenizer.start_prompt()
    config = GenerationConfig(max_new_tokens=tokens, num_return_sequences=rows, batch_size=rows)
    rates = []
    for _ in range(repeats):
        started = time.perf_counter()
        written = sum(len(text.tokens) for text in generate(model, [prompt], config))
        rates.append(written / (time.perf_counter() - started))
    return float(np.median(rates))


def write_texts(job: TextsJob, on: NDArray[np.int64] | None) -> tuple[dict[str, Any], dict[str, NDArray]]:
    """Have a worker process do a job; return its figures and arrays, or ``error`` and no arrays.

    Args:
        job: of one engine or file.
        on: (B, T), tokens on which to compute logits; None: the model's own greedy ones.
    """
    message = {"job": asdict(job), "arrays": pack_arrays({} if on is None else {"on": on})}
    with WorkerProcess(python_module("unrolled.bench.parity.texts_process")) as worker:
        try:
            answer = worker.ask(message)
        except WorkerFailedError as error:
            return {"error": error.last_line}, {}
        except WorkerDiedError as error:
            return {"error": error.last_line or f"exit code {error.code}"}, {}
    return answer["figures"], unpack_arrays(answer["arrays"])


def _run(job: TextsJob, on: NDArray[np.int64] | None) -> dict[str, Any]:
    """Open the model, generate greedy and sampled texts, compute logits and measure; return figures and arrays."""
    started = time.perf_counter()
    model = load_language_model(job.model, job.engine)
    generate(model, job.prompts[:1], max_new_tokens=1)
    first_call = time.perf_counter() - started
    greedy = _texts(model, job, do_sample=False)
    on = np.maximum(greedy, 0) if on is None else on
    sampled = _texts(model, job, num_return_sequences=job.number)
    arrays: dict[str, Any] = {"greedy": greedy, "sampled": sampled, "on": on}
    if "step" in model.capabilities:
        arrays["logits"] = _teacher_forced(model, on)
    figures = {
        "engine": model.engine,
        "digest": model.digest,
        "first_call_s": first_call,
        "tokens_per_s_1": _speed(model, 1, 200),
        f"tokens_per_s_{STREAMS}": _speed(model, STREAMS, 50),
    }
    return {"figures": figures, "arrays": pack_arrays(arrays)}


def _answer(message: Message) -> dict[str, Any]:
    """Return the figures and arrays of a job; an expected error is a figure, too."""
    try:
        return _run(TextsJob(**message["job"]), unpack_arrays(message["arrays"]).get("on"))
    except (ValueError, ImportError) as error:
        return {"figures": {"error": str(error)}, "arrays": {}}


if __name__ == "__main__":
    serve(_answer)
