"""Comparison of a resumed run's settings with those it started with: differences that are allowed, and errors for others."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from unrolled.engine.canonical import completed
from unrolled.engine.data.config import DataConfig
from unrolled.engine.errors import ConfigError, SettingName
from unrolled.engine.models.language_model_config import description_of
from unrolled.engine.storage.json_text import parse_json, to_json
from unrolled.engine.training.trainable import Trainable

LIMIT_SETTINGS = ("training.epochs", "training.steps", "training.seconds")


def run_settings(record: Mapping[str, Any], trainable: Trainable) -> dict[str, Any]:
    """Return everything that determines a training: its record, the model and the engine."""
    return {**record, "model": description_of(trainable.spec), "engine": trainable.engine}


def flatten_settings(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested objects as one, whose names are paths with dots."""
    found: dict[str, Any] = {}
    for name, value in values.items():
        nested = isinstance(value, Mapping)
        found.update(flatten_settings(value, f"{prefix}{name}.") if nested else {prefix + name: value})
    return found


def _complete_data(values: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return settings with the data settings that files leave out because their values reproduce 0.1.0."""
    data = values.get("data")
    return {**values, "data": completed(DataConfig, data)} if isinstance(data, Mapping) else values


def match_recorded_settings(record: Mapping[str, Any], before: Mapping[str, Any]) -> dict[str, Any]:
    """Return ``record``, without the settings that 0.1.0 lacks if the run ``before`` was written by 0.1.0."""
    training = dict(record.get("training", {}))
    if "validation_share" not in before.get("training", {}):
        training.pop("validation_share", None)
    return {**record, "training": training}


def check_same_settings(
    before: Mapping[str, Any], now: Mapping[str, Any], depends_on_limit: bool, what: str = "run"
) -> None:
    """Check that a training continues with its original settings; its limits may change.

    Args:
        depends_on_limit: whether the learning rate depends on the completed share of the limit, so that another limit would
            have changed the training from the first step on.
        what: the thing that continues, for the message.

    Raises:
        ConfigError: settings differ; the message lists them.
    """
    old, new = map(flatten_settings, map(_complete_data, (before, parse_json(to_json(now), "settings"))))
    changed = [name for name in {**old, **new} if old.get(name) != new.get(name) and name != "corpus.name"]
    if "corpus.characters" in new and any(name.startswith("corpus.") for name in changed):
        raise ConfigError(
            f"the corpus is not the one that the {what} began with: {old.get('corpus.name')} had "
            f"{old.get('corpus.characters', 0):,} characters, {new['corpus.name']} has {new['corpus.characters']:,}"
            + (", others" if old.get("corpus.characters") == new["corpus.characters"] else "")
        )
    if not depends_on_limit:
        changed = [name for name in changed if name not in LIMIT_SETTINGS]
    if changed:
        parts = [f"a {what} goes on with the settings it began with, but "]
        for name in changed:
            parts += [SettingName(name.rpartition(".")[2]), f" was {old.get(name)}, now {new.get(name)}; "]
        parts += [f"give the earlier ones, or begin a new {what}"]
        if set(changed) & set(LIMIT_SETTINGS):
            parts += [" (the schedule follows the limit; a constant one can be made longer)"]
        raise ConfigError(*parts)
