"""The data of one training step: named inputs, targets and their weights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from unrolled.engine.models.layers.output_loss import weight_of

TOKENS = "tokens"  # the input of a language model


class Batch(NamedTuple):
    """The data of one training step.

    A time step from a row's length on is padding: it changes neither outputs, gradients, pooling nor the state that comes out.

    Args:
        inputs: one array for each input of the model, by name, for instance token ids (T, B) int64.
        targets: what the head predicts, (T, B) or (B,) for most heads; ignored where the weight is 0.
        weights: (T, B) or (B,), bool or float, at least 0: the loss is Σ wℓ / Σ w.
        lengths: (B,) int64, the valid time steps of each row, 1 to T; None: all T of every row.
        carry: whether each row continues the same row of the previous batch, so that the state is carried.
    """

    inputs: Mapping[str, NDArray]
    targets: NDArray
    weights: NDArray
    lengths: NDArray[np.int64] | None
    carry: bool

    @classmethod
    def of_tokens(
        cls, tokens: NDArray[np.int64], targets: NDArray[np.int64], weights: NDArray | None = None, carry: bool = False
    ) -> Self:
        """Return a batch of a language model.

        Args:
            tokens: (T, B) ids.
            targets: (T, B), the token that follows each of them.
            weights: (T, B), false after the end of a record; None: every position counts.
        """
        weights = np.ones(tokens.shape, np.bool_) if weights is None else weights
        return cls({TOKENS: tokens}, targets, weights, None, carry)

    @property
    def batch_size(self) -> int:
        """Return B."""
        return self.weights.shape[-1]

    @property
    def weight(self) -> float:
        """Return Σ w, by which the sum of the losses is divided; for boolean weights, the number of positions that count."""
        return weight_of(self.weights)
