"""Golden cases: what a model's file says its logits and tokens are, so that any host can check itself against it."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unrolled.engine.errors import ModelFileError
from unrolled.engine.models.draw_settings import DrawSettings
from unrolled.engine.models.step_contract import Stepper, zero_state
from unrolled.engine.sampling.config import SamplingConfig
from unrolled.engine.sampling.philox import uniforms
from unrolled.engine.sampling.rules import choose

LENGTHS, TOKENS, LOGITS = (1, 5, 17), 32, 64
MARGIN = 1e-3  # a greedy token counts while the best logit leads by more than engines may differ
DRAW_MARGIN = 1e-4  # and a drawn one while no border is as near to the probability that decides


NextToken = Callable[[NDArray, int], int | None]
Draw = Callable[[NDArray, float, DrawSettings], int]  # a token from logits (V,) and a uniform

SAMPLED = (
    DrawSettings(True, 0.9, 0, 1.0, 1),
    DrawSettings(True, 0.8, 5, 1.0, 2),
    DrawSettings(True, 0.9, 0, 0.9, 3),
    DrawSettings(True, 1.2, 12, 0.8, 4),
)
RECORDED = ("temperature", "top_k", "top_p", "seed")  # the settings that stand beside recorded draws


def _write(model: Stepper, prompt: list[int], count: int, next_token: NextToken) -> list[int]:
    """Return up to ``count`` tokens, each ``next_token(logits (V,), step)``, until that is None."""
    logits, state = model.step(np.array(prompt, np.int64)[:, None], zero_state(model.config, 1))
    tokens: list[int] = []
    for step in range(count):
        token = next_token(logits[-1, 0], step)
        if token is None:
            break
        tokens.append(int(token))
        logits, state = model.step(np.array([[tokens[-1]]], np.int64), state)
    return tokens


def greedy_tokens(model: Stepper, prompt: list[int], count: int, margin: float = 0.0) -> list[int]:
    """Up to ``count`` tokens, each the lowest index among the largest logits, while the largest leads by ``margin``."""

    def next_token(logits: NDArray, step: int) -> int | None:
        best, second = np.partition(logits, -2)[[-1, -2]]
        return None if best - second < margin else int(logits.argmax())

    return _write(model, prompt, count, next_token)


def draw(logits: NDArray, u: float, settings: DrawSettings) -> int:
    """Return the token drawn from logits (V,) at ``u``, by the sampling rules."""
    return int(choose(logits[None], SamplingConfig(*settings), np.array([u]))[0])


def sampled_tokens(
    model: Stepper, prompt: list[int], count: int, settings: DrawSettings, margin: float = 0.0, draw: Draw = draw
) -> list[int]:  # fmt: skip
    """Up to ``count`` drawn tokens of the row with index 0, while every draw would be the same ``margin`` to either side."""

    def next_token(logits: NDArray, step: int) -> int | None:
        u = float(uniforms(settings.seed, np.array([0]), step)[0])
        token = draw(logits, u, settings)
        if margin == 0:
            return token
        top_p = settings.top_p
        limits = [top_p] if top_p == 1 else [top_p - margin, top_p + margin]
        places = [float(np.clip(u + off, 0, 1 - 1e-12)) for off in (-margin, margin)]
        near = [draw(logits, place, settings._replace(top_p=limit)) for place in places for limit in limits]
        ranked = np.sort(logits)[::-1]
        k = settings.top_k
        firm = not 0 < k < len(ranked) or ranked[k - 1] - ranked[k] >= MARGIN
        return token if firm and all(other == token for other in near) else None

    return _write(model, prompt, count, next_token)


def golden_cases(model: Stepper, margin: float = MARGIN, drawn: bool = True) -> list[dict[str, Any]]:
    """Prompts with the model's logits after them (a spread of at most 64, and their log-sum-exp) and tokens.

    Args:
        margin: by which the largest logit leads for a greedy token to be recorded.
        drawn: record draws too.
    """
    V = model.config.vocab_size
    rng = np.random.default_rng(0)
    cases = []
    for length in LENGTHS:
        prompt = rng.integers(0, V, length).tolist()
        logits, _ = model.step(np.array(prompt, np.int64)[:, None], zero_state(model.config, 1))
        last = logits[-1, 0].astype(np.float64)
        indices = np.unique(np.linspace(0, V - 1, min(V, LOGITS)).astype(int))
        case: dict[str, Any] = {
            "prompt": prompt,
            "logit_indices": indices.tolist(),
            "logits": [float(np.float32(value)) for value in last[indices]],
            "logsumexp": float(last.max() + np.log(np.exp(last - last.max()).sum())),
            "greedy": greedy_tokens(model, prompt, TOKENS, margin),
        }
        if drawn:
            case["sampled"] = [
                {name: value for name, value in settings._asdict().items() if name in RECORDED}
                | {"tokens": sampled_tokens(model, prompt, TOKENS, settings, DRAW_MARGIN)}
                for settings in SAMPLED
            ]
        cases.append(case)
    return cases


def recorded_draws(case: dict[str, Any]) -> list[tuple[DrawSettings, list[int]]]:
    """The draws of one case; none in files of the first release."""
    return [
        (DrawSettings(True, *(draws[name] for name in RECORDED)), draws["tokens"]) for draws in case.get("sampled", [])
    ]


def check_golden(cases: Any, vocab_size: int) -> None:
    """Golden cases come from a file: lists of ids and numbers, nothing else, before anything is computed with them.

    Raises:
        ModelFileError: something else.
    """

    def ids(value: Any) -> bool:
        return isinstance(value, list) and all(type(i) is int and 0 <= i < vocab_size for i in value)

    def number(value: Any) -> bool:
        return (type(value) is float and math.isfinite(value)) or (type(value) is int and abs(value) < 2**53)

    def settings(draws: dict[str, Any]) -> bool:
        """In the ranges of ``unrolled.engine.sampling.rules``."""
        top_k, seed = draws.get("top_k"), draws.get("seed")
        return (
            number(draws.get("temperature"))
            and 0 < draws["temperature"] <= 1e6
            and number(draws.get("top_p"))
            and 0 < draws["top_p"] <= 1
            and type(top_k) is int
            and 0 <= top_k < 2**31
            and type(seed) is int
            and 0 <= seed < 2**64
        )

    def drawn(value: Any) -> bool:
        """Missing in files of the first release."""
        return isinstance(value, list) and all(
            isinstance(draws, dict) and ids(draws.get("tokens")) and settings(draws) for draws in value
        )

    good = isinstance(cases, list) and all(
        isinstance(case, dict)
        and ids(case.get("prompt"))
        and case["prompt"]
        and ids(case.get("greedy"))
        and ids(case.get("logit_indices"))
        and isinstance(case.get("logits"), list)
        and all(number(value) for value in [*case["logits"], case.get("logsumexp")])
        and len(case["logits"]) == len(case["logit_indices"])
        and drawn(case.get("sampled", []))
        for case in cases
    )
    if not good:
        raise ModelFileError("golden: not a list of cases")
