"""A trained model as one .safetensors file: weights, config, tokeniser and training record; atomic, without pickle.

The file's metadata has one key, ``unrolled``: a JSON object of ``format_version``, ``config``, ``tokenizer``,
``training`` and ``digest`` (of all but the training record, so that damage shows). One key, because safetensors writes
several in random order, and equal models should be equal files. The tensors have PyTorch's names and shapes.
"""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from unrolled.engine.errors import ConfigError, ModelFileError
from unrolled.engine.models.config import ModelConfig
from unrolled.engine.models.parameters import Params, check_params, check_room
from unrolled.engine.storage.atomic_files import write_atomically
from unrolled.engine.storage.json_text import parse_json, to_json
from unrolled.engine.tokenizers.contract import Tokenizer
from unrolled.engine.tokenizers.registry import tokenizer_from_dict

METADATA_KEY = "unrolled"
CHECKPOINT_FORMAT = 1
CHECKPOINT_SUFFIX = ".safetensors"
BEST_CHECKPOINT, LAST_CHECKPOINT = "best" + CHECKPOINT_SUFFIX, "last" + CHECKPOINT_SUFFIX


@dataclass(frozen=True)
class Checkpoint:
    """A model with its vocabulary and how it came about; ``training`` is any JSON object."""

    config: ModelConfig
    params: Params
    tokenizer: Tokenizer
    training: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if len(self.tokenizer.vocabulary) != self.config.vocab_size:
            raise ModelFileError(
                f"the tokeniser has {len(self.tokenizer.vocabulary)} tokens, the model {self.config.vocab_size}"
            )

    def float32(self) -> Params:
        """The parameters in float32, as every runtime and file has them."""
        return {name: value.astype(np.float32, copy=False) for name, value in self.params.items()}

    @property
    def digest(self) -> str:
        return model_digest(self.config, self.tokenizer, self.params)


def model_digest(config: ModelConfig, tokenizer: Tokenizer, params: Params) -> str:
    """SHA-256 over everything that decides what a model writes, with the weights in float32."""
    digest = hashlib.sha256(json.dumps([config.to_dict(), tokenizer.to_dict()], sort_keys=True).encode())
    for name in sorted(params):
        digest.update(name.encode())
        digest.update(np.ascontiguousarray(params[name], np.float32).tobytes())
    return digest.hexdigest()


def save_checkpoint(path: str | Path, checkpoint: Checkpoint) -> None:
    """Write a checkpoint; an earlier one of the same name is replaced only when the new one is whole on the disk.

    Raises:
        ModelFileError: the parameters do not fit the config, or are NaN or infinite.
        OSError: the disk is full, or the folder cannot be written.
    """
    check_params(checkpoint.config, checkpoint.params, str(path))
    described = {
        "format_version": CHECKPOINT_FORMAT,
        "config": checkpoint.config.to_dict(),
        "tokenizer": checkpoint.tokenizer.to_dict(),
        "training": checkpoint.training,
        "digest": checkpoint.digest,
    }
    tensors = {name: np.ascontiguousarray(value) for name, value in checkpoint.params.items()}
    write_atomically(Path(path), save(tensors, {METADATA_KEY: to_json(described)}))


def resolve_model_file(path: str | os.PathLike[str]) -> Path:
    """The model file that ``path`` means: itself, or a run folder's best checkpoint.

    Raises:
        ModelFileError: there is none.
    """
    path = Path(path)
    if not path.exists():
        raise ModelFileError(f"{path}: no such file or folder")
    if path.is_file():
        return path
    for name in (BEST_CHECKPOINT, LAST_CHECKPOINT):
        if (path / name).is_file():
            return path / name
    raise ModelFileError(f"{path}: is no run folder; neither {BEST_CHECKPOINT} nor {LAST_CHECKPOINT} is in it")


def load_checkpoint(path: str | Path) -> Checkpoint:
    """Read a checkpoint, or the best one of a run folder, and check all of it.

    Raises:
        ModelFileError: missing, truncated, not a checkpoint, of another version, or with parameters that are missing,
            misshapen, NaN or infinite.
    """
    path = resolve_model_file(path)
    try:
        # the header is checked against the file's size before anything is allocated
        with safe_open(path, framework="numpy") as file:
            described = _described(path, file.metadata() or {})
            params = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
    except (SafetensorError, OSError, TypeError, AttributeError) as error:  # the last two of dtypes that NumPy has not
        raise ModelFileError(f"{path}: not a readable {CHECKPOINT_SUFFIX} file ({error})") from error
    try:
        config = ModelConfig.from_dict(described["config"])
        check_room(config, path.stat().st_size)
        tokenizer = tokenizer_from_dict(described["tokenizer"])
        check_params(config, params)
        checkpoint = Checkpoint(config, params, tokenizer, described["training"])
        if checkpoint.digest != described.get("digest"):
            raise ModelFileError("damaged: weights, config or tokenizer are not those that were saved")
        return checkpoint
    except (ConfigError, ModelFileError) as error:
        raise ModelFileError(f"{path}: {error}") from error


def _described(path: Path, metadata: dict[str, str]) -> dict[str, Any]:
    """What the file says of itself, of a version that can be read and with all its parts."""
    if METADATA_KEY not in metadata:
        raise ModelFileError(f"{path}: a {CHECKPOINT_SUFFIX} file, but not one of unrolled's checkpoints")
    values = parse_json(metadata[METADATA_KEY], f"{path}: its metadata")
    if values.get("format_version") != CHECKPOINT_FORMAT:
        raise ModelFileError(
            f"{path}: checkpoint format {values.get('format_version')!r}; this release reads {CHECKPOINT_FORMAT}"
        )
    for part in ("config", "tokenizer", "training"):
        if not isinstance(values.get(part), dict):
            raise ModelFileError(f"{path}: its metadata has no {part}")
    return values
