"""Checkpoints: a trained model as one .safetensors file with weights, description and training record, without pickle.

The file's metadata has one key, ``unrolled``: a JSON object with ``format_version``, the two parts of the description
(``config`` and ``tokenizer`` in format 1, ``spec`` and ``preprocessing`` in format 2), ``training`` and ``digest`` (of
everything except the training record, to detect damage). There is only one key because safetensors writes several in random
order, and equal models should give equal files. Tensors have PyTorch's names and shapes.
"""

from __future__ import annotations

import functools
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from unrolled.engine.errors import ConfigError, ModelFileError
from unrolled.engine.models.language_model_config import LanguageModelConfig
from unrolled.engine.models.parameters import Params, check_file_size, check_params
from unrolled.engine.models.spec import ModelSpec
from unrolled.engine.storage.atomic_files import write_atomically
from unrolled.engine.storage.description import PARTS, ModelDescription, Preprocessing, text_preprocessing
from unrolled.engine.storage.json_text import parse_json, to_json
from unrolled.engine.tokenizers.contract import Tokenizer

METADATA_KEY = "unrolled"
CHECKPOINT_SUFFIX = ".safetensors"
BEST_CHECKPOINT, LAST_CHECKPOINT = "best" + CHECKPOINT_SUFFIX, "last" + CHECKPOINT_SUFFIX


@dataclass(frozen=True)
class Checkpoint:
    """A model with the preprocessing of its inputs and its training record; ``training`` is any JSON object.

    Raises:
        ModelFileError: spec and preprocessing do not go together.
    """

    spec: ModelSpec
    params: Params
    preprocessing: Preprocessing
    training: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        _ = self.description  # checks what goes together

    @classmethod
    def of_language_model(
        cls,
        config: LanguageModelConfig,
        params: Params,
        tokenizer: Tokenizer,
        training: dict[str, Any] | None = None,
    ) -> Self:
        """Return the checkpoint of a language model."""
        return cls(config.spec, params, text_preprocessing(tokenizer), {} if training is None else training)

    @functools.cached_property
    def description(self) -> ModelDescription:
        """Return the model without its weights."""
        return ModelDescription(self.spec, self.preprocessing)

    @property
    def config(self) -> LanguageModelConfig:
        """Return the settings of a language model; a ConfigError for another model."""
        return self.description.config

    @property
    def tokenizer(self) -> Tokenizer:
        """Return the tokeniser of a language model; a ConfigError for another model."""
        return self.description.tokenizer

    def float32(self) -> Params:
        """Return the parameters in float32, the dtype of all runtimes and files."""
        return {name: value.astype(np.float32, copy=False) for name, value in self.params.items()}

    @property
    def digest(self) -> str:
        """Return the digest of the model, without its training record."""
        return self.description.digest(self.params)


def save_checkpoint(path: str | Path, checkpoint: Checkpoint) -> None:
    """Write a checkpoint; an existing file is replaced only once the new one is complete on the disk.

    Raises:
        ModelFileError: the parameters do not match the config, or are NaN or infinite.
        OSError: the disk is full, or the folder is not writable.
    """
    check_params(checkpoint.spec, checkpoint.params, str(path))
    metadata = {
        "format_version": checkpoint.description.format_version,
        **checkpoint.description.to_dict(),
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
        version = metadata["format_version"]
        size = path.stat().st_size
        described = ModelDescription.from_dict(version, metadata, lambda spec: check_file_size(spec, size))
        check_params(described.spec, params)
        checkpoint = Checkpoint(described.spec, params, described.preprocessing, metadata["training"])
        if checkpoint.digest != metadata.get("digest"):
            raise ModelFileError(f"damaged: weights, {' or '.join(PARTS[version])} are not those that were saved")
        return checkpoint
    except (ConfigError, ModelFileError) as error:
        raise ModelFileError(f"{path}: {error}") from error


def _checked_metadata(path: Path, metadata: dict[str, str]) -> dict[str, Any]:
    """Return the parsed metadata of a file after checking its version and parts."""
    if METADATA_KEY not in metadata:
        raise ModelFileError(f"{path}: a {CHECKPOINT_SUFFIX} file, but not one of unrolled's checkpoints")
    values = parse_json(metadata[METADATA_KEY], f"{path}: its metadata")
    version = values.get("format_version")
    if type(version) is not int or version not in PARTS:
        readable = " and ".join(map(str, PARTS))
        raise ModelFileError(f"{path}: checkpoint format {version!r}; this release reads {readable}")
    for part in (*PARTS[version], "training"):
        if not isinstance(values.get(part), dict):
            raise ModelFileError(f"{path}: its metadata has no {part}")
    return values
