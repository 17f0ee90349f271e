"""What a training needs to go on as if it had never stopped, in one file beside its checkpoints.

``resume.safetensors`` holds weights, moments and hidden state as tensors, and in its metadata, under the key
``unrolled``, a JSON object: ``format_version``, ``run`` (a name drawn for each run), ``settings``, ``result`` so far,
``metrics_bytes`` (how long metrics.jsonl was) and ``digest`` (of the tensors, so that damage shows). It is whole in
itself: the checkpoints are made again from it where a kill came between the writing of two files. Random streams and
the place in the data follow from the seed and the number of steps.
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
from unrolled.engine.storage.atomic_files import write_atomically
from unrolled.engine.storage.checkpoint import METADATA_KEY
from unrolled.engine.storage.json_text import parse_json, to_json
from unrolled.engine.training.result import TrainingResult
from unrolled.engine.training.trainable import Trainable

RESUME = "resume.safetensors"
FORMAT_VERSION = 1
HIDDEN = "hidden_state"
LIMITS = ("training.epochs", "training.steps", "training.seconds")


@dataclass(frozen=True)
class ResumeState:
    """A training between two steps.

    Args:
        run: the run's name, which no other has.
        settings: all that decides the training, a JSON object of objects.
        result: so far, with the hidden state.
        metrics_bytes: size of metrics.jsonl.
        arrays: the trainable's ``training_state``.
    """

    run: str
    settings: dict[str, Any]
    result: TrainingResult
    metrics_bytes: int
    arrays: dict[str, NDArray]


def settings_of(record: Mapping[str, Any], trainable: Trainable) -> dict[str, Any]:
    """All that decides a training: its record, the model and the engine."""
    return {**record, "model": trainable.config.to_dict(), "engine": trainable.engine}


def _digest(tensors: Mapping[str, NDArray]) -> str:
    digest = hashlib.sha256()
    for name in sorted(tensors):
        digest.update(name.encode())
        digest.update(np.ascontiguousarray(tensors[name]).data)
    return digest.hexdigest()


def save_resume_state(path: Path, state: ResumeState) -> None:
    """Write the file; the earlier one is replaced only when this one is whole on the disk.

    Raises:
        OSError: the disk is full, or the folder cannot be written.
    """
    assert state.result.state is not None  # there is one from the first step on
    tensors = {**state.arrays, HIDDEN: np.ascontiguousarray(state.result.state)}
    described = {
        "format_version": FORMAT_VERSION,
        "run": state.run,
        "settings": state.settings,
        "result": state.result.to_dict(),
        "metrics_bytes": state.metrics_bytes,
        "digest": _digest(tensors),
    }
    write_atomically(path, save(tensors, {METADATA_KEY: to_json(described)}))


def load_resume_state(path: Path) -> ResumeState:
    """Read the file and check all of it.

    Raises:
        ModelFileError: it is damaged, from elsewhere, or of another version.
    """
    try:
        with safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
    except (SafetensorError, OSError, TypeError, AttributeError) as error:
        raise ModelFileError(f"{path}: not a readable .safetensors file ({error})") from error
    described = parse_json(metadata.get(METADATA_KEY, "null"), f"{path}: its metadata")
    if described.get("format_version") != FORMAT_VERSION:
        raise ModelFileError(
            f"{path}: format {described.get('format_version')!r}; this release goes on from {FORMAT_VERSION}"
        )
    if HIDDEN not in tensors or described.get("digest") != _digest(tensors):
        raise ModelFileError(f"{path}: damaged: the tensors are not those that were saved")
    try:
        run, settings, size = described["run"], described["settings"], described["metrics_bytes"]
        result = TrainingResult.from_dict(described["result"])
    except (KeyError, TypeError, ConfigError) as error:
        raise ModelFileError(f"{path}: damaged: its metadata ({error})") from error
    if not (isinstance(run, str) and isinstance(settings, dict) and isinstance(size, int)):
        raise ModelFileError(f"{path}: damaged: its metadata")
    result.state = tensors.pop(HIDDEN)
    return ResumeState(run, settings, result, size, tensors)


def flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Objects inside objects as one, with dots in its names."""
    found: dict[str, Any] = {}
    for name, value in values.items():
        found.update(flat(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {prefix + name: value})
    return found


def as_recorded(record: Mapping[str, Any], before: Mapping[str, Any]) -> dict[str, Any]:
    """Return ``record`` without the settings that 0.1.0 did not have, where the run ``before`` is one of its runs."""
    training = dict(record.get("training", {}))
    if "validation_share" not in before.get("training", {}):
        training.pop("validation_share", None)
    return {**record, "training": training}


def check_same(before: Mapping[str, Any], now: Mapping[str, Any], follows_limit: bool, what: str = "run") -> None:
    """Check that a training goes on with the settings it began with; its limits may be others.

    Args:
        follows_limit: whether the learning rate follows the share of the limit that is done, so that another limit
            would have been another training from the first step on.
        what: that goes on, for the message.

    Raises:
        ConfigError: says what differs.
    """
    old, new = flat(before), flat(parse_json(to_json(now), "settings"))
    changed = [name for name in {**old, **new} if old.get(name) != new.get(name) and name != "corpus.name"]
    if any(name.startswith("corpus.") for name in changed):
        raise ConfigError(
            f"the corpus is not the one that the {what} began with: {old.get('corpus.name')} had "
            f"{old.get('corpus.characters', 0):,} characters, {new['corpus.name']} has {new['corpus.characters']:,}"
            + (", others" if old.get("corpus.characters") == new["corpus.characters"] else "")
        )
    if not follows_limit:
        changed = [name for name in changed if name not in LIMITS]
    if changed:
        listed = "; ".join(f"{name.rpartition('.')[2]} was {old.get(name)}, now {new.get(name)}" for name in changed)
        message = f"a {what} goes on with the settings it began with, but {listed}"
        message += f"; give the earlier ones, or begin a new {what}"
        if set(changed) & set(LIMITS):
            message += " (the schedule follows the limit; a constant one can be made longer)"
        raise ConfigError(message)
