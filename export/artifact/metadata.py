"""Metadata of every exported file: one set of texts, with the same keys and values in every format.

ONNX keeps them as ``metadata_props``, TorchScript as the JSON object in the extra file ``unrolled.json``.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import metadata as package_metadata
from typing import Any, NamedTuple

from unrolled.engine.canonical import canonical, completed
from unrolled.engine.checks import check_choice
from unrolled.engine.errors import ConfigError, ModelFileError
from unrolled.engine.models.language_model_config import LanguageModelConfig
from unrolled.engine.models.parameters import check_file_size
from unrolled.engine.storage.checkpoint import Checkpoint
from unrolled.engine.storage.json_text import parse_json, to_json
from unrolled.engine.tokenizers.contract import Tokenizer
from unrolled.engine.tokenizers.registry import tokenizer_from_dict
from unrolled.export.artifact.golden_cases import check_golden
from unrolled.export.artifact.weight_storage import FLOAT32_STORAGE, NUMBER_FORMATS, WeightStorage

FORMAT_VERSION = "1"
PREFIX = "unrolled."
KEYS = (
    "format_version",
    "producer",
    "config",
    "tokenizer",
    "state",
    "training",
    "checkpoint_digest",
    "golden",
)
DEFAULTS = {"form": "step", "sampling": "1"}  # of keys added after the first release, as was "weights"
SAMPLING_VERSION = "1"

Axes = tuple[str | None, ...]


class Form(NamedTuple):
    """Inputs and outputs of a graph by name; for each axis its name if it is dynamic, else None."""

    inputs: dict[str, Axes]
    outputs: dict[str, Axes]


# Frozen, because hosts rely on them.
STEP_INPUTS: dict[str, Axes] = {"tokens": ("time", "batch"), "state": (None, None, "batch", None)}
STEP_OUTPUTS: dict[str, Axes] = {"logits": ("time", "batch", None), "next_state": (None, None, "batch", None)}
GENERATE_INPUTS: dict[str, Axes] = {
    **STEP_INPUTS,
    "lengths": ("batch",),
    "uniforms": ("steps", "batch"),
    **dict.fromkeys(("temperature", "top_k", "top_p", "end_token"), ()),
}
GENERATE_OUTPUTS: dict[str, Axes] = {"written": ("written", "batch"), "final_state": (None, None, "batch", None)}
FORMS = {
    "step": Form(STEP_INPUTS, STEP_OUTPUTS),
    "generate": Form(GENERATE_INPUTS, GENERATE_OUTPUTS),
    "both": Form(GENERATE_INPUTS, STEP_OUTPUTS | GENERATE_OUTPUTS),
}


class FileInfo(NamedTuple):
    """The parsed metadata of an exported file."""

    form: str
    weights: WeightStorage
    config: LanguageModelConfig
    tokenizer: Tokenizer
    training: dict[str, Any]
    checkpoint_digest: str
    golden: list[dict[str, Any]]


def producer() -> str:
    """Return name and version of the package that writes the file."""
    return f"unrolled {package_metadata.version('unrolled')}"


def _state(config: LanguageModelConfig) -> dict[str, Any]:
    """Return the description of the state array for hosts."""
    return {
        "input": "state",
        "output": "next_state",
        "axes": ["states", "layers", "batch", "hidden"],
        "shape": [config.cell_definition.states, config.num_layers, None, config.hidden_size],
        "initial": "zeros",
        "index_0": "h",
    }


def file_metadata(
    checkpoint: Checkpoint, form: str, weights: WeightStorage, golden: list[dict[str, Any]]
) -> dict[str, str]:  # fmt: skip
    """Return the values of all keys, prefixed, each a text or JSON."""
    config = checkpoint.config
    values = {
        "format_version": FORMAT_VERSION,
        "form": form,
        "sampling": SAMPLING_VERSION,
        "weights": to_json(canonical(WeightStorage, weights._asdict())),
        "producer": producer(),
        "config": to_json(config.to_dict()),
        "tokenizer": to_json(checkpoint.tokenizer.to_dict()),
        "state": to_json(_state(config)),
        "training": to_json(checkpoint.training),
        "checkpoint_digest": checkpoint.digest,
        "golden": to_json(golden),
    }
    return {PREFIX + key: value for key, value in values.items()}


def _parse_weights(text: str | None, checkpoint_digest: str) -> WeightStorage:
    """Return the storage of a file's weights; a file without that key holds the checkpoint's unchanged."""
    if text is None:
        return FLOAT32_STORAGE._replace(digest=checkpoint_digest)
    values = completed(WeightStorage, parse_json(text, "weights"))
    wanted = {"storage": str, "quantized": bool, "digest": str, "tolerance": float}
    if {name: type(value) for name, value in values.items()} != wanted:
        raise ModelFileError(f"weights: needs {', '.join(wanted)}, each of its kind")
    weights = WeightStorage(**values)
    check_choice("weights", weights.storage, NUMBER_FORMATS)
    if weights.storage == FLOAT32_STORAGE.storage and weights.digest != checkpoint_digest:
        raise ModelFileError("checkpoint_digest: is not that of the weights")
    if not 0 < weights.tolerance <= 1:
        raise ModelFileError(f"weights: tolerance is {weights.tolerance}")
    return weights


def parse_metadata(metadata: Mapping[str, str], where: str, size: int | None = None) -> FileInfo:
    """Return the parsed metadata of a file of ``size`` bytes; the inverse of ``file_metadata``.

    Raises:
        ModelFileError: not an exported file of this package, one of another version, or damaged.
    """
    if PREFIX + "format_version" not in metadata:
        raise ModelFileError(
            f"{where}: not one of unrolled's exported files; its metadata has no {PREFIX}format_version"
        )
    version = metadata[PREFIX + "format_version"]
    if version != FORMAT_VERSION:
        raise ModelFileError(f"{where}: export format {version!r}; this release reads {FORMAT_VERSION}")
    if missing := [PREFIX + key for key in KEYS if PREFIX + key not in metadata]:
        raise ModelFileError(f"{where}: its metadata has no {', '.join(missing)}")
    form, sampling = (metadata.get(PREFIX + key, value) for key, value in DEFAULTS.items())
    if sampling != SAMPLING_VERSION:
        raise ModelFileError(f"{where}: sampling rules {sampling!r}; this release follows {SAMPLING_VERSION}")
    try:
        check_choice("form", form, FORMS)
        weights = _parse_weights(metadata.get(PREFIX + "weights"), metadata[PREFIX + "checkpoint_digest"])
        config = LanguageModelConfig.from_dict(parse_json(metadata[PREFIX + "config"], "config"))
        if size is not None:
            check_file_size(config.spec, size, NUMBER_FORMATS[weights.storage].item_bytes)
        stated = parse_json(metadata[PREFIX + "state"], "state")
        for key, value in _state(config).items():
            if stated.get(key) != value:
                raise ModelFileError(f"state has {key} {stated.get(key)}, the config asks for {value}")
        tokenizer = tokenizer_from_dict(parse_json(metadata[PREFIX + "tokenizer"], "tokenizer"))
        training = parse_json(metadata[PREFIX + "training"], "training")
        golden = parse_json('{"cases": ' + metadata[PREFIX + "golden"] + "}", "golden")["cases"]
        check_golden(golden, config.vocab_size)
    except (ConfigError, ModelFileError) as error:
        raise ModelFileError(f"{where}: {error}") from error
    if len(tokenizer.vocabulary) != config.vocab_size:
        raise ModelFileError(
            f"{where}: the tokeniser has {len(tokenizer.vocabulary)} tokens, the model {config.vocab_size}"
        )
    return FileInfo(form, weights, config, tokenizer, training, metadata[PREFIX + "checkpoint_digest"], golden)
