"""The intervals of validations where nobody names them: counted in tokens, so that runs repeat whatever the clock does."""

from __future__ import annotations

import math
from typing import NamedTuple

from unrolled.engine.data.batches import Batches

FORWARD = 1 / 3  # work of a token that is only read, in those of one that is trained on: backward costs twice forward
SHARE = 0.05  # of a training's work that validations take at most by default
MOST_STEPS = 250  # between two saves by default


class Intervals(NamedTuple):
    """Steps between saves and between validations; the second is a multiple of the first."""

    save: int
    validate: int


def share_of_work(validated: int, trained: int) -> float:
    """Return the share of the work that went into ``validated`` tokens beside ``trained`` ones."""
    work = FORWARD * validated
    return work / (work + trained) if validated else 0.0


def intervals(every: int | None, share: float | None, data: Batches, validation: Batches | None) -> Intervals:
    """Return when to save and to validate.

    Args:
        every: steps between validations, and between saves, that somebody asked for; None: once an epoch, at most
            ``MOST_STEPS``, and validations at every n-th save, as few as ``share`` allows.
        share: of the work that validations may take; None: any.
    """
    if every is not None:
        return Intervals(every, every)
    save = min(data.batches_per_epoch, MOST_STEPS)
    if share is None or validation is None:
        return Intervals(save, save)
    paid = FORWARD * validation.tokens_per_epoch * (1 - share) / share  # tokens of training for one validation
    return Intervals(save, save * math.ceil(paid * data.batches_per_epoch / (data.tokens_per_epoch * save)))


def affordable(share: float, size: int, validated: int, trained: int) -> bool:
    """Return whether a validation on ``size`` tokens, and another one at the end, keep to ``share``."""
    return share_of_work(validated + 2 * size, trained) <= share
