"""Golden cases: recorded logits and tokens of a model, so that any host can check itself against its file."""

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

PROMPT_LENGTHS, RECORDED_TOKENS, MAX_LOGITS = (1, 5, 17), 32, 64
# Recording stops at a token that another engine, within its rounding, might choose differently.
GREEDY_MARGIN = 1e-3  # lead of the largest logit
DRAW_MARGIN = 1e-4  # distance of the uniform, and of top_p, from the next threshold

NextToken = Callable[[NDArray, int], int | None]  # returns a token or None, given logits (V,) and the step
DrawFunction = Callable[[NDArray, float, DrawSettings], int]  # returns a token, given logits (V,) and a uniform

SAMPLED = (
    DrawSettings(True, 0.9, 0, 1.0, 1),
    DrawSettings(True, 0.8, 5, 1.0, 2),
    DrawSettings(True, 0.9, 0, 0.9, 3),
    DrawSettings(True, 1.2, 12, 0.8, 4),
)
RECORDED_SETTINGS = ("temperature", "top_k", "top_p", "seed")  # the keys of a recorded draw beside "tokens"


def _generate(model: Stepper, prompt: list[int], count: int, next_token: NextToken) -> list[int]:
    """Return up to ``count`` tokens after a prompt, until ``next_token`` returns None."""
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
    """Return up to ``count`` tokens, each the lowest index of the largest logit, while the largest leads by ``margin``."""

    def next_token(logits: NDArray, step: int) -> int | None:
        best, second = np.partition(logits, -2)[[-1, -2]]
        return None if best - second < margin else int(logits.argmax())

    return _generate(model, prompt, count, next_token)


def draw_by_rules(logits: NDArray, u: float, settings: DrawSettings) -> int:
    """Return the token drawn from logits (V,) at ``u``, by the sampling rules."""
    return int(choose(logits[None], SamplingConfig(*settings), np.array([u]))[0])


def sampled_tokens(
    model: Stepper,
    prompt: list[int],
    count: int,
    settings: DrawSettings,
    margin: float = 0.0,
    draw: DrawFunction = draw_by_rules,
) -> list[int]:
    """Return up to ``count`` tokens drawn for the row of index 0, while no change within ``margin`` would alter the draw."""

    def next_token(logits: NDArray, step: int) -> int | None:
        u = float(uniforms(settings.seed, np.array([0]), step)[0])
        token = draw(logits, u, settings)
        if margin == 0:
            return token
        top_p = settings.top_p
        limits = [top_p] if top_p == 1 else [top_p - margin, top_p + margin]
        near_u = [float(np.clip(u + off, 0, 1 - 1e-12)) for off in (-margin, margin)]
        neighbours = [draw(logits, v, settings._replace(top_p=limit)) for v in near_u for limit in limits]
        ranked = np.sort(logits)[::-1]
        k = settings.top_k
        safe_top_k = not 0 < k < len(ranked) or ranked[k - 1] - ranked[k] >= GREEDY_MARGIN
        return token if safe_top_k and all(other == token for other in neighbours) else None

    return _generate(model, prompt, count, next_token)


def golden_cases(model: Stepper, margin: float = GREEDY_MARGIN, drawn: bool = True) -> list[dict[str, Any]]:
    """Return prompts with the model's logits after them (at most 64, evenly spread, and their log-sum-exp) and its tokens.

    Args:
        margin: the lead of the largest logit that a greedy token needs to be recorded.
        drawn: whether to record draws too.
    """
    V = model.config.vocab_size
    rng = np.random.default_rng(0)
    cases = []
    for length in PROMPT_LENGTHS:
        prompt = rng.integers(0, V, length).tolist()
        logits, _ = model.step(np.array(prompt, np.int64)[:, None], zero_state(model.config, 1))
        last = logits[-1, 0].astype(np.float64)
        indices = np.unique(np.linspace(0, V - 1, min(V, MAX_LOGITS)).astype(int))
        case: dict[str, Any] = {
            "prompt": prompt,
            "logit_indices": indices.tolist(),
            "logits": [float(np.float32(value)) for value in last[indices]],
            "logsumexp": float(last.max() + np.log(np.exp(last - last.max()).sum())),
            "greedy": greedy_tokens(model, prompt, RECORDED_TOKENS, margin),
        }
        if drawn:
            case["sampled"] = [
                {name: value for name, value in settings._asdict().items() if name in RECORDED_SETTINGS}
                | {"tokens": sampled_tokens(model, prompt, RECORDED_TOKENS, settings, DRAW_MARGIN)}
                for settings in SAMPLED
            ]
        cases.append(case)
    return cases


def recorded_draws(case: dict[str, Any]) -> list[tuple[DrawSettings, list[int]]]:
    """Return the draws of one case; files of the first release have none."""
    return [
        (DrawSettings(True, *(draws[name] for name in RECORDED_SETTINGS)), draws["tokens"])
        for draws in case.get("sampled", [])
    ]


def settings_text(settings: DrawSettings) -> str:
    """Return the recorded settings of a draw as messages show them."""
    return f"Settings({', '.join(f'{name}={settings._asdict()[name]!r}' for name in RECORDED_SETTINGS)})"


def check_golden(cases: Any, vocab_size: int) -> None:
    """Check the golden cases of a file before anything is computed with them: lists of ids and numbers, nothing else.

    Raises:
        ModelFileError: other content.
    """
    if not (isinstance(cases, list) and all(_is_case(case, vocab_size) for case in cases)):
        raise ModelFileError("golden: not a list of cases")


def _is_case(case: Any, vocab_size: int) -> bool:
    return (
        isinstance(case, dict)
        and _are_ids(case.get("prompt"), vocab_size)
        and bool(case["prompt"])
        and _are_ids(case.get("greedy"), vocab_size)
        and _are_ids(case.get("logit_indices"), vocab_size)
        and isinstance(case.get("logits"), list)
        and all(_is_number(value) for value in [*case["logits"], case.get("logsumexp")])
        and len(case["logits"]) == len(case["logit_indices"])
        and _are_draws(case.get("sampled", []), vocab_size)  # missing in files of the first release
    )


def _are_draws(value: Any, vocab_size: int) -> bool:
    return isinstance(value, list) and all(
        isinstance(draws, dict) and _are_ids(draws.get("tokens"), vocab_size) and _are_settings(draws)
        for draws in value
    )


def _are_ids(value: Any, vocab_size: int) -> bool:
    return isinstance(value, list) and all(type(i) is int and 0 <= i < vocab_size for i in value)


def _is_number(value: Any) -> bool:
    return (type(value) is float and math.isfinite(value)) or (type(value) is int and abs(value) < 2**53)


def _are_settings(draws: dict[str, Any]) -> bool:
    """Return whether the settings of a draw lie in the ranges of ``unrolled.engine.sampling.rules``."""
    top_k, seed = draws.get("top_k"), draws.get("seed")
    return (
        _is_number(draws.get("temperature"))
        and 0 < draws["temperature"] <= 1e6
        and _is_number(draws.get("top_p"))
        and 0 < draws["top_p"] <= 1
        and type(top_k) is int
        and 0 <= top_k < 2**31
        and type(seed) is int
        and 0 <= seed < 2**64
    )
