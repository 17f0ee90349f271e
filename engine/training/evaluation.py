"""Loss, perplexity, bits per token and next-token accuracy of any model with the step contract."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unrolled.engine.data.batches import Batch, Batches
from unrolled.engine.errors import ConfigError
from unrolled.engine.models.language_model_config import LanguageModelConfig
from unrolled.engine.models.layers.output_loss import LOGITS_BYTES, LossResult, softmax_cross_entropy
from unrolled.engine.models.step_contract import Stepper, zero_state

Evaluator = Callable[[Batch, NDArray], tuple[LossResult, NDArray]]


@dataclass(frozen=True)
class Metrics:
    """Means over ``tokens`` predictions."""

    loss: float  # nats a token
    accuracy: float  # share of targets that were the most probable token
    tokens: int

    @property
    def perplexity(self) -> float:
        """Return e^loss; infinity where it overflows."""
        return math.exp(self.loss) if self.loss < 700 else math.inf

    @property
    def bits_per_token(self) -> float:
        """Return the loss in bits."""
        return self.loss / math.log(2)

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON form."""
        return {**asdict(self), "perplexity": self.perplexity, "bits_per_token": self.bits_per_token}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Metrics:
        """Return the metrics that ``to_dict`` wrote.

        Raises:
            ConfigError: a value is missing or not a number.
        """
        try:
            return cls(float(values["loss"]), float(values["accuracy"]), int(values["tokens"]))
        except (KeyError, TypeError, ValueError) as error:
            raise ConfigError(f"metrics: got {values!r}, needs loss, accuracy and tokens") from error


def step_evaluator(model: Stepper) -> Evaluator:
    """Return an evaluator that computes the reference's loss from ``model.step``, ``LOGITS_BYTES`` of logits at a time."""

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
    evaluator: Evaluator, config: LanguageModelConfig, batches: Batches, dtype: np.dtype | type = np.float32
) -> Metrics:
    """Evaluate all of ``batches`` in order, and carry the state into batches that continue the previous one."""
    loss, correct, count = 0.0, 0, 0
    state: NDArray | None = None
    for batch in batches.epoch(None):
        if state is None or not batch.carry:
            state = zero_state(config, batch.inputs.shape[1], dtype)
        result, state = evaluator(batch, state)
        loss, correct, count = loss + result.loss, correct + result.correct, count + result.tokens
    return Metrics(loss / count, correct / count, count)


def count_unknown(batches: Batches, unk_id: int | None) -> int | None:
    """Return the number of targets that are <unk>, or None for a vocabulary without it."""
    if unk_id is None:
        return None
    return sum(int(((batch.targets == unk_id) & batch.mask).sum()) for batch in batches.epoch(None))
