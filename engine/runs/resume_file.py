"""The resume file, from which a training continues as if it had never stopped.

``resume.safetensors`` holds weights, moments and hidden state as tensors, and in its metadata, under the key
``unrolled``, a JSON object: ``format_version``, ``run`` (a random name for each run), ``settings``, ``result`` so far,
``metrics_bytes`` (the size of metrics.jsonl) and ``digest`` (of the tensors, to detect damage). The file is
self-contained: the checkpoints are written again from it if the process was killed between writing two files. Random
streams and the position in the data follow from the seed and the number of steps.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from unrolled.engine.errors import ConfigError, ModelFileError
from unrolled.engine.models.heads.head import Head
from unrolled.engine.storage.atomic_files import write_atomically
from unrolled.engine.storage.checkpoint import METADATA_KEY
from unrolled.engine.storage.json_text import parse_json, to_json
from unrolled.engine.training.result import TrainingResult

RESUME = "resume.safetensors"
RESUME_FORMAT_VERSION = 1
HIDDEN_STATE = "hidden_state"


@dataclass(frozen=True)
class ResumeState:
    """State of a training between two steps.

    Args:
        run: the unique name of the run.
        settings: everything that determines the training, a JSON object of objects.
        result: the result so far, with the hidden state.
        metrics_bytes: size of metrics.jsonl.
        arrays: the trainable's ``training_state``.
    """

    run: str
    settings: dict[str, Any]
    result: TrainingResult
    metrics_bytes: int
    arrays: dict[str, NDArray]


def _digest(tensors: Mapping[str, NDArray]) -> str:
    """Return the SHA-256 of names and contents, in the order of the names."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        digest.update(name.encode())
        digest.update(np.ascontiguousarray(tensors[name]).data)
    return digest.hexdigest()


def save_resume_state(path: Path, state: ResumeState, head: Head) -> None:
    """Write the file; it replaces an earlier one only when it is complete on disk.

    Raises:
        OSError: the disk is full, or the folder cannot be written.
    """
    assert state.result.state is not None  # set by the first step
    tensors = {**state.arrays, HIDDEN_STATE: np.ascontiguousarray(state.result.state)}
    description = {
        "format_version": RESUME_FORMAT_VERSION,
        "run": state.run,
        "settings": state.settings,
        "result": state.result.to_dict(head),
        "metrics_bytes": state.metrics_bytes,
        "digest": _digest(tensors),
    }
    write_atomically(path, save(tensors, {METADATA_KEY: to_json(description)}))


def recorded_settings(path: Path) -> dict[str, Any]:
    """Return the settings in a resume file, or none if it is missing or damaged, which ``load_resume_state`` reports."""
    try:
        with safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
        settings = parse_json(metadata.get(METADATA_KEY, "null"), str(path)).get("settings")
    except (SafetensorError, OSError, ModelFileError):
        return {}
    return settings if isinstance(settings, dict) else {}


def load_resume_state(path: Path, head: Head) -> ResumeState:
    """Read and check the file.

    Raises:
        ModelFileError: it is damaged, not a resume file, or of another version.
    """
    try:
        with safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
    except (SafetensorError, OSError, TypeError, AttributeError) as error:
        raise ModelFileError(f"{path}: not a readable .safetensors file ({error})") from error
    description = parse_json(metadata.get(METADATA_KEY, "null"), f"{path}: its metadata")
    if description.get("format_version") != RESUME_FORMAT_VERSION:
        raise ModelFileError(
            f"{path}: format {description.get('format_version')!r}; this release goes on from {RESUME_FORMAT_VERSION}"
        )
    if HIDDEN_STATE not in tensors or description.get("digest") != _digest(tensors):
        raise ModelFileError(f"{path}: damaged: the tensors are not those that were saved")
    try:
        run, settings, size = description["run"], description["settings"], description["metrics_bytes"]
        result = TrainingResult.from_dict(description["result"], head)
    except (KeyError, TypeError, ConfigError) as error:
        raise ModelFileError(f"{path}: damaged: its metadata ({error})") from error
    if not (isinstance(run, str) and isinstance(settings, dict) and isinstance(size, int)):
        raise ModelFileError(f"{path}: damaged: its metadata")
    result.state = tensors.pop(HIDDEN_STATE)
    return ResumeState(run, settings, result, size, tensors)
