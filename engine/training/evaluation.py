"""Evaluation of any model: the loss sums of all batches, from which its head computes its metrics."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from unrolled.engine.data.batches import Batches
from unrolled.engine.errors import ShapeError
from unrolled.engine.models.heads.head import Metrics
from unrolled.engine.models.heads.next_token import NextTokenHead, TokenMetrics
from unrolled.engine.models.inputs.batch import TOKENS, Batch
from unrolled.engine.models.layers.output_loss import LOGITS_BYTES, NO_SUMS, LossSums, softmax_cross_entropy
from unrolled.engine.models.spec import ModelSpec
from unrolled.engine.models.step_contract import HasState, Stepper, zero_state

Evaluator = Callable[[Batch, NDArray], tuple[LossSums, NDArray]]


def step_evaluator(model: Stepper) -> Evaluator:
    """Return an evaluator that computes the reference's loss from ``model.step``, ``LOGITS_BYTES`` of logits at a time."""

    def run(batch: Batch, state: NDArray) -> tuple[LossSums, NDArray]:
        tokens = batch.inputs[TOKENS]
        T, B = tokens.shape
        total = NO_SUMS
        length = max(1, LOGITS_BYTES // (4 * B * model.config.vocab_size))
        for first in range(0, T, length):
            steps = slice(first, first + length)
            logits, state = model.step(tokens[steps], state)
            total = total.plus(softmax_cross_entropy(logits, batch.targets[steps], batch.weights[steps], False)[0])
        return total, state

    return run


def loss_sums(evaluator: Evaluator, model: HasState, batches: Batches, dtype: np.dtype | type = np.float32) -> LossSums:
    """Return the sums over all of ``batches`` in order; the state is carried into batches that continue the previous one."""
    total: LossSums | None = None
    state: NDArray | None = None
    for batch in batches.epoch(None):
        if state is None or not batch.carry:
            state = zero_state(model, batch.batch_size, dtype)
        sums, state = evaluator(batch, state)
        total = sums if total is None else total.plus(sums)
    if total is None:
        raise ShapeError("batches: got none; needs at least one to evaluate")
    return total


def evaluate(evaluator: Evaluator, spec: ModelSpec, batches: Batches, dtype: np.dtype | type = np.float32) -> Metrics:
    """Return the metrics of all of ``batches``."""
    return spec.head.metrics_of(loss_sums(evaluator, spec, batches, dtype))


def evaluate_tokens(model: Stepper, batches: Batches) -> TokenMetrics:
    """Return the metrics of a language model, from its logits."""
    sums = loss_sums(step_evaluator(model), model.config, batches)
    return NextTokenHead(model.config.vocab_size).metrics_of(sums)


def count_unknown(batches: Batches, unk_id: int | None) -> int | None:
    """Return the number of targets that are <unk>, or None for a vocabulary without it."""
    if unk_id is None:
        return None
    return sum(int(((batch.targets == unk_id) & (batch.weights > 0)).sum()) for batch in batches.epoch(None))
