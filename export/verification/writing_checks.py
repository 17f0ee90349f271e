"""Checks of the tokens that a file writes by itself: golden ones, the same in pieces, and no more than asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from unrolled.engine.models.draw_settings import GREEDY, DrawSettings
from unrolled.engine.models.padding import pad_sequences
from unrolled.engine.models.step_contract import Draws, StepModel, WritingModel, zero_state
from unrolled.export.artifact.golden_cases import recorded_draws, settings_text
from unrolled.export.verification.checks import close, need, random_tokens

if TYPE_CHECKING:
    from unrolled.export.torch.torchscript import ScriptedModel


def check_own_step(scripted: ScriptedModel, model: StepModel) -> str:
    """Check that a scripted module's ``step``, one token at a time, equals its ``forward``."""
    tokens, state = random_tokens(model.config, 9, 3)
    (logits, after), (expected, moved) = scripted.step(tokens, state), model.step(tokens, state)
    worst = close(logits, expected, "logits of its step")
    close(after, moved, "the state of its step")
    return f"step is forward, within {worst:.1e}"


def _write(model: WritingModel, prompts: list[list[int]], draws: Draws) -> tuple[NDArray[np.int64], NDArray]:
    """Return the tokens that the file writes after prompts of different lengths, and the state after them.

    Raises:
        CheckFailed: the tokens have another shape, or writing stops before or continues after <eos>.
    """
    tokens, lengths = pad_sequences(prompts)
    written, state = model.write(tokens, lengths, zero_state(model.config, len(prompts)), draws)
    shape, eos = (draws.steps, len(prompts)), model.tokenizer.end_id
    need(
        written.ndim == 2 and written.shape[1] == shape[1] and 1 <= len(written) <= shape[0],
        f"it writes tokens of shape {written.shape}, needs {shape}",
    )
    ended = np.zeros(written.shape, bool) if eos is None else np.maximum.accumulate(written == eos)
    need(bool((written[ended] == eos).all()), "a row goes on behind its <eos>")
    need(len(written) == draws.steps or bool(ended[-1].all()), "writing stops before every row has its <eos>")
    need(len(written) < 2 or not bool(ended[-2].all()), "writing goes on when every row has its <eos>")
    return written, state


def check_written(model: WritingModel, golden: list[dict[str, Any]]) -> str:
    """Check that the file writes the golden tokens, with all prompts in one batch; every row has index 0, as recorded."""
    prompts = [case["prompt"] for case in golden]
    rows, total = np.zeros(len(prompts), np.int64), 0
    kinds: list[tuple[str, Draws, list[list[int]]]] = []
    texts = [case["greedy"] for case in golden]
    kinds.append(("greedy tokens", Draws(0, 0, rows, GREEDY), texts))
    for cases in zip(*(recorded_draws(case) for case in golden), strict=True):
        settings = cases[0][0]
        kinds.append(
            (f"draws at {settings_text(settings)}", Draws(0, 0, rows, settings), [tokens for _, tokens in cases])
        )
    for what, draws, expected in kinds:
        steps = max(map(len, expected))
        if steps == 0:
            continue
        written, _ = _write(model, prompts, draws._replace(steps=steps))
        for b, tokens in enumerate(expected):
            got = written[: len(tokens), b].tolist()
            # A row repeats its <eos>, and writing stops when every row has one.
            end = tokens.index(eos) + 1 if (eos := model.tokenizer.end_id) in tokens else len(tokens)
            need(got[:end] == tokens[:end], f"golden case {b + 1}: the file writes other {what} than recorded")
            total += end
    return f"{total} recorded tokens written by the file itself"


def check_pieces(model: WritingModel) -> str:
    """Check that a text equals its pieces, and a row does not depend on the others."""
    rng = np.random.default_rng(1)
    prompts = [rng.integers(0, model.config.vocab_size, n).tolist() for n in (3, 1, 7)]
    draws = Draws(12, 0, np.arange(3), DrawSettings(True, 1.0, 0, 1.0, 5))
    whole, end = _write(model, prompts, draws)
    if (steps := len(whole)) < 2:
        return "texts end too soon to be cut"
    need(bool(end.any()), "the state behind a text is all zeros")
    cut = steps // 2
    first, middle = _write(model, prompts, draws._replace(steps=cut))
    rest = draws._replace(steps=steps - cut, first_step=cut)
    second, after = model.write(first[-1:], np.ones(3, np.int64), middle, rest)
    continued = first[-1] != (-1 if (eos := model.tokenizer.end_id) is None else eos)  # the others start a new text
    need(len(second) == rest.steps, "the rest of a text is cut short")
    pieces = np.concatenate([first, second])
    need(bool((pieces == whole)[:, continued].all()), "a text written in two pieces is another")
    close(after[:, :, continued], end[:, :, continued], "the state behind two pieces")
    for b, prompt in enumerate(prompts):
        alone, _ = _write(model, [prompt], draws._replace(sequences=np.array([b])))
        need(bool((alone[:, 0] == whole[: len(alone), b]).all()), f"row {b} writes another text alone")
    return "a text is its pieces, and a row the same alone"
