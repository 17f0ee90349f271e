"""Fixtures of the tests of jobs: a small model, and an observer that is called for every row."""

from __future__ import annotations

import models
import pytest

from unrolled.engine.models.step_contract import StepModel
from unrolled.runtime.jobs import job_writer
from unrolled.runtime.models.engines import make_model


@pytest.fixture(scope="module")
def model() -> StepModel:
    return make_model(models.checkpoint("gru", 1, hidden_size=12), "numpy")


@pytest.fixture(autouse=True)
def _every_row_is_observed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(job_writer, "PROGRESS_S", 0.0)
