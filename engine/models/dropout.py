"""Dropout: which units a training step leaves out. The masks are made once, by the loop, so that all engines agree."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from unrolled.engine.errors import ConfigError
from unrolled.engine.models.config import ModelConfig

STEPS = 1 << 16  # of a probability: 16 random bits decide on a unit, a quarter of the time that a float64 takes


@dataclass(frozen=True)
class Dropout:
    """Probabilities, each in [0, 1), besides the model's own between layers.

    Args:
        inputs: of the embeddings' numbers.
        outputs: of what the output layer reads.
        variational: one mask for all steps of a batch (Y. Gal and Z. Ghahramani, "A Theoretically Grounded Application
            of Dropout in Recurrent Neural Networks", 2016), there and between layers, instead of one a step.
    """

    inputs: float = 0.0
    outputs: float = 0.0
    variational: bool = False

    def drops(self, config: ModelConfig) -> bool:
        """Whether anything of the model is left out."""
        return bool(config.dropout or self.inputs or self.outputs)

    def __post_init__(self) -> None:
        for name, value in (("input_dropout", self.inputs), ("output_dropout", self.outputs)):
            if not 0 <= value < 1:
                raise ConfigError(f"{name}: got {value}, needs a number from 0 up to, not including, 1")


class Masks(NamedTuple):
    """What values are multiplied by: 0, or 1 over the share that is kept. T is 1 where a mask serves all steps."""

    inputs: NDArray | None  # (T, B, E)
    between: Sequence[NDArray] | None  # (T, B, H) a boundary between layers
    outputs: NDArray | None  # (T, B, H)


NO_DROPOUT = Dropout()


def dropout_masks(
    config: ModelConfig,
    T: int,
    B: int,
    rng: np.random.Generator,
    dtype: np.dtype | type = np.float32,
    dropout: Dropout = NO_DROPOUT,
) -> Masks | None:
    """The masks of one batch; None where nothing is dropped.

    Source: N. Srivastava et al., "Dropout" (2014), in the form that needs no rescaling later; never on the recurrent
    connections, as W. Zaremba et al., "Recurrent Neural Network Regularization" (2014).
    """
    if not dropout.drops(config):
        return None
    T = 1 if dropout.variational else T
    E, H = config.embedding_size, config.hidden_size
    boundaries = config.num_layers - 1 if config.dropout else 0
    between = [_mask(config.dropout, (T, B, H), rng, dtype) for _ in range(boundaries)]
    return Masks(
        _mask(dropout.inputs, (T, B, E), rng, dtype) if dropout.inputs else None,
        between or None,
        _mask(dropout.outputs, (T, B, H), rng, dtype) if dropout.outputs else None,
    )


def _mask(p: float, shape: tuple[int, int, int], rng: np.random.Generator, dtype: np.dtype | type) -> NDArray:
    kept, size = max(1, round((1 - p) * STEPS)), int(np.prod(shape))
    words = rng.bit_generator.random_raw(-(-size // 4)).astype("<u8", copy=False)
    bits = words.view("<u2")[:size].reshape(shape)
    return np.multiply(bits < kept, np.asarray(STEPS / kept, dtype), dtype=dtype)
