"""Run folders for a report: metrics, best checkpoint and settings, and the settings in which runs differ."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unrolled.engine.errors import ConfigError, ModelFileError
from unrolled.engine.models.heads.head import Head
from unrolled.engine.models.language_model_config import description_of
from unrolled.engine.models.parameters import parameter_count
from unrolled.engine.runs.metrics_log import read_metrics
from unrolled.engine.runs.resume_checks import flatten_settings
from unrolled.engine.storage.checkpoint import BEST_CHECKPOINT, LAST_CHECKPOINT, Checkpoint, load_checkpoint
from unrolled.engine.storage.json_text import object_in

SERIES = ("step", "seconds", "loss", "grad_norm", "learning_rate")


@dataclass(frozen=True)
class Run:
    """Contents of a run folder that the page shows.

    Args:
        label: unique name of the run on the page.
        steps: each of ``SERIES`` over the training steps, (n,) float64; NaN where a line has no number.
        validations, samples: the lines of metrics.jsonl.
        result: result of the training, from the last checkpoint.
    """

    label: str
    path: Path
    checkpoint: Checkpoint
    steps: Mapping[str, NDArray[np.float64]]
    validations: Sequence[dict[str, Any]]
    samples: Sequence[dict[str, Any]]
    result: Mapping[str, Any]

    @property
    def record(self) -> dict[str, Any]:
        """Return the training record: corpus, data, optimizer and so on."""
        return self.checkpoint.training

    @property
    def head(self) -> Head:
        """Return the head of the model, whose metrics the lines contain."""
        return self.checkpoint.spec.head

    @property
    def parameters(self) -> int:
        return parameter_count(self.checkpoint.spec)

    @property
    def title(self) -> str:
        core = self.checkpoint.spec.core
        directions = f" × {core.directions}" if core.bidirectional else ""
        return f"{core.cell.upper().replace('_', ' ')} {core.num_layers} × {core.hidden_size}{directions}"

    @property
    def corpus(self) -> str:
        return str(object_in(self.record, "corpus").get("name", "an unknown corpus"))

    @property
    def settings(self) -> dict[str, Any]:
        """Return all settings of the training, keyed by names such as ``model.hidden_size``."""
        parts = {name: part for name, part in self.record.items() if name != "result"}
        engine = self.result.get("engine")
        return flatten_settings({"engine": engine, "model": description_of(self.checkpoint.spec), **parts})


def differences(runs: Sequence[Run]) -> tuple[dict[str, list[Any]], dict[str, Any]]:
    """Return the settings that differ between runs, with a value a run (None if it has none), and those that are equal."""
    settings = [run.settings for run in runs]
    names = list(dict.fromkeys(name for run_settings in settings for name in run_settings))
    values = {name: [run_settings.get(name) for run_settings in settings] for name in names}
    differing = {name: found for name, found in values.items() if any(value != found[0] for value in found)}
    return differing, {name: found[0] for name, found in values.items() if name not in differing}


def read_run(path: Path, label: str) -> Run:
    """Read a run folder.

    Raises:
        ConfigError: the path is no folder.
        ModelFileError: a file of the folder is missing or damaged.
    """
    if not path.exists():
        raise ModelFileError(f"{path}: no such folder")
    if not path.is_dir():
        raise ConfigError(f"{path}: is a file; a report is about run folders, with their metrics.jsonl")
    checkpoint = load_checkpoint(path)
    has_both = (path / LAST_CHECKPOINT).is_file() and (path / BEST_CHECKPOINT).is_file()
    last = load_checkpoint(path / LAST_CHECKPOINT) if has_both else checkpoint
    lines = list(read_metrics(path, "step"))
    if not lines:
        raise ModelFileError(f"{path}: its metrics.jsonl holds no step")
    steps = {name: np.array([_float_or_nan(line.get(name)) for line in lines]) for name in SERIES}
    validations = [line for line in read_metrics(path, "validation") if _has_numbers(line, ("step", "seconds", "loss"))]
    samples = [
        line
        for line in read_metrics(path, "sample")
        if _has_numbers(line, ("step",)) and isinstance(line.get("text"), str)
    ]
    return Run(label, path, checkpoint, steps, validations, samples, object_in(last.training, "result"))


def _float_or_nan(value: Any) -> float:
    return float(value) if isinstance(value, int | float) else float("nan")


def _has_numbers(line: Mapping[str, Any], names: Sequence[str]) -> bool:
    return all(isinstance(line.get(name), int | float) for name in names)


def read_runs(paths: Sequence[Path]) -> list[Run]:
    """Read several run folders, each labelled with the shortest end of its path that is unique.

    Raises:
        ConfigError: a folder is named twice, or there is none.
    """
    if not paths:
        raise ConfigError("runs: none is named")
    whole = [Path(os.path.abspath(path)) for path in paths]
    if len(set(whole)) != len(whole):
        twice = next(path for path in whole if whole.count(path) > 1)
        raise ConfigError(f"{twice}: is named twice")
    count = 1
    while len({path.parts[-count:] for path in whole}) < len(whole):
        count += 1
    return [read_run(path, "/".join(full.parts[-count:])) for path, full in zip(paths, whole, strict=True)]
