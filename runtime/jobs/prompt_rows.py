"""Rows of a prompt file: the id, prompt and settings of each, or the reason why it cannot be read."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

from unrolled.runtime.generation.requests.row_settings import ROW_SETTINGS, SHARED_SETTINGS

KNOWN_COLUMNS = ("id", "prompt", *ROW_SETTINGS)
RESULT_KEYS = ("id", "sample", "prompt", "text", "finish_reason", "tokens", "token_ids", "logprobs", "line", "error")

RowId = str | int | float


@dataclass(frozen=True, slots=True)
class PromptRow:
    """A prompt with its settings."""

    index: int  # position of the row in the file, from 0, bad rows counted
    line: int  # line in which it begins, from 1
    id: RowId
    prompt: str
    overrides: dict[str, Any]
    kept: dict[str, Any] = field(default_factory=dict)  # columns that are carried to the results


@dataclass(frozen=True, slots=True)
class BadRow:
    """A row that cannot be read, with the reason in ``error``."""

    index: int
    line: int
    id: RowId
    error: str
    kept: dict[str, Any] = field(default_factory=dict)


InputRow = PromptRow | BadRow


def split_columns(values: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the values that are id, prompt or a setting, and all others."""
    kept = {name: value for name, value in values.items() if name not in KNOWN_COLUMNS and name not in SHARED_SETTINGS}
    return {name: value for name, value in values.items() if name not in kept}, kept


def make_row(index: int, line: int, values: dict[str, Any], kept: dict[str, Any]) -> InputRow:
    """Return the row of named values: ``id``, ``prompt``, and settings under all other names."""
    null = values.get("prompt", "") is None
    name, prompt = values.pop("id", None), values.pop("prompt", None)
    if name is None:
        name = index
    if not isinstance(name, RowId) or isinstance(name, bool) or (isinstance(name, float) and not math.isfinite(name)):
        return BadRow(index, line, index, f"id: got {name!r}, needs a text or a number", kept)
    if null:
        return BadRow(index, line, name, "no prompt: got null, needs a text", kept)
    if prompt is None:
        there = ", ".join([*values, *kept]) or "nothing else"
        return BadRow(index, line, name, f"no prompt; there is {there}", kept)
    if not isinstance(prompt, str):
        return BadRow(index, line, name, f"prompt: got a {type(prompt).__name__}, needs a text", kept)
    return PromptRow(index, line, name, prompt, values, kept)
