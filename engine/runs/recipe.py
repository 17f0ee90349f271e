"""The options of a training, as command line and recipes name them, and the experiment that they describe."""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Mapping
from typing import Any, NamedTuple

from unrolled.engine.data.config import DataConfig
from unrolled.engine.errors import ConfigError
from unrolled.engine.models.dropout import Dropout
from unrolled.engine.models.initializers import InitializerConfig
from unrolled.engine.optimizers.config import OptimizerConfig
from unrolled.engine.optimizers.schedules import DecayConfig
from unrolled.engine.runs.experiment import Experiment, ModelSettings
from unrolled.engine.training.config import TrainingConfig

DEFAULT_EPOCHS = 10  # if no option sets a limit
LIMIT_OPTIONS = ("epochs", "steps", "seconds")


class OptionField(NamedTuple):
    """The field that an option sets, and the part of the experiment that has it."""

    part: type
    field: str


# All options that determine a training, except corpus, engine and precision, in the order of the experiment's parts.
TRAINING_OPTIONS: dict[str, tuple[OptionField, ...]] = {
    "cell": (OptionField(ModelSettings, "cell"),),
    "layers": (OptionField(ModelSettings, "num_layers"),),
    "hidden": (OptionField(ModelSettings, "hidden_size"),),
    "embed": (OptionField(ModelSettings, "embedding_size"),),
    "dropout": (OptionField(ModelSettings, "dropout"),),
    "tie": (OptionField(ModelSettings, "tie_weights"),),
    "input_dropout": (OptionField(Dropout, "inputs"),),
    "output_dropout": (OptionField(Dropout, "outputs"),),
    "variational": (OptionField(Dropout, "variational"),),
    "init": (OptionField(InitializerConfig, "kind"),),
    "init_scale": (OptionField(InitializerConfig, "scale"),),
    "forget_bias": (OptionField(InitializerConfig, "forget_bias"),),
    "level": (OptionField(DataConfig, "level"),),
    "batching": (OptionField(DataConfig, "batching"),),
    "batch": (OptionField(DataConfig, "batch_size"),),
    "length": (OptionField(DataConfig, "length"),),
    "split": (OptionField(DataConfig, "split"),),
    "lowercase": (OptionField(DataConfig, "lowercase"),),
    "normalize": (OptionField(DataConfig, "normalize"),),
    "punctuation": (OptionField(DataConfig, "punctuation"),),
    "vocab_size": (OptionField(DataConfig, "vocab_size"),),
    "unknown": (OptionField(DataConfig, "unknown"),),
    "reset": (OptionField(TrainingConfig, "reset"),),
    "optimizer": (OptionField(OptimizerConfig, "name"),),
    "lr": (OptionField(OptimizerConfig, "learning_rate"),),
    "momentum": (OptionField(OptimizerConfig, "momentum"),),
    "alpha": (OptionField(OptimizerConfig, "alpha"),),
    "beta1": (OptionField(OptimizerConfig, "beta1"),),
    "beta2": (OptionField(OptimizerConfig, "beta2"),),
    "eps": (OptionField(OptimizerConfig, "eps"),),
    "weight_decay": (OptionField(OptimizerConfig, "weight_decay"),),
    "clip_value": (OptionField(OptimizerConfig, "clip_value"),),
    "sum_over_time": (OptionField(OptimizerConfig, "sum_over_time"),),
    "label_smoothing": (OptionField(OptimizerConfig, "label_smoothing"),),
    "clip": (OptionField(Experiment, "clip_norm"),),
    "schedule": (OptionField(TrainingConfig, "schedule"),),
    "warmup": (OptionField(TrainingConfig, "warmup"),),
    "decay": (OptionField(DecayConfig, "factor"),),
    "decay_after": (OptionField(DecayConfig, "after"),),
    "decay_patience": (OptionField(DecayConfig, "patience"),),
    "patience": (OptionField(TrainingConfig, "patience"),),
    "average": (OptionField(TrainingConfig, "average"),),
    "epochs": (OptionField(TrainingConfig, "epochs"),),
    "steps": (OptionField(TrainingConfig, "steps"),),
    "seconds": (OptionField(TrainingConfig, "seconds"),),
    "validate_every": (OptionField(TrainingConfig, "validate_every"),),
    "seed": (OptionField(TrainingConfig, "seed"), OptionField(DataConfig, "seed")),
}


def option_default(option: str) -> Any:
    """Return the value of an option that is not given."""
    part, name = TRAINING_OPTIONS[option][0]
    return next(field.default for field in dataclasses.fields(part) if field.name == name)


def option_type(option: str) -> tuple[type, bool]:
    """Return the type of an option's values (bool, int, float or str), and whether it can be unset.

    Raises:
        KeyError: the option is unknown.
    """
    part, name = TRAINING_OPTIONS[option][0]
    hint = typing.get_type_hints(part)[name]
    if typing.get_origin(hint) not in (types.UnionType, typing.Union):
        return hint, False
    (kind,) = (one for one in typing.get_args(hint) if one is not types.NoneType)
    return kind, option != "clip"  # "clip" is never unset: 0 turns it off


def parse_fractions(split: str) -> tuple[float, ...]:
    """Return the fractions in a string, separated by commas.

    Raises:
        ConfigError: a fraction is not a number.
    """
    try:
        return tuple(float(part) for part in split.split(","))
    except ValueError as error:
        raise ConfigError(f"split: got {split!r}, needs three fractions, for instance 0.9,0.05,0.05") from error


def with_default_limit(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return ``options``, with ``DEFAULT_EPOCHS`` if they set no limit."""
    if all(options.get(name) is None for name in LIMIT_OPTIONS):
        return {**options, "epochs": DEFAULT_EPOCHS}
    return dict(options)


def make_experiment(options: Mapping[str, Any]) -> Experiment:
    """Return the experiment that options describe.

    Args:
        options: values by name; a missing option has its default, names outside ``TRAINING_OPTIONS`` are ignored.

    Raises:
        ConfigError: a value is out of range, or two options conflict.
    """
    options = with_default_limit(options)
    parts: dict[type, dict[str, Any]] = {field.part: {} for fields in TRAINING_OPTIONS.values() for field in fields}
    for name in TRAINING_OPTIONS.keys() & options.keys():
        for part, field_name in TRAINING_OPTIONS[name]:
            parts[part][field_name] = options[name]
    dropout, decay = Dropout(**parts[Dropout]), DecayConfig(**parts[DecayConfig])
    training = TrainingConfig(**parts[TrainingConfig], dropout=dropout, decay=decay)
    data, experiment = parts[DataConfig], parts[Experiment]
    if isinstance(data.get("split"), str):
        data["split"] = parse_fractions(data["split"])
    if "clip_norm" in experiment:
        experiment["clip_norm"] = experiment["clip_norm"] or None
    return Experiment(
        training,
        DataConfig(**data),
        ModelSettings(**parts[ModelSettings]),
        OptimizerConfig(**parts[OptimizerConfig]),
        initial=InitializerConfig(**parts[InitializerConfig]),
        **experiment,
    )
