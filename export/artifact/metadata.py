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
from unrolled.engine.models.spec import ModelSpec
from unrolled.engine.storage.checkpoint import Checkpoint
from unrolled.engine.storage.description import PARTS, ModelDescription
from unrolled.engine.storage.json_text import parse_json, to_json
from unrolled.engine.tokenizers.contract import Tokenizer
from unrolled.export.artifact.forms import FORMS, RUN, describe_signature, describe_state, forms_of
from unrolled.export.artifact.golden_cases import check_golden
from unrolled.export.artifact.golden_runs import check_golden_runs
from unrolled.export.artifact.weight_storage import FLOAT32_STORAGE, NUMBER_FORMATS, WeightStorage

PREFIX = "unrolled."
KEYS: dict[int, tuple[str, ...]] = {
    version: ("format_version", "producer", *parts, "state", "training", "checkpoint_digest", "golden")
    for version, parts in PARTS.items()
}
KEYS[2] += ("form", "weights", "task", "inputs", "outputs")
DEFAULTS = {"form": "step", "sampling": "1"}  # of keys added after the first release, as was "weights"
SAMPLING_VERSION = "1"


class FileInfo(NamedTuple):
    """The parsed metadata of an exported file."""

    form: str
    weights: WeightStorage
    description: ModelDescription
    training: dict[str, Any]
    checkpoint_digest: str
    golden: list[dict[str, Any]]

    @property
    def spec(self) -> ModelSpec:
        """Return the model's inputs, core and head."""
        return self.description.spec

    @property
    def config(self) -> LanguageModelConfig:
        """Return the settings of a language model; a ConfigError for another model."""
        return self.description.config

    @property
    def tokenizer(self) -> Tokenizer:
        """Return the tokeniser of a language model; a ConfigError for another model."""
        return self.description.tokenizer


def producer() -> str:
    """Return name and version of the package that writes the file."""
    return f"unrolled {package_metadata.version('unrolled')}"


def file_metadata(
    checkpoint: Checkpoint, form: str, weights: WeightStorage, golden: list[dict[str, Any]]
) -> dict[str, str]:  # fmt: skip
    """Return the values of all keys, prefixed, each a text or JSON."""
    spec, description = checkpoint.spec, checkpoint.description
    version = description.format_version
    values: dict[str, Any] = {"format_version": str(version), "form": form}
    if "generate" in spec.capabilities:
        values["sampling"] = SAMPLING_VERSION
    values["weights"] = canonical(WeightStorage, weights._asdict())
    values["producer"] = producer()
    values |= description.to_dict()
    if version > 1:
        values |= {"task": spec.head.kind, **describe_signature(form, spec)}
    values |= {
        "state": describe_state(form, spec, version),
        "training": checkpoint.training,
        "checkpoint_digest": checkpoint.digest,
        "golden": golden,
    }
    return {PREFIX + key: value if isinstance(value, str) else to_json(value) for key, value in values.items()}


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
    if version not in map(str, PARTS):
        raise ModelFileError(f"{where}: export format {version!r}; this release reads {' and '.join(map(str, PARTS))}")
    values = {key.removeprefix(PREFIX): value for key, value in metadata.items() if key.startswith(PREFIX)}
    if missing := [PREFIX + key for key in KEYS[int(version)] if key not in values]:
        raise ModelFileError(f"{where}: its metadata has no {', '.join(missing)}")
    values = {**DEFAULTS, **values}
    if values["sampling"] != SAMPLING_VERSION:
        raise ModelFileError(f"{where}: sampling rules {values['sampling']!r}; this release follows {SAMPLING_VERSION}")
    try:
        return _parse_values(int(version), values, size)
    except (ConfigError, ModelFileError) as error:
        raise ModelFileError(f"{where}: {error}") from error


def _parse_values(version: int, values: Mapping[str, str], size: int | None) -> FileInfo:
    """Return the metadata of a format from its texts, of which none is missing."""
    form = values["form"]
    check_choice("form", form, (*FORMS, RUN))
    weights = _parse_weights(values.get("weights"), values["checkpoint_digest"])
    described = {part: parse_json(values[part], part) for part in PARTS[version]}

    def check(spec: ModelSpec) -> None:
        if size is not None:
            check_file_size(spec, size, NUMBER_FORMATS[weights.storage].item_bytes)

    description = ModelDescription.from_dict(version, described, check)
    spec = description.spec
    check_choice("form", form, forms_of(spec))
    stated = parse_json(values["state"], "state")
    for key, value in describe_state(form, spec, version).items():
        if key not in stated or stated[key] != value:
            got = f"has {key} {stated[key]}" if key in stated else f"has no {key}"
            raise ModelFileError(f"state {got}, the {PARTS[version][0]} asks for {value}")
    if version > 1:
        _check_signature(values, form, spec)
    training = parse_json(values["training"], "training")
    golden = _parse_list(values["golden"], "golden")
    if form == RUN:
        check_golden_runs(golden, spec)
    else:
        check_golden(golden, description.config.vocab_size)
    return FileInfo(form, weights, description, training, values["checkpoint_digest"], golden)


def _check_signature(values: Mapping[str, str], form: str, spec: ModelSpec) -> None:
    """Check what a file says of its task, inputs and outputs, which the spec determines.

    Raises:
        ModelFileError: something else.
    """
    if values["task"] != spec.head.kind:
        raise ModelFileError(f"task is {values['task'][:100]!r}, the head of the spec is {spec.head.kind}")
    for key, wanted in describe_signature(form, spec).items():
        if _parse_list(values[key], key) != wanted:
            raise ModelFileError(f"{key} are not those that form {form} of the spec has: {to_json(wanted)}")


def _parse_list(text: str, what: str) -> list[Any]:
    """Return a JSON list; a ModelFileError names ``what``."""
    found = parse_json(f'{{"list": {text}}}', what)["list"]
    if not isinstance(found, list):
        raise ModelFileError(f"{what} is a JSON {type(found).__name__}, needs a list")
    return found
