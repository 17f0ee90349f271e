"""First divergences of texts from the same draws, and how near each draw was to a border between two tokens.

Engines add in different orders, so their probabilities differ in the last bits. A uniform between two versions of one border
gives two different tokens; any other divergence is a fault.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unrolled.engine.models.step_contract import StepModel
from unrolled.engine.sampling.config import SamplingConfig
from unrolled.engine.sampling.filters import FILTERS
from unrolled.engine.sampling.philox import uniforms
from unrolled.runtime.generation.requests.prompts import read_prompts
from unrolled.runtime.models.batch_invariance import RowModel

BORDER = 4e-6  # the largest margin that rounding explains: borders of 12,800 distributions moved by up to 1.6e-6
ROWS_AT_ONCE = 256  # of a batch that reads them again


@dataclass(frozen=True)
class Divergence:
    """First token in which a text differs from the reference's."""

    index: int  # of the text, on which its uniforms depend
    step: int
    expected: int
    got: int  # -1: the text had ended
    margin: float | None  # between the uniform and the farther border of the two tokens; None: a filter removed one

    @property
    def explained(self) -> bool:
        """Return whether rounding explains the divergence."""
        return self.margin is not None and self.margin <= BORDER

    def to_dict(self) -> dict[str, Any]:
        """Return JSON values."""
        return {**asdict(self), "explained": self.explained}


def first_divergences(
    reference: StepModel,
    prompts: Sequence[NDArray[np.int64]],
    indices: NDArray[np.int64],
    expected: NDArray[np.int64],
    got: NDArray[np.int64],
    config: SamplingConfig,
) -> list[Divergence]:
    """Return the first divergence of each row that differs.

    Args:
        reference: the model that generated ``expected``; margins are those of its distributions.
        prompts: ids of each row's prompt.
        indices: (R,), of the rows.
        expected: (R, N), -1 after the end of a text.
        got: (R, N), tokens of the same draws from another engine.
        config: sampling rules of both.
    """
    different = expected != got
    rows = np.flatnonzero(different.any(axis=1))
    found: list[Divergence] = []
    for first in range(0, len(rows), ROWS_AT_ONCE):
        part = rows[first : first + ROWS_AT_ONCE]
        steps = different[part].argmax(axis=1)
        read = [np.concatenate([prompts[row], expected[row, :step]]) for row, step in zip(part, steps, strict=True)]
        pairs = np.stack([expected[part, steps], got[part, steps]], axis=1)
        logits, _ = read_prompts(RowModel(reference), read)
        margins = border_margins(logits, pairs, uniforms(config.seed, indices[part], steps), config)
        found += [
            Divergence(int(indices[row]), int(step), int(pair[0]), int(pair[1]), margin)
            for row, step, pair, margin in zip(part, steps, pairs, margins, strict=True)
        ]
    return found


def border_margins(
    logits: NDArray, pairs: NDArray[np.int64], u: NDArray[np.float64], config: SamplingConfig
) -> list[float | None]:
    """Return how far each uniform ``u`` (B,) is from the end of one token of ``pairs`` (B, 2) and the start of the other.

    The farther of the two borders counts; they are the same unless tokens of hardly any probability lie between them. None
    where one of the tokens cannot be drawn from the distributions of ``logits`` (B, V).
    """
    scores = logits.astype(np.float64)
    for keep in FILTERS.values():
        scores = keep(scores, config)
    weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
    cdf = np.cumsum(weights, axis=-1)
    cdf /= cdf[:, -1:]
    margins: list[float | None] = []
    for row, (low, high) in enumerate(np.sort(pairs, axis=1)):
        possible = low >= 0 and high < logits.shape[-1] and weights[row, low] > 0 and weights[row, high] > 0
        borders = cdf[row, [low, high - 1]] if possible else None
        margins.append(None if borders is None else float(np.abs(borders - u[row]).max()))
    return margins
