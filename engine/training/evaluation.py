"""Loss, perplexity, bits per token and next-token accuracy of any model that keeps the step contract."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unrolled.engine.data.batches import Batch, Batches
from unrolled.engine.errors import ConfigError
from unrolled.engine.models.config import ModelConfig
from unrolled.engine.models.layers.output_loss import LOGITS_BYTES, LossResult, softmax_cross_entropy
from unrolled.engine.models.step_contract import Stepper, zero_state

Evaluator = Callable[[Batch, NDArray], tuple[LossResult, NDArray]]


@dataclass(frozen=True)
class Metrics:
    """Means over ``tokens`` predictions."""

    loss: float  # nats a token
    accuracy: float  # share of tokens that were the most probable one
    tokens: int

    @property
    def perplexity(self) -> float:
        return math.exp(self.loss) if self.loss < 700 else math.inf

    @property
    def bits_per_token(self) -> float:
        return self.loss / math.log(2)

    def to_dict(self) -> dict[str, Any]:
        return {**asdict(self), "perplexity": self.perplexity, "bits_per_token": self.bits_per_token}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Metrics:
        """The inverse of ``to_dict``; ConfigError where a value is missing or no number."""
        try:
            return cls(float(values["loss"]), float(values["accuracy"]), int(values["tokens"]))
        except (KeyError, TypeError, ValueError) as error:
            raise ConfigError(f"metrics: got {values!r}, needs loss, accuracy and tokens") from error


def step_evaluator(model: Stepper) -> Evaluator:
    """Loss of a batch through ``model.step`` and the reference's cross-entropy, ``LOGITS_BYTES`` of logits at a time."""

    def run(batch: Batch, state: NDArray) -> tuple[LossResult, NDArray]:
        T, B = batch.inputs.shape
        total = LossResult(0.0, 0, 0)
        length = max(1, LOGITS_BYTES // (4 * B * model.config.vocab_size))
        for first in range(0, T, length):
            steps = slice(first, first + length)
            logits, state = model.step(batch.inputs[steps], state)
            total = total.plus(softmax_cross_entropy(logits, batch.targets[steps], batch.mask[steps], False)[0])
        return total, state

    return run


def evaluate(
    evaluator: Evaluator, config: ModelConfig, batches: Batches, dtype: np.dtype | type = np.float32
) -> Metrics:
    """Score all of ``batches`` in order, the state carried where a batch continues the one before."""
    loss, correct, count = 0.0, 0, 0
    state: NDArray | None = None
    for batch in batches.epoch(None):
        if state is None or not batch.carry:
            state = zero_state(config, batch.inputs.shape[1], dtype)
        result, state = evaluator(batch, state)
        loss, correct, count = loss + result.loss, correct + result.correct, count + result.tokens
    return Metrics(loss / count, correct / count, count)


def count_unknown(batches: Batches, unk_id: int | None) -> int | None:
    """How many of the tokens to predict are <unk>; None for a vocabulary without it."""
    if unk_id is None:
        return None
    return sum(int(((batch.targets == unk_id) & batch.mask).sum()) for batch in batches.epoch(None))
