"""Checks of arguments of the runtime's functions: models, paths and texts."""

from __future__ import annotations

import os
import reprlib
from collections.abc import Iterable, Mapping
from typing import Any, Protocol, cast, runtime_checkable

from unrolled.engine.errors import ConfigError
from unrolled.engine.models.language_model_config import LanguageModelConfig
from unrolled.engine.models.step_contract import StepModel
from unrolled.engine.tokenizers.contract import Tokenizer
from unrolled.runtime.models.pickling import Rebuildable
from unrolled.runtime.models.sequence_model import EngineSequenceModel


@runtime_checkable
class _TextModel(Protocol):
    """The attributes of a model of text."""

    config: LanguageModelConfig
    tokenizer: Tokenizer

    def step(self, tokens: Any, state: Any) -> Any: ...


@runtime_checkable
class _DeclaredModel(_TextModel, Protocol):
    """A model of text that declares what it can do, which generation and scoring need to know."""

    capabilities: frozenset[str]


def shown(value: object) -> str:
    """Return a value for an error message: a shortened literal, or the name of its type."""
    if value is None or isinstance(value, str | bytes | bool | int | float):
        return reprlib.repr(value)
    return f"a {type(value).__name__}"


def check_language_model(model: object) -> StepModel:
    """Return a loaded language model.

    Raises:
        ConfigError: the argument is no loaded model, or one that writes no texts; the message says why.
    """
    if isinstance(model, EngineSequenceModel):
        model.spec.require("generate")
    if isinstance(model, Rebuildable):  # the usual case first: a check against a protocol takes 10 us
        return cast(StepModel, model)
    if isinstance(model, str | os.PathLike):
        raise ConfigError(f"model: got the path {os.fspath(model)!r}, needs a loaded model: load({os.fspath(model)!r})")
    if isinstance(model, _DeclaredModel):
        return cast(StepModel, model)
    if isinstance(model, _TextModel):
        raise ConfigError(
            f"model: got {shown(model)} without capabilities, needs those that it has, e.g. "
            'capabilities = frozenset({"step", "generate"})'
        )
    raise ConfigError(f"model: got {shown(model)}, needs a loaded model, which load(path) returns")


def check_path(path: object) -> None:
    """Raise ConfigError unless the argument is a path."""
    if not isinstance(path, str | os.PathLike):
        raise ConfigError(f"path: got {shown(path)}, needs the path of a file or run folder")


def check_text(name: str, text: object) -> str:
    """Return a text; raise ConfigError if the argument is none."""
    if not isinstance(text, str):
        raise ConfigError(f"{name}: got {shown(text)}, needs one text")
    return str(text)


def take_texts(name: str, texts: Any) -> list[str]:
    """Return one text, or all texts of a list, array, column or iterator, as a list of str.

    Raises:
        ConfigError: the argument has another type, is empty, or contains something that is no text.
    """
    if isinstance(texts, str):
        return [str(texts)]
    refused = bytes | bytearray | memoryview | Mapping | set | frozenset | os.PathLike
    if isinstance(texts, refused) or not isinstance(texts, Iterable):
        raise ConfigError(f"{name}: got {shown(texts)}, needs a text or several in order, such as a list")
    try:
        found = list(texts)
    except TypeError as error:  # an array without an axis
        raise ConfigError(f"{name}: got {shown(texts)} that has no items, needs a text or several in order") from error
    if not found:
        raise ConfigError(f"{name}: got none, needs at least one")
    for place, text in enumerate(found):
        if not isinstance(text, str):
            raise ConfigError(f"{name}: got {shown(text)} at {place}, needs texts")
    return list(map(str, found))
