"""Default intervals of saves and validations, counted in tokens, so that a repeated run validates at the same steps."""

from __future__ import annotations

import math
from typing import NamedTuple

from unrolled.engine.data.batches import Batches

FORWARD_WORK = 1 / 3  # work of a validated token relative to a trained one: backward costs twice as much as forward
VALIDATION_SHARE = 0.05  # of a training's work, the upper bound for validations
MAX_SAVE_INTERVAL = 250  # steps between two saves


class Intervals(NamedTuple):
    """Steps between saves and between validations; the second is a multiple of the first."""

    save: int
    validate: int


def share_of_work(validated: int, trained: int) -> float:
    """Return the share of the work that ``validated`` tokens take, beside ``trained`` tokens."""
    work = FORWARD_WORK * validated
    return work / (work + trained) if validated else 0.0


def plan_intervals(every: int | None, share: float | None, data: Batches, validation: Batches | None) -> Intervals:
    """Return the intervals of saves and validations.

    Args:
        every: steps between validations, and between saves; None: saves once an epoch, at most ``MAX_SAVE_INTERVAL``
            steps apart, and validations at every n-th save, as often as ``share`` allows.
        share: upper bound of the share of validations in the work; None: no bound.
    """
    if every is not None:
        return Intervals(every, every)
    save = min(data.batches_per_epoch, MAX_SAVE_INTERVAL)
    if share is None or validation is None:
        return Intervals(save, save)
    paid = FORWARD_WORK * validation.tokens_per_epoch * (1 - share) / share  # trained tokens per validation
    return Intervals(save, save * math.ceil(paid * data.batches_per_epoch / (data.tokens_per_epoch * save)))


def fits_budget(share: float, size: int, validated: int, trained: int) -> bool:
    """Return whether a validation on ``size`` tokens, and another one at the end, stay within ``share``."""
    return share_of_work(validated + 2 * size, trained) <= share
