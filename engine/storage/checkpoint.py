"""Checkpoints: a trained model as one .safetensors file with weights, config, tokeniser and training record, without pickle.

The file's metadata has one key, ``unrolled``: a JSON object with ``format_version``, ``config``, ``tokenizer``,
``training`` and ``digest`` (of everything except the training record, to detect damage). There is only one key because
safetensors writes several in random order, and equal models should give equal files. Tensors have PyTorch's names and shapes.
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
from unrolled.engine.models.language_model_config import LanguageModelConfig
from unrolled.engine.models.parameters import Params, check_file_size, check_params
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
    """A model with its tokeniser and training record; ``training`` is any JSON object."""

    config: LanguageModelConfig
    params: Params
    tokenizer: Tokenizer
    training: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if len(self.tokenizer.vocabulary) != self.config.vocab_size:
            raise ModelFileError(
                f"the tokeniser has {len(self.tokenizer.vocabulary)} tokens, the model {self.config.vocab_size}"
            )

    def float32(self) -> Params:
        """Return the parameters in float32, the dtype of all runtimes and files."""
        return {name: value.astype(np.float32, copy=False) for name, value in self.params.items()}

    @property
    def digest(self) -> str:
        """Return the digest of the model, without its training record."""
        return model_digest(self.config, self.tokenizer, self.params)


def model_digest(config: LanguageModelConfig, tokenizer: Tokenizer, params: Params) -> str:
    """Return the SHA-256 of everything that determines a model's output, with the weights in float32."""
    digest = hashlib.sha256(json.dumps([config.to_dict(), tokenizer.to_dict()], sort_keys=True).encode())
    for name in sorted(params):
        digest.update(name.encode())
        digest.update(np.ascontiguousarray(params[name], np.float32).tobytes())
    return digest.hexdigest()


def save_checkpoint(path: str | Path, checkpoint: Checkpoint) -> None:
    """Write a checkpoint; an existing file is replaced only once the new one is complete on the disk.

    Raises:
        ModelFileError: the parameters do not match the config, or are NaN or infinite.
        OSError: the disk is full, or the folder is not writable.
    """
    check_params(checkpoint.config.spec, checkpoint.params, str(path))
    metadata = {
        "format_version": CHECKPOINT_FORMAT,
        "config": checkpoint.config.to_dict(),
        "tokenizer": checkpoint.tokenizer.to_dict(),
        "training": checkpoint.training,
        "digest": checkpoint.digest,
    }
    tensors = {name: np.ascontiguousarray(value) for name, value in checkpoint.params.items()}
    write_atomically(Path(path), save(tensors, {METADATA_KEY: to_json(metadata)}))


def resolve_model_file(path: str | os.PathLike[str]) -> Path:
    """Return the model file that ``path`` refers to: itself, or the best checkpoint of a run folder.

    Raises:
        ModelFileError: there is no such file.
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
    """Read and fully check a checkpoint, or the best one of a run folder.

    Raises:
        ModelFileError: the file is missing, truncated, no checkpoint or of another version, or its parameters are missing,
            misshapen, NaN or infinite.
    """
    path = resolve_model_file(path)
    try:
        # safetensors checks the header against the size of the file before it allocates memory.
        with safe_open(path, framework="numpy") as file:
            metadata = _checked_metadata(path, file.metadata() or {})
            params = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - file is no mapping
    except (SafetensorError, OSError, TypeError, AttributeError) as error:  # the last two for dtypes that NumPy lacks
        raise ModelFileError(f"{path}: not a readable {CHECKPOINT_SUFFIX} file ({error})") from error
    try:
        config = LanguageModelConfig.from_dict(metadata["config"])
        check_file_size(config.spec, path.stat().st_size)
        tokenizer = tokenizer_from_dict(metadata["tokenizer"])
        check_params(config.spec, params)
        checkpoint = Checkpoint(config, params, tokenizer, metadata["training"])
        if checkpoint.digest != metadata.get("digest"):
            raise ModelFileError("damaged: weights, config or tokenizer are not those that were saved")
        return checkpoint
    except (ConfigError, ModelFileError) as error:
        raise ModelFileError(f"{path}: {error}") from error


def _checked_metadata(path: Path, metadata: dict[str, str]) -> dict[str, Any]:
    """Return the parsed metadata of a file after checking its version and parts."""
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
