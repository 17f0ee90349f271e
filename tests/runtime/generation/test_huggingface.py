"""Beam search against Hugging Face's ``generate``: what it answered once, and, where it is installed, what it answers."""

from __future__ import annotations

from typing import Any

import huggingface
import numpy as np
import pytest


def differing(answers: list[tuple[huggingface.Case, huggingface.Answer]], **other: Any) -> list[huggingface.Case]:
    """Return the cases for which ``beam_search``, with ``other`` settings where given, finds other texts or scores."""
    return [case for case, expected in answers if huggingface.differences(case, expected, **other)]


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


def test_processors_and_filters_are_those_of_hugging_face() -> None:
    pytest.importorskip("transformers")
    pairs = list(huggingface.random_scores(200, 2))
    assert len(pairs) > 150
    for settings, ours, theirs in pairs:
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5, err_msg=str(settings))
