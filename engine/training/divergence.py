"""Detection of a training that has diverged although its loss is finite."""

from __future__ import annotations

import math

from unrolled.engine.errors import divergence_error
from unrolled.engine.models.heads.head import Head, Metrics, selecting_metric

HIGH_FACTOR = 3  # a loss is high above this multiple of a blind guess's loss
HIGH_STEPS = 50  # steps in a row with a high loss before anything is reported


def check_finite(head: Head, metrics: Metrics, step: int, norm: float, rate: float) -> None:
    """Check that the loss of a validation and the metric that selects are finite: NaN is never the best.

    Args:
        norm, rate: gradient norm and learning rate of the last step, for the message.

    Raises:
        DivergedError: one is not.
    """
    for metric in (head.metrics[0], selecting_metric(head)):
        value = metric.of(metrics)
        if not math.isfinite(value):
            raise divergence_error(step, f"validation {metric.title} {value:.4g}", norm, rate)


class DivergenceGuard:
    """Stops a training whose loss has exploded, and warns about one whose loss has been high from the first step on.

    A training that learns is never stopped: its loss is at most that of a blind guess, or it starts above it, because of
    large initial weights, and falls.

    Args:
        guess_loss: the mean loss of a blind guess, ``Head.guess_loss``.
    """

    def __init__(self, guess_loss: float) -> None:
        self.guess_loss = guess_loss
        self._first_loss = math.nan
        self._high = 0  # steps in a row with a loss far above that of a guess
        self._exploding = 0  # steps in a row with a loss also far above the first one

    def check(self, step: int, loss: float, norm: float, rate: float) -> str | None:
        """Check the loss of one step.

        Args:
            norm, rate: the step's gradient norm and learning rate, for the message.

        Returns:
            A warning for the user, or None.

        Raises:
            DivergedError: the loss has exploded.
        """
        guess = self.guess_loss
        self._first_loss = loss if math.isnan(self._first_loss) else self._first_loss
        self._high = self._high + 1 if loss > HIGH_FACTOR * guess else 0
        self._exploding = self._exploding + 1 if loss > HIGH_FACTOR * max(guess, self._first_loss) else 0
        if HIGH_STEPS not in (self._high, self._exploding):
            return None
        far = f"for {HIGH_STEPS} steps the loss has been above {HIGH_FACTOR} times that of a blind guess"
        figures = f"now {loss:.4g}, a guess has {guess:.4g}"
        if self._exploding == HIGH_STEPS:
            raise divergence_error(step, f"{far} ({figures})", norm, rate)
        return (
            f"step {step}: {far} ({figures}), and it was {self._first_loss:.4g} at first; "
            f"try initial weights in a smaller range, or a lower learning rate (now {rate:.4g})"
        )
