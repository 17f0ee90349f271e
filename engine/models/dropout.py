"""Dropout: its settings and its masks, which the training loop draws, so that all engines drop the same units.

Sources: N. Srivastava et al., "Dropout" (2014), in the form that needs no rescaling at inference; never on the recurrent
connections, as W. Zaremba et al., "Recurrent Neural Network Regularization" (2014); one mask for all time steps, Y. Gal and
Z. Ghahramani, "A Theoretically Grounded Application of Dropout in Recurrent Neural Networks" (2016).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, NamedTuple

import numpy as np
from numpy.typing import NDArray

from unrolled.engine.models.spec import ModelSpec
from unrolled.engine.settings import MODEL_PANEL, PROBABILITY, Effect, Setting, check_settings

PROBABILITY_STEPS = 1 << 16  # 16 random bits decide on a unit: a quarter of the time of a random float64


@dataclass(frozen=True)
class Dropout:
    """Dropout probabilities, each in [0, 1), in addition to the model's own between layers.

    Args:
        inputs: dropout of x, for a language model the embeddings.
        outputs: dropout of the core's outputs, which the head reads.
        variational: one mask for all time steps of a batch, also between layers, instead of one for each time step.

    Raises:
        ConfigError: a probability is out of range.
    """

    inputs: Annotated[
        float,
        Setting(
            "input_dropout",
            "Dropout of the embeddings.",
            MODEL_PANEL,
            PROBABILITY,
            search="0:0.5",
            name="input_dropout",
        ),
    ] = 0.0
    outputs: Annotated[
        float,
        Setting(
            "output_dropout",
            "Dropout of the output layer's input.",
            MODEL_PANEL,
            PROBABILITY,
            search="0:0.6",
            name="output_dropout",
        ),
    ] = 0.0
    variational: Annotated[
        bool,
        Setting(
            "variational",
            "Drop the same units at all steps of a chunk.",
            MODEL_PANEL,
            search="false,true",
            effect=Effect(("dropout", "input_dropout", "output_dropout")),
        ),
    ] = False

    def drops(self, spec: ModelSpec) -> bool:
        """Return whether any unit of the model is dropped in training."""
        return bool(spec.core.dropout or self.inputs or self.outputs)

    def __post_init__(self) -> None:
        check_settings(self)


class Masks(NamedTuple):
    """Factors of the values: 0, or the reciprocal of the share kept. T is 1 if one mask serves all time steps."""

    inputs: NDArray | None  # (T, B, E)
    between: Sequence[NDArray] | None  # (T, B, D·H) for each boundary between layers
    outputs: NDArray | None  # (T, B, D·H)


NO_DROPOUT = Dropout()
NO_MASKS = Masks(None, None, None)


def dropout_masks(
    spec: ModelSpec,
    T: int,
    B: int,
    rng: np.random.Generator,
    dtype: np.dtype | type = np.float32,
    dropout: Dropout = NO_DROPOUT,
) -> Masks | None:
    """Return the masks of one batch, or None if nothing is dropped."""
    if not dropout.drops(spec):
        return None
    T = 1 if dropout.variational else T
    core, E, width = spec.core, spec.input_size, spec.core.output_size
    boundaries = core.num_layers - 1 if core.dropout else 0
    between = [_mask(core.dropout, (T, B, width), rng, dtype) for _ in range(boundaries)]
    return Masks(
        _mask(dropout.inputs, (T, B, E), rng, dtype) if dropout.inputs else None,
        between or None,
        _mask(dropout.outputs, (T, B, width), rng, dtype) if dropout.outputs else None,
    )


def _mask(p: float, shape: tuple[int, int, int], rng: np.random.Generator, dtype: np.dtype | type) -> NDArray:
    """Return a mask of a shape that drops units with probability ``p``."""
    kept, size = max(1, round((1 - p) * PROBABILITY_STEPS)), int(np.prod(shape))
    words = rng.bit_generator.random_raw(-(-size // 4)).astype("<u8", copy=False)
    bits = words.view("<u2")[:size].reshape(shape)
    return np.multiply(bits < kept, np.asarray(PROBABILITY_STEPS / kept, dtype), dtype=dtype)
