"""Tests that every engine and file generates equal tokens for equal prompts and seeds, apart from rounding.

The programs in ``runtime/hosts`` are held against the same texts in their own tests.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import same_text

from unrolled.engine.models.step_contract import StepModel
from unrolled.engine.storage.checkpoint import Checkpoint
from unrolled.export.formats import SINGLE_FILES as FORMATS
from unrolled.export.formats import export_model
from unrolled.runtime import generate, load
from unrolled.runtime.models.engines import make_model

RUNNERS = ("numba", "torch", "onnx", "onnx generate", "onnx both", "torchscript")


def open_runner(runner: str, checkpoint: Checkpoint, folder: Path) -> StepModel:
    name, _, form = runner.partition(" ")
    if name in ("torch", "torchscript"):
        pytest.importorskip("torch", reason="the torch extra is not installed")
    if name not in FORMATS:
        return make_model(checkpoint, name)
    return load(export_model(checkpoint, folder / f"model{FORMATS[name].suffix}", name, form or None))


@pytest.mark.slow
@pytest.mark.parametrize("level", same_text.LEVELS)
@pytest.mark.parametrize("cell", same_text.CELLS)
@pytest.mark.parametrize("runner", RUNNERS)
def test_every_runner_writes_the_same_text(tmp_path: Path, runner: str, cell: str, level: str) -> None:
    reference = same_text.reference(cell, level)
    model = open_runner(runner, reference.checkpoint, tmp_path)
    for settings in same_text.SETTINGS.values():
        rows = generate(model, reference.prompts, max_new_tokens=same_text.TOKENS, **settings)
        assert reference.faults([row.tokens for row in rows], settings) == []


@pytest.mark.parametrize("settings", same_text.SETTINGS.values(), ids=same_text.SETTINGS)
def test_alarm_another_token_is_not_explained(settings: dict) -> None:
    checkpoint = same_text.make_checkpoint("gru", "char")
    reference = same_text.Reference(checkpoint, same_text.make_prompts(checkpoint)[:2])
    rows = [list(row.tokens) for row in generate(reference.model, reference.prompts, max_new_tokens=12, **settings)]
    assert reference.faults(rows, settings) == []
    rows[1][7] = (rows[1][7] + 1) % checkpoint.config.vocab_size
    assert [(fault.index, fault.step) for fault in reference.faults(rows, settings)] == [(1, 7)]
