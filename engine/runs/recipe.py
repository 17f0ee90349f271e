"""The settings of a training, as command line and recipes name them, and the experiment that they describe."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from unrolled.engine.data.config import DataConfig
from unrolled.engine.models.dropout import Dropout
from unrolled.engine.models.heads import HEADS
from unrolled.engine.models.heads.next_token import NextTokenHead
from unrolled.engine.models.initializers import InitializerConfig
from unrolled.engine.optimizers.config import OptimizerConfig
from unrolled.engine.optimizers.schedules import DecayConfig
from unrolled.engine.runs.experiment import Experiment, ModelSettings
from unrolled.engine.settings import SettingTable, from_options
from unrolled.engine.training.config import DEFAULT_EPOCHS, TrainingConfig

LIMIT_OPTIONS = ("epochs", "steps", "seconds")


def training_settings(head: str) -> SettingTable:
    """Return all settings that determine the training of a model, except for corpus, engine and precision.

    Args:
        head: a key of ``HEADS``; its settings are among them, those of other heads are not.
    """
    table = SettingTable(
        ModelSettings, HEADS[head], Dropout, InitializerConfig, DataConfig, OptimizerConfig, Experiment, DecayConfig,
        TrainingConfig,
    )  # fmt: skip
    of_heads = {kind: set(SettingTable(group).definitions) for kind, group in HEADS.items()}
    return table.without(set().union(*of_heads.values()) - of_heads[head])


TRAINING_SETTINGS = training_settings(NextTokenHead.kind)  # of a language model


def with_default_limit(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return ``options``, with ``DEFAULT_EPOCHS`` if they set no limit."""
    if all(options.get(name) is None for name in LIMIT_OPTIONS):
        return {**options, "epochs": DEFAULT_EPOCHS}
    return dict(options)


def make_experiment(options: Mapping[str, Any]) -> Experiment:
    """Return the experiment that options describe.

    Args:
        options: typed values by name; a missing option has its default, names outside ``TRAINING_SETTINGS`` are ignored.

    Raises:
        ConfigError: a value is out of range, or two options conflict.
    """
    options = with_default_limit(options)
    dropout, decay = from_options(Dropout, options), from_options(DecayConfig, options)
    return from_options(
        Experiment,
        options,
        training=from_options(TrainingConfig, options, dropout=dropout, decay=decay),
        data=from_options(DataConfig, options),
        model=from_options(ModelSettings, options),
        optimizer=from_options(OptimizerConfig, options),
        initial=from_options(InitializerConfig, options),
    )
