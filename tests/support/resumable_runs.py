"""Small training runs to stop and resume, and the check that they end like an uninterrupted run."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from unrolled.engine.data.config import DataConfig
from unrolled.engine.data.corpus import Corpus
from unrolled.engine.models.dropout import Dropout
from unrolled.engine.models.heads.next_token import NextTokenHead
from unrolled.engine.network.backends import FLOAT32
from unrolled.engine.runs.experiment import Experiment, ModelSettings, PreparedRun, prepare_run
from unrolled.engine.runs.metrics_log import read_metrics
from unrolled.engine.runs.resume_file import RESUME, load_resume_state
from unrolled.engine.storage.checkpoint import load_checkpoint
from unrolled.engine.training.config import TrainingConfig
from unrolled.export.training_engines import make_trainable

TEXT = "the quick brown fox jumps over the lazy dog; pack my box with five dozen jugs.\n" * 12


FILES = ["best.safetensors", "last.safetensors", "metrics.jsonl", "resume.safetensors"]


EXPERIMENT = Experiment(
    TrainingConfig(
        steps=33, schedule="cosine", validate_every=7, seed=4, dropout=Dropout(0.1, 0.2)
    ),  # two epochs of 15 steps and a part of the third
    DataConfig(batch_size=4, length=13, split=(0.8, 0.2, 0.0)),
    ModelSettings("gru", 5, 7, 2, dropout=0.3),
)


def prepared(
    experiment: Experiment = EXPERIMENT, engine: str = "numpy", text: str = TEXT, precision: str = FLOAT32
) -> PreparedRun:
    if engine == "torch":
        pytest.importorskip("torch", reason="the torch extra is not installed")
    return prepare_run(
        Corpus("fox", text),
        experiment,
        lambda spec, params, rule, clip: make_trainable(engine, spec, params, rule, clip, precision),
    )


def steps_and_losses(folder: Path, event: str) -> list[tuple[int, float]]:
    return [(line["step"], line["loss"]) for line in read_metrics(folder, event)]


def assert_same_end(folder: Path, expected: Path) -> None:
    """Check that weights, moments, hidden state, figures and lines are the same bit for bit, and that no other file is left."""
    assert sorted(path.name for path in folder.iterdir() if path.suffix != ".png") == FILES
    for name in ("best.safetensors", "last.safetensors"):
        got, wanted = load_checkpoint(folder / name), load_checkpoint(expected / name)
        assert got.digest == wanted.digest, name
        for key in ("steps", "epochs", "tokens", "best", "best_step", "last", "last_step", "train_loss"):
            assert got.training["result"][key] == wanted.training["result"][key], (name, key)
    one, other = (load_resume_state(run / RESUME, NextTokenHead(2)) for run in (folder, expected))
    assert set(one.arrays) == set(other.arrays)
    for name, value in other.arrays.items():
        np.testing.assert_array_equal(one.arrays[name], value, err_msg=name)
    assert other.result.state is not None
    np.testing.assert_array_equal(one.result.state, other.result.state)
    for event in ("step", "validation"):
        assert steps_and_losses(folder, event) == steps_and_losses(expected, event)


def with_training(**settings: Any) -> Experiment:
    return replace(EXPERIMENT, training=replace(EXPERIMENT.training, **settings))
