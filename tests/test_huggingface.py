"""Beam search against Hugging Face's ``generate``: what it answered once, and, where it is installed, what it answers."""

from __future__ import annotations

from typing import Any

import huggingface
import numpy as np
import pytest

from unrolled.runtime.beam import BeamConfig, beam_search


def differing(answers: list[tuple[huggingface.Case, huggingface.Answer]], **other: Any) -> list[huggingface.Case]:
    """Return the cases for which ``beam_search``, with ``other`` settings where given, finds other texts or scores."""
    found = []
    for case, expected in answers:
        model = huggingface.model_of(case.cell, case.seed, case.bias, case.eos)
        texts = beam_search(model, [case.prompt], BeamConfig(**{**case.settings, **other}))
        same = [list(text.tokens) for text in texts] == [tokens for tokens, _ in expected] and np.allclose(
            [text.score for text in texts],
            [score for _, score in expected],
            rtol=huggingface.SCORE_RTOL,
            atol=huggingface.SCORE_ATOL,
        )
        if not same:
            found.append(case)
    return found


def test_beams_are_those_of_hugging_face() -> None:
    assert differing(huggingface.load()) == []


@pytest.mark.parametrize("other", [{"early_stopping": True}, {"length_penalty": 0.9}])
def test_alarm_another_setting_gives_other_beams(other: dict[str, Any]) -> None:
    chosen = [(case, answer) for case, answer in huggingface.load() if case.settings["early_stopping"] is False]
    assert len(differing(chosen, **other)) >= 8


def test_hugging_face_still_answers_so() -> None:
    pytest.importorskip("transformers")
    answers = [(case, huggingface.run(case)) for case in huggingface.cases()[::6]]
    assert differing(answers) == []
