"""Parts of every check of ``unrolled verify``: its result, its failure, comparison of arrays, random input."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from unrolled.engine.models.language_model_config import LanguageModelConfig
from unrolled.engine.models.spec import ModelSpec
from unrolled.export.artifact.weight_storage import FLOAT32_STORAGE


@dataclass(frozen=True)
class Check:
    """The result of one check."""

    name: str
    ok: bool
    detail: str


class CheckFailed(Exception):
    """A check failed; the argument says why."""


def need(condition: bool, message: str) -> None:
    """Raise CheckFailed with ``message`` if the condition does not hold."""
    if not condition:
        raise CheckFailed(message)


def close(got: NDArray, expected: NDArray, what: str, tolerance: float = FLOAT32_STORAGE.tolerance) -> float:
    """Return the largest difference; raise CheckFailed beyond the tolerance, and on NaN."""
    need(got.shape == expected.shape, f"{what}: shape {got.shape}, expected {expected.shape}")
    need(bool(np.isfinite(got).all()), f"{what}: NaN or infinite")
    difference = np.abs(got.astype(np.float64) - expected)
    worst = float(difference.max(initial=0.0))
    allowed = tolerance + tolerance * np.abs(expected)
    need(bool((difference <= allowed).all()), f"{what}: off by up to {worst:.3g}, allowed is {tolerance:g}")
    return worst


def random_tokens(config: LanguageModelConfig, T: int, B: int) -> tuple[NDArray[np.int64], NDArray]:
    """Return seeded tokens (T, B), and a state of distinct numbers."""
    rng = np.random.default_rng((T, B))
    state = rng.uniform(-1, 1, config.state_shape(B)).astype(np.float32)
    return rng.integers(0, config.vocab_size, (T, B)), state


def described(spec: ModelSpec) -> str:
    """Return a description of a model in a few words."""
    core, names = spec.core, ", ".join(column.name for column in spec.inputs)
    directions = "bidirectional " if core.bidirectional else ""
    return f"{directions}{core.cell} {core.num_layers} × {core.hidden_size} from {names} to {spec.head.kind}"
