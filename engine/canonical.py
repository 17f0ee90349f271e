"""The canonical form of settings: what files hold and digests cover, whatever later releases add.

Files of 0.1.0 hold every setting of that release. A setting that came later is written, and counts in a digest, only where
its value differs from the one that reproduces 0.1.0. That value is fixed for ever in ``LATER``, even if the default of new
models changes. So an old file keeps its digest, and what 0.1.0 could express is still written as 0.1.0 wrote it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any

# by class, the settings added after 0.1.0: each with the value that files without it mean
LATER: dict[str, dict[str, Any]] = {
    "TrainingConfig": {"validation_share": None},
    "TrainingResult": {"validation_tokens": 0},
}


def later_settings(owner: type) -> dict[str, Any]:
    """Return the settings of a class that 0.1.0 did not have, with the values that reproduce it."""
    return LATER.get(owner.__name__, {})


def canonical(owner: type, values: Mapping[str, Any]) -> dict[str, Any]:
    """Return ``values`` without those later settings of ``owner`` that reproduce 0.1.0."""
    later = later_settings(owner)
    return {name: value for name, value in values.items() if name not in later or value != later[name]}


def completed(owner: type, values: Mapping[str, Any]) -> dict[str, Any]:
    """Return ``values`` of a file with the later settings of ``owner`` that are missing; the inverse of ``canonical``."""
    return {**later_settings(owner), **values}


def canonical_settings(settings: Any) -> dict[str, Any]:
    """Return the canonical form of a dataclass, those inside it included."""
    values = {field.name: getattr(settings, field.name) for field in fields(settings)}
    plain = {name: canonical_settings(value) if is_dataclass(value) else value for name, value in values.items()}
    return canonical(type(settings), plain)
