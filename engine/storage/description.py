"""Description of a model without its weights, as checkpoints and exported files contain it, in format 1 or 2.

Format 1 is that of release 0.1.0: the settings of a language model and its tokeniser. Format 2 describes every model, by
its spec and the preprocessing of its inputs, and is written only for what format 1 cannot express.
"""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from unrolled.engine.errors import ModelFileError
from unrolled.engine.models.inputs.batch import TOKENS
from unrolled.engine.models.inputs.input import Input
from unrolled.engine.models.language_model_config import LanguageModelConfig, language_model_of
from unrolled.engine.models.parameters import Params
from unrolled.engine.models.spec import ModelSpec
from unrolled.engine.tokenizers.contract import Tokenizer
from unrolled.engine.tokenizers.registry import tokenizer_from_dict

# Names of the two parts of a description in files of each format.
PARTS: dict[int, tuple[str, str]] = {1: ("config", "tokenizer"), 2: ("spec", "preprocessing")}


@dataclass(frozen=True)
class InputPreprocessing:
    """Rules that make the array of one input from raw data, outside the model.

    Args:
        tokenizer: makes ids of text; None: the array is given as it is.
    """

    tokenizer: Tokenizer | None = None

    def check(self, column: Input) -> None:
        """Check that the rules go with an input.

        Raises:
            ModelFileError: they do not.
        """
        if self.tokenizer is None:
            return
        tokens = len(self.tokenizer.vocabulary)
        if column.lookup is None:
            raise ModelFileError(f"preprocessing of {column.name}: a tokenizer makes ids, the input is {column.kind}")
        size = column.parameter_shapes()[column.lookup][0]
        if tokens != size:
            raise ModelFileError(f"the tokeniser has {tokens} tokens, the model {size}")

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON form."""
        return {} if self.tokenizer is None else {"tokenizer": self.tokenizer.to_dict()}

    @classmethod
    def from_dict(cls, values: Any, name: str) -> InputPreprocessing:
        """Return the rules that ``to_dict`` wrote for the input ``name``.

        Raises:
            ModelFileError: a rule is missing, unknown or invalid.
        """
        where = f"preprocessing of {name}"
        if not isinstance(values, dict) or not isinstance(values.get("tokenizer"), dict):
            raise ModelFileError(f"{where}: needs an object with a tokenizer")
        if unknown := sorted(set(values) - {"tokenizer"}):
            raise ModelFileError(f"{where}: {', '.join(unknown)} is not known to this release")
        return cls(tokenizer_from_dict(values["tokenizer"]))


Preprocessing = Mapping[str, InputPreprocessing]  # by the name of the input


def text_preprocessing(tokenizer: Tokenizer) -> dict[str, InputPreprocessing]:
    """Return the preprocessing of a model that reads texts as tokens."""
    return {TOKENS: InputPreprocessing(tokenizer)}


@dataclass(frozen=True)
class ModelDescription:
    """A model without its weights.

    Args:
        spec: its inputs, core and head.
        preprocessing: rules for some of its inputs.

    Raises:
        ModelFileError: the two do not go together.
    """

    spec: ModelSpec
    preprocessing: Preprocessing

    def __post_init__(self) -> None:
        columns = {column.name: column for column in self.spec.inputs}
        for name, rules in self.preprocessing.items():
            if name not in columns:
                raise ModelFileError(f"preprocessing: got {name!r}; the inputs are {', '.join(columns)}")
            rules.check(columns[name])

    @property
    def config(self) -> LanguageModelConfig:
        """Return the settings of a language model.

        Raises:
            ConfigError: the model is another.
        """
        return language_model_of(self.spec)

    @property
    def tokenizer(self) -> Tokenizer:
        """Return the tokeniser of a language model.

        Raises:
            ConfigError: the model is another.
            ModelFileError: it reads token ids of unknown meaning.
        """
        language_model_of(self.spec)
        tokenizer = self._tokenizer
        if tokenizer is None:
            raise ModelFileError("this language model has no tokenizer: it reads and predicts ids only")
        return tokenizer

    @property
    def _tokenizer(self) -> Tokenizer | None:
        return self.preprocessing.get(TOKENS, InputPreprocessing()).tokenizer

    @functools.cached_property
    def format_version(self) -> int:
        """Return 1 if a file of format 1 can contain the model, else 2."""
        tokenizer = self._tokenizer
        if LanguageModelConfig.from_spec(self.spec) is None or tokenizer is None:
            return 2
        return tokenizer.format_version

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON form, canonical in its format, by the names of ``PARTS``."""
        if self.format_version == 1:
            described = [self.config.to_dict(), self.tokenizer.to_dict()]
        else:
            rules = {name: each.to_dict() for name, each in self.preprocessing.items()}
            described = [self.spec.to_dict(), {name: each for name, each in rules.items() if each}]
        return dict(zip(PARTS[self.format_version], described, strict=True))

    @classmethod
    def from_dict(
        cls, version: int, values: Mapping[str, Any], check: Callable[[ModelSpec], None] = lambda spec: None
    ) -> ModelDescription:
        """Return the description that ``to_dict`` wrote to a file of a format.

        Args:
            check: refuses a spec that does not fit the file, by an error, before anything is compared with it.

        Raises:
            ConfigError: the model's settings are invalid.
            ModelFileError: the preprocessing is, or the description belongs in a file of the other format.
        """
        model, rules = (values[part] for part in PARTS[version])
        if version == 1:
            spec = LanguageModelConfig.from_dict(model).spec
            check(spec)
            read = cls(spec, text_preprocessing(tokenizer_from_dict(rules)))
        else:
            if not isinstance(rules, dict):
                raise ModelFileError(f"preprocessing: got a {type(rules).__name__}, needs an object by input")
            spec = ModelSpec.from_dict(model)
            check(spec)
            read = cls(spec, {name: InputPreprocessing.from_dict(each, name) for name, each in rules.items()})
        if read.format_version != version:
            raise ModelFileError(f"this model belongs in a file of format {read.format_version}, not {version}")
        return read

    def digest(self, params: Params) -> str:
        """Return the SHA-256 of everything that determines the model's output, with the weights in float32."""
        described = [self.to_dict()[part] for part in PARTS[self.format_version]]
        digest = hashlib.sha256(json.dumps(described, sort_keys=True).encode())
        for name in sorted(params):
            digest.update(name.encode())
            digest.update(np.ascontiguousarray(params[name], np.float32).tobytes())
        return digest.hexdigest()
