"""The canonical form of settings: what files contain and digests cover, independent of settings that later releases add.

Files of 0.1.0 contain every setting of that release. A setting added later is written, and enters a digest, only if its
value differs from the one that reproduces 0.1.0. That value is fixed for ever in ``LATER``, even if the default for new
models changes. An old file therefore keeps its digest, and settings that 0.1.0 could express are written as 0.1.0 wrote them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any

# Settings added after 0.1.0, by class, each with the value that a file without the setting implies.
LATER: dict[str, dict[str, Any]] = {
    "TrainingConfig": {"validation_share": None},
    "TrainingResult": {"validation_count": 0},
    "DataConfig": {"normalize": "none"},
    "Plan": {"normalize": "none"},
    "CharTokenizer": {"normalize": "none"},
    "WordTokenizer": {"normalize": "none"},
    "BpeTokenizer": {"normalize": "none"},
}


def later_settings(owner: type) -> dict[str, Any]:
    """Return the settings of a class that 0.1.0 lacks, with the values that reproduce 0.1.0."""
    return LATER.get(owner.__name__, {})


def canonical(owner: type, values: Mapping[str, Any]) -> dict[str, Any]:
    """Return ``values`` without the later settings of ``owner`` whose values reproduce 0.1.0."""
    later = later_settings(owner)
    return {name: value for name, value in values.items() if name not in later or value != later[name]}


def completed(owner: type, values: Mapping[str, Any]) -> dict[str, Any]:
    """Return ``values`` of a file with the missing later settings of ``owner`` added; the inverse of ``canonical``."""
    return {**later_settings(owner), **values}


def canonical_settings(settings: Any) -> dict[str, Any]:
    """Return the canonical form of a dataclass and of the dataclasses in its fields."""
    values = {field.name: getattr(settings, field.name) for field in fields(settings)}
    plain = {name: canonical_settings(value) if is_dataclass(value) else value for name, value in values.items()}
    return canonical(type(settings), plain)
