"""Rows of a file or a batch, with settings of their own, as requests for texts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, replace
from functools import cache
from typing import Any, get_args, get_type_hints

import numpy as np

from unrolled.engine.checks import EXACT_LIMIT
from unrolled.engine.errors import ConfigError, SettingName
from unrolled.engine.models.step_contract import StepModel
from unrolled.engine.storage.json_text import parse_value
from unrolled.runtime.generation.requests.config import GenerationConfig
from unrolled.runtime.generation.requests.prompts import prompt_tokens
from unrolled.runtime.generation.requests.request import Request, resolve

SETTINGS = tuple(field.name for field in fields(GenerationConfig))
# Settings with one value for all rows; the first is part of every row's index.
SHARED_SETTINGS = ("num_return_sequences", "batch_size")
ROW_SETTINGS = tuple(name for name in SETTINGS if name not in SHARED_SETTINGS)
MAX_PROMPT_TOKENS = 1 << 16  # a longer prompt would hold up all the others


def make_config(settings: Mapping[str, Any]) -> GenerationConfig:
    """Return a config of settings by name; ConfigError if one is unknown or out of its range."""
    if unknown := sorted(set(settings) - set(SETTINGS)):
        raise ConfigError(f"no setting {', '.join(unknown)}; there are {', '.join(SETTINGS)}")
    return GenerationConfig(**settings)


@cache
def _types(name: str) -> frozenset[Any]:
    """Return the plain types in a setting's annotation, at any depth."""

    def walk(hint: Any) -> set[Any]:
        return {hint}.union(*map(walk, get_args(hint)))

    return frozenset(walk(get_type_hints(GenerationConfig)[name]))


def parse_cell(name: str, text: str) -> Any:
    """Return a setting from a table's cell: JSON, or the text itself if it is not JSON or the setting holds texts.

    An empty cell is None, which means the setting of all rows. Other programs write True and 5.0.
    """
    if not text.strip():
        return None
    try:
        value = parse_value(text)
    except ValueError:
        value = {"true": True, "false": False}.get(text.strip().lower(), text)
    if str in _types(name) and not isinstance(value, str | list | dict):
        return text
    return plain_value(name, value)


def plain_value(name: str, value: Any) -> Any:
    """Return a setting from a file or an array: None for a missing one, whole numbers as such, lists as tuples."""
    if isinstance(value, np.ndarray | np.generic):
        value = value.tolist()
    if is_missing(value):
        return None
    if not {float, str} & _types(name):
        value = whole_number(value)
    return tuple(value) if isinstance(value, list) else value


def is_missing(value: Any) -> bool:
    """Return whether a value of a table is NaN or a missing value of pandas."""
    try:
        return bool(value != value)
    except TypeError:  # pandas.NA is neither true nor false
        return True


def whole_number(value: Any) -> Any:
    """Return the whole number that a float holds exactly, as in tables with gaps; leave anything else as it is.

    A float from 2⁵³ on may be the rounded form of another number, so it stays a float, which ``check_whole`` refuses.
    """
    if isinstance(value, float) and value.is_integer() and abs(value) < EXACT_LIMIT:
        return int(value)
    return value


def row_config(config: GenerationConfig, overrides: Mapping[str, Any]) -> GenerationConfig:
    """Return the config of a row with settings of its own; None means that a setting is not given.

    Raises:
        ConfigError: a setting is unknown, out of its range, or one of ``SHARED_SETTINGS``.
    """
    if not overrides:
        return config
    if unknown := sorted(set(overrides) - set(SETTINGS)):
        raise ConfigError(
            f"no setting {', '.join(unknown)}; a row can have {', '.join(ROW_SETTINGS)}, "
            "and --keep-columns carries other fields to the results"
        )
    given = {name: plain_value(name, value) for name, value in overrides.items()}
    given = {name: value for name, value in given.items() if value is not None}
    if shared := [name for name in SHARED_SETTINGS if name in given]:
        known = ", ".join(ROW_SETTINGS)
        raise ConfigError(SettingName(shared[0]), f": is the same for all rows; a row can have {known}")
    return replace(config, **given) if given else config


def row_requests(
    model: StepModel,
    prompt: str,
    index: int,
    config: GenerationConfig,
    overrides: Mapping[str, Any],
    max_prompt_tokens: int = MAX_PROMPT_TOKENS,
) -> list[Request]:
    """Return requests for all texts of row ``index``; text j has the index index · num_return_sequences + j.

    ``config`` is the resolved config of all rows.

    Raises:
        UnrolledError: the row cannot be served; the message gives the reason.
    """
    own = row_config(config, overrides)
    if own is not config:
        own = resolve(model, own)
    tokens = prompt_tokens(model.tokenizer, prompt)
    if len(tokens) > max_prompt_tokens:
        raise ConfigError(f"prompt: has {len(tokens):,} tokens, needs at most {max_prompt_tokens:,}")
    first = index * config.num_return_sequences
    return [Request(prompt, tokens, first + j, own) for j in range(config.num_return_sequences)]
