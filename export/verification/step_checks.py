"""Checks of a model's steps: shapes, chunks, golden cases, and agreement with a checkpoint.

Letters: T time, B batch.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from unrolled.engine.models.language_model_config import LanguageModelConfig
from unrolled.engine.models.spec import ModelSpec
from unrolled.engine.models.step_contract import StepModel, Stepper, zero_state
from unrolled.engine.network.language_model import LanguageModel
from unrolled.engine.storage.checkpoint import Checkpoint
from unrolled.export.artifact.golden_cases import (
    GREEDY_MARGIN,
    DrawFunction,
    draw_by_rules,
    greedy_tokens,
    recorded_draws,
    sampled_tokens,
    settings_text,
)
from unrolled.export.artifact.weight_storage import WeightStorage
from unrolled.export.verification.checks import CheckFailed, close, described, need, random_tokens

GREEDY_TOKENS = 200
SHAPES = ((1, 1), (1, 3), (7, 1), (13, 5))  # (T, B) that were never traced


def check_shapes(model: StepModel) -> str:
    """Check the shapes of logits and state at several sizes."""
    config = model.config
    for T, B in SHAPES:
        tokens, state = random_tokens(config, T, B)
        logits, after = model.step(tokens, state)
        wanted = (T, B, config.vocab_size)
        need(logits.shape == wanted, f"logits at (T, B) = ({T}, {B}): {logits.shape}, needs {wanted}")
        need(
            after.shape == state.shape,
            f"next_state at (T, B) = ({T}, {B}): {after.shape}, needs {state.shape}",
        )
    return f"{len(SHAPES)} sizes of (T, B)"


def check_chunks(model: StepModel, storage: WeightStorage) -> str:
    """Check that a sequence equals its chunks, which fails if a state is dropped or mixed up between rows."""
    tokens, state = random_tokens(model.config, 9, 3)
    whole, end = model.step(tokens, state)
    first, middle = model.step(np.ascontiguousarray(tokens[:4]), state)
    second, after = model.step(np.ascontiguousarray(tokens[4:]), middle)
    for s, layer in np.ndindex(state.shape[:2]):
        other = state.copy()
        other[s, layer] = 0
        moved, _ = model.step(tokens, other)
        need(bool((moved != whole).any()), f"the state that goes in makes no difference (state {s} of layer {layer})")
    if storage.quantized:  # rounding depends on all numbers of a call, so chunks differ from the whole
        return "the state makes a difference"
    worst = close(np.concatenate([first, second]), whole, "a sequence in two chunks")
    close(after, end, "the state after two chunks")
    return f"a sequence is its chunks, within {worst:.1e}"


def check_golden_values(model: StepModel, golden: list[dict[str, Any]], tolerance: float) -> str:
    """Check logits and log-sum-exp of the golden cases."""
    need(bool(golden), "the file has no golden cases")
    worst = 0.0
    for number, case in enumerate(golden):
        logits, _ = model.step(np.array(case["prompt"], np.int64)[:, None], zero_state(model.config, 1))
        last = logits[-1, 0].astype(np.float64)
        total = last.max() + np.log(np.exp(last - last.max()).sum())
        got = np.append(last[case["logit_indices"]], total)
        expected = np.append(np.array(case["logits"], np.float64), case["logsumexp"])
        worst = max(worst, close(got, expected, f"golden case {number + 1}", tolerance))
    return f"{len(golden)} golden cases, within {worst:.1e}"


def check_golden_tokens(model: Stepper, golden: list[dict[str, Any]], draw: DrawFunction = draw_by_rules) -> str:
    """Check the recorded greedy and drawn tokens."""
    greedy, drawn = 0, 0
    for number, case in enumerate(golden):
        got = greedy_tokens(model, case["prompt"], len(case["greedy"]))
        need(got == case["greedy"], f"golden case {number + 1}: other greedy tokens than recorded")
        greedy += len(got)
        for settings, tokens in recorded_draws(case):
            got = sampled_tokens(model, case["prompt"], len(tokens), settings, draw=draw)
            need(got == tokens, f"golden case {number + 1}: other draws than recorded at {settings_text(settings)}")
            drawn += len(got)
    return f"{greedy} recorded greedy tokens, {drawn} drawn ones"


def check_same_sizes(config: LanguageModelConfig, spec: ModelSpec) -> str:
    """Check that file and checkpoint have the same sizes."""
    other = LanguageModelConfig.from_spec(spec)
    if other is None:
        raise CheckFailed(f"the file is a {_size(config)}, the checkpoint a {described(spec)}")
    need(
        config.state_shape(1) == other.state_shape(1) and config.vocab_size == other.vocab_size,
        f"the file is a {_size(config)}, the checkpoint a {_size(other)}",
    )
    return _size(config)


def _size(config: LanguageModelConfig) -> str:
    return f"{config.cell} {config.num_layers} × {config.hidden_size} with {config.vocab_size} tokens"


def check_against_values(model: StepModel, checkpoint: Checkpoint) -> str:
    """Check logits and states against the checkpoint, run by the reference engine."""
    reference = _reference(checkpoint)
    worst = 0.0
    for T, B in SHAPES:
        tokens, state = random_tokens(model.config, T, B)
        expected, expected_state = reference.step(tokens, state)
        logits, after = model.step(tokens, state)
        worst = max(worst, close(logits, expected, f"logits at (T, B) = ({T}, {B})"))
        close(after, expected_state, f"next_state at (T, B) = ({T}, {B})")
    return f"logits and states of the checkpoint, within {worst:.1e}"


def check_against_tokens(model: StepModel, checkpoint: Checkpoint) -> str:
    """Check greedy tokens against the checkpoint, as far as they lead by a margin."""
    expected = greedy_tokens(_reference(checkpoint), [0], GREEDY_TOKENS, GREEDY_MARGIN)
    got = greedy_tokens(model, [0], len(expected))
    need(got == expected, "other greedy tokens than the checkpoint's")
    return f"{len(expected)} greedy tokens of the checkpoint"


def _reference(checkpoint: Checkpoint) -> LanguageModel:
    return LanguageModel(checkpoint.config, checkpoint.float32())
