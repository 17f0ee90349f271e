"""The same prompts and seeds, written by every engine and file: the same tokens, or a difference that rounding explains."""

from __future__ import annotations

from pathlib import Path

import models
import numpy as np
import pytest
from numpy.typing import NDArray

from unrolled.engine.checkpoint import Checkpoint
from unrolled.engine.contract import StepModel, zero_state
from unrolled.engine.text import CharTokenizer, WordTokenizer
from unrolled.export.formats import SINGLE_FILES as FORMATS
from unrolled.export.formats import export_model
from unrolled.runtime import generate, load
from unrolled.runtime.adapters import make_model
from unrolled.runtime.config import GenerationConfig
from unrolled.runtime.philox import uniforms
from unrolled.runtime.rows import Generation

TOKENS, PROMPTS = 500, 8
BORDER = 1e-6  # a draw may differ where the uniform is this near to a border of the distribution
RUNNERS = ("numba", "torch", "onnx", "onnx generate", "onnx both", "torchscript")
SETTINGS = {"plain": {}, "filtered": {"temperature": 0.8, "top_k": 30, "top_p": 0.9}}


def make_checkpoint(cell: str, level: str) -> Checkpoint:
    """Random, 2 × 64; larger weights than usual, so that probabilities differ."""
    V = 90 if level == "char" else 700
    config = models.config(cell, 2, vocab_size=V, embedding_size=32, hidden_size=64)
    words = [chr(0x4E00 + i) if level == "char" else f"w{i}" for i in range(V)]
    tokenizer = CharTokenizer(words) if level == "char" else WordTokenizer(words, "skip")
    return Checkpoint(config, models.params(config, np.float32), tokenizer, {})


def prompts_of(checkpoint: Checkpoint) -> list[str]:
    rng = np.random.default_rng(5)
    lengths = [1, 2, 3, 5, 8, 13, 21, 34][:PROMPTS]
    return [checkpoint.tokenizer.decode(rng.integers(0, checkpoint.config.vocab_size, n).tolist()) for n in lengths]


def open_runner(runner: str, checkpoint: Checkpoint, folder: Path) -> StepModel:
    name, _, form = runner.partition(" ")
    if name in ("torch", "torchscript"):
        pytest.importorskip("torch", reason="the torch extra is not installed")
    if name not in FORMATS:
        return make_model(checkpoint, name)
    return load(export_model(checkpoint, folder / f"model{FORMATS[name].suffix}", name, form or None))


def border_distance(
    reference: StepModel, row: Generation, place: int, tokens: tuple[int, int], config: GenerationConfig
) -> float:
    """How far the uniform of draw ``place`` is from the border between two tokens, in the reference's distribution.

    The two are neighbours among those left; where a filter decided, infinite: that is no explanation.
    """
    from unrolled.runtime.filters import FILTERS

    ids = np.concatenate([reference.tokenizer.encode(row.prompt), row.tokens[:place]]).astype(np.int64)
    logits, _ = reference.step(ids[:, None], zero_state(reference.config, 1))
    scores: NDArray = logits[-1].astype(np.float64)
    for keep in FILTERS.values():
        scores = keep(scores, config)
    weights = np.exp(scores - scores.max())[0]
    cdf = np.cumsum(weights) / weights.sum()
    low, high = sorted(tokens)
    if weights[low] == 0 or weights[high] == 0 or weights[low + 1 : high].any():
        return np.inf
    return float(abs(cdf[low] - uniforms(config.seed, np.array([row.index]), place)[0]))


def unexplained(
    reference: StepModel, got: list[Generation], expected: list[Generation], config: GenerationConfig
) -> list:
    """Rows that differ, but for those whose first difference lies on a border."""
    bad = []
    for one, other in zip(got, expected, strict=True):
        if one.tokens != other.tokens:
            place = next(i for i, pair in enumerate(zip(one.tokens, other.tokens, strict=True)) if pair[0] != pair[1])
            pair = one.tokens[place], other.tokens[place]
            if border_distance(reference, other, place, pair, config) > BORDER:
                bad.append((one.index, place))
    return bad


@pytest.mark.slow
@pytest.mark.parametrize("level", ["char", "word"])
@pytest.mark.parametrize("cell", ["lstm", "gru", "rnn"])
@pytest.mark.parametrize("runner", RUNNERS)
def test_every_runner_writes_the_same_text(tmp_path: Path, runner: str, cell: str, level: str) -> None:
    checkpoint = make_checkpoint(cell, level)
    model, reference = open_runner(runner, checkpoint, tmp_path), make_model(checkpoint, "numpy")
    prompts = prompts_of(checkpoint)
    greedy = GenerationConfig(do_sample=False, max_new_tokens=TOKENS)
    expected = generate(reference, prompts, greedy)
    assert [row.tokens for row in generate(model, prompts, greedy)] == [row.tokens for row in expected]
    assert [len(row.tokens) for row in expected] == [TOKENS] * PROMPTS
    for settings in SETTINGS.values():
        config = GenerationConfig(seed=11, max_new_tokens=TOKENS, **settings)
        drawn = generate(reference, prompts, config)
        assert unexplained(reference, generate(model, prompts, config), drawn, config) == []


def test_alarm_another_token_is_not_explained() -> None:
    checkpoint = make_checkpoint("gru", "char")
    reference = make_model(checkpoint, "numpy")
    config = GenerationConfig(seed=1, max_new_tokens=12)
    rows = generate(reference, prompts_of(checkpoint)[:2], config)
    changed = list(rows[1].tokens)
    changed[7] = (changed[7] + 1) % checkpoint.config.vocab_size
    other = Generation(rows[1].prompt, rows[1].text, tuple(changed), rows[1].finish_reason, rows[1].index)
    assert unexplained(reference, [rows[0], other], rows, config) == [(1, 7)]
    assert unexplained(reference, rows, rows, config) == []
