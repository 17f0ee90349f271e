"""The sampling rules: from logits and a uniform to a token, one definition for every engine and host.

Everything is in float64. Scores are the logits over the temperature. Filters then take tokens out, in the order of
``FILTERS``; ties are broken in favour of the lower index. A draw walks the tokens that are left in the order of their
index and takes the first whose cumulative probability exceeds u (the inverse of the distribution function). Greedy is the
lowest index among the largest logits. Names follow Hugging Face's ``generate``; its top-k keeps ties, this one does not.
"""

from __future__ import annotations

import math
import numbers
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from unrolled.engine.errors import ConfigError, ModelFileError

MIN_TEMPERATURE = 1e-6  # greedy in all but name; far below, logits over temperature overflow

Scores = NDArray[np.float64]  # (B, V); -inf: out


@dataclass(frozen=True)
class SamplingConfig:
    """How a token is chosen.

    Args:
        do_sample: draw; False: greedy, whatever the rest says.
        temperature: divides the logits; at least 1e-6. Below 1 favours the probable more, above 1 less.
        top_k: keep the k most probable tokens; 0: all.
        top_p: keep the fewest most probable tokens whose probabilities sum to at least this; 1: all.
        seed: 0 … 2⁶⁴ - 1; with a row's index and step it fixes the draw.
    """

    do_sample: bool = True
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        if not isinstance(self.do_sample, bool):
            raise ConfigError(f"do_sample: got {self.do_sample!r}, needs true or false")
        if not _is_number(self.temperature) or not MIN_TEMPERATURE <= self.temperature < math.inf:
            raise ConfigError(
                f"temperature: got {self.temperature!r}, needs a number from {MIN_TEMPERATURE:g}; "
                "for always the most probable token say greedy (do_sample false)"
            )
        check_whole("top_k", self.top_k, 0)
        if not _is_number(self.top_p) or not 0 <= self.top_p <= 1:
            raise ConfigError(f"top_p: got {self.top_p!r}, needs a number from 0 to 1, where 1 keeps all tokens")
        check_whole("seed", self.seed, 0, 2**64 - 1)


def _is_number(value: object) -> bool:
    return isinstance(value, numbers.Real) and not isinstance(value, bool)


def check_whole(name: str, value: object, least: int, most: int | None = None) -> None:
    """Check a whole number within its limits; ConfigError names it."""
    good = isinstance(value, numbers.Integral) and not isinstance(value, bool)
    if not good or int(value) < least or (most is not None and int(value) > most):  # type: ignore[call-overload]
        limits = f"of at least {least}" if most is None else f"from {least} to {most}"
        raise ConfigError(f"{name}: got {value!r}, needs a whole number {limits}")


def _descending(scores: Scores) -> NDArray[np.intp]:
    """Token indices by falling score, the lower index first among equals."""
    return np.argsort(-scores, axis=-1, kind="stable")


def apply_temperature(scores: Scores, config: SamplingConfig) -> Scores:
    return scores / config.temperature


def keep_top_k(scores: Scores, config: SamplingConfig) -> Scores:
    """All but the ``top_k`` largest become -inf. Source: A. Fan et al., "Hierarchical Neural Story Generation" (2018)."""
    if not 0 < config.top_k < scores.shape[-1]:
        return scores
    scores = scores.copy()
    np.put_along_axis(scores, _descending(scores)[:, config.top_k :], -np.inf, axis=-1)
    return scores


def keep_top_p(scores: Scores, config: SamplingConfig) -> Scores:
    """A token goes out where the more probable ones sum to ``top_p`` already; the first always stays.

    Source: A. Holtzman et al., "The Curious Case of Neural Text Degeneration" (2020), section 3.1.
    """
    if config.top_p >= 1:
        return scores
    order = _descending(scores)
    p = _weights(np.take_along_axis(scores, order, axis=-1))
    before = np.zeros_like(p)
    np.cumsum(p[:, :-1], axis=-1, out=before[:, 1:])
    out = before >= config.top_p * p.sum(axis=-1, keepdims=True)
    out[:, 0] = False
    drop = np.zeros_like(out)
    np.put_along_axis(drop, order, out, axis=-1)
    return np.where(drop, -np.inf, scores)


Filter = Callable[[Scores, SamplingConfig], Scores]
FILTERS: dict[str, Filter] = {
    "temperature": apply_temperature,
    "top_k": keep_top_k,
    "top_p": keep_top_p,
}


def _weights(scores: Scores) -> Scores:
    """Probabilities up to a factor, the largest 1."""
    return np.exp(scores - scores.max(axis=-1, keepdims=True))


def draw(scores: Scores, u: NDArray[np.float64]) -> NDArray[np.int64]:
    """The token (B,) where the cumulative weight first exceeds u times the total: the inverse CDF at ``u`` (B,)."""
    weights = _weights(scores)
    cdf = np.cumsum(weights, axis=-1)
    index = (cdf <= u[:, None] * cdf[:, -1:]).sum(axis=-1)
    # a uniform of 1, which rounding to float32 in another host can make, means the last token that is still in
    last = weights.shape[-1] - 1 - (weights[:, ::-1] > 0).argmax(axis=-1)
    return np.minimum(index, last)


def choose(logits: NDArray, config: SamplingConfig, u: NDArray[np.float64] | None) -> NDArray[np.int64]:
    """Tokens (B,) from logits (B, V); ``u`` (B,) uniforms in [0, 1), not needed for greedy.

    Raises:
        ModelFileError: a row of logits holds NaN, or is infinite.
    """
    largest = logits.max(axis=-1)
    if not np.isfinite(largest).all():
        row = int((~np.isfinite(largest)).argmax())
        raise ModelFileError(f"row {row}: the model's logits are not finite ({largest[row]}); its weights are damaged")
    if not config.do_sample:
        return logits.argmax(axis=-1)
    assert u is not None
    scores = logits.astype(np.float64)
    for keep in FILTERS.values():
        scores = keep(scores, config)
    return draw(scores, u)
