"""Options that determine a training: those of ``train``, ``tune`` and ``lr-find``."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Any

from unrolled.cli.options.engines import TrainingEngine
from unrolled.cli.options.groups import OptionGroup, options_of
from unrolled.cli.options.help_texts import flag
from unrolled.engine.data.readers.options import ReadOptions
from unrolled.engine.runs.recipe import TRAINING_SETTINGS
from unrolled.engine.settings import Effect, Setting, SettingTable


@dataclass(frozen=True)
class TrainingOutput:
    """Additional output of a training."""

    samples: Annotated[
        bool, Setting("samples", "Write a sample with each validation, on the screen and into metrics.jsonl.")
    ] = True
    tensorboard: Annotated[
        bool,
        Setting(
            "tensorboard",
            "Keep event files in the run folder too, for tensorboard --logdir.",
            flags=("--tensorboard",),
        ),
    ] = False


def training_options(settings: SettingTable) -> OptionGroup:
    """Return the options of a training with these settings; the argument of the verb is a dictionary of their values."""
    return OptionGroup(SettingTable(TrainingEngine, settings, ReadOptions))


TRAINING = training_options(TRAINING_SETTINGS)
TRAINING_OUTPUT = options_of(TrainingOutput)
TRIAL = replace(TRAINING, ignored=TRAINING_OUTPUT.table)  # the settings of trial trainings, which have no output


def without_effect(options: Mapping[str, Any], searched: Collection[str] = ()) -> list[str]:
    """Return a line for each option of a training that differs from its default and has no effect.

    Combinations that the experiment refuses are not among them. Others are allowed, because a recipe of a study over
    schedules contains the options of all of them.

    Args:
        options: values of all options.
        searched: options that a study chooses, so that options that depend on them may have an effect.
    """
    return [
        f"{flag(one.option)}: has no effect here; it goes with {_condition(one.setting.effect)}"
        for one in TRAINING_SETTINGS.without_effect(options, searched)
    ]


def _condition(effect: Effect | None) -> str:
    """Return the condition of an effect in terms of options."""
    assert effect is not None
    name = effect.on[0]
    return f"{flag(name)} {' or '.join(effect.values)}" if effect.values else name
