"""Options of a training by the names that the command line and recipes give them, and the Experiment that they make."""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Mapping
from typing import Any, NamedTuple

from unrolled.engine.data.data_config import DataConfig
from unrolled.engine.errors import ConfigError
from unrolled.engine.models.dropout import Dropout
from unrolled.engine.models.initializers import Initial
from unrolled.engine.optimizers.config import OptimizerConfig
from unrolled.engine.optimizers.schedules import DecayConfig
from unrolled.engine.runs.experiment import Experiment, ModelSettings
from unrolled.engine.training.config import TrainingConfig

DEFAULT_EPOCHS = 10  # without another limit
LIMITS = ("epochs", "steps", "seconds")


class Place(NamedTuple):
    """The field of an experiment's part that an option sets."""

    part: type
    field: str


# Every option that decides a training besides corpus, engine and precision, in the order of the experiment's parts.
OPTIONS: dict[str, tuple[Place, ...]] = {
    "cell": (Place(ModelSettings, "cell"),),
    "layers": (Place(ModelSettings, "num_layers"),),
    "hidden": (Place(ModelSettings, "hidden_size"),),
    "embed": (Place(ModelSettings, "embedding_size"),),
    "dropout": (Place(ModelSettings, "dropout"),),
    "tie": (Place(ModelSettings, "tie_weights"),),
    "input_dropout": (Place(Dropout, "inputs"),),
    "output_dropout": (Place(Dropout, "outputs"),),
    "variational": (Place(Dropout, "variational"),),
    "init": (Place(Initial, "kind"),),
    "init_scale": (Place(Initial, "scale"),),
    "forget_bias": (Place(Initial, "forget_bias"),),
    "level": (Place(DataConfig, "level"),),
    "batching": (Place(DataConfig, "batching"),),
    "batch": (Place(DataConfig, "batch_size"),),
    "length": (Place(DataConfig, "length"),),
    "split": (Place(DataConfig, "split"),),
    "lowercase": (Place(DataConfig, "lowercase"),),
    "punctuation": (Place(DataConfig, "punctuation"),),
    "vocab_size": (Place(DataConfig, "vocab_size"),),
    "unknown": (Place(DataConfig, "unknown"),),
    "reset": (Place(TrainingConfig, "reset"),),
    "optimizer": (Place(OptimizerConfig, "name"),),
    "lr": (Place(OptimizerConfig, "learning_rate"),),
    "momentum": (Place(OptimizerConfig, "momentum"),),
    "alpha": (Place(OptimizerConfig, "alpha"),),
    "beta1": (Place(OptimizerConfig, "beta1"),),
    "beta2": (Place(OptimizerConfig, "beta2"),),
    "eps": (Place(OptimizerConfig, "eps"),),
    "weight_decay": (Place(OptimizerConfig, "weight_decay"),),
    "clip_value": (Place(OptimizerConfig, "clip_value"),),
    "sum_over_time": (Place(OptimizerConfig, "sum_over_time"),),
    "label_smoothing": (Place(OptimizerConfig, "label_smoothing"),),
    "clip": (Place(Experiment, "clip_norm"),),
    "schedule": (Place(TrainingConfig, "schedule"),),
    "warmup": (Place(TrainingConfig, "warmup"),),
    "decay": (Place(DecayConfig, "factor"),),
    "decay_after": (Place(DecayConfig, "after"),),
    "decay_patience": (Place(DecayConfig, "patience"),),
    "patience": (Place(TrainingConfig, "patience"),),
    "average": (Place(TrainingConfig, "average"),),
    "epochs": (Place(TrainingConfig, "epochs"),),
    "steps": (Place(TrainingConfig, "steps"),),
    "seconds": (Place(TrainingConfig, "seconds"),),
    "validate_every": (Place(TrainingConfig, "validate_every"),),
    "seed": (Place(TrainingConfig, "seed"), Place(DataConfig, "seed")),
}


def default_of(option: str) -> Any:
    """Return the value of an option that nobody gave."""
    part, name = OPTIONS[option][0]
    return next(field.default for field in dataclasses.fields(part) if field.name == name)


def kind_of(option: str) -> tuple[type, bool]:
    """The type of an option's values (bool, int, float or str), and whether it may be left unset.

    Raises:
        KeyError: it is none of ``OPTIONS``.
    """
    part, name = OPTIONS[option][0]
    hint = typing.get_type_hints(part)[name]
    if typing.get_origin(hint) not in (types.UnionType, typing.Union):
        return hint, False
    (kind,) = (one for one in typing.get_args(hint) if one is not types.NoneType)
    return kind, option != "clip"  # which is 0 where nothing is clipped


def fractions(split: str) -> tuple[float, ...]:
    """Fractions as typed, with commas between them."""
    try:
        return tuple(float(part) for part in split.split(","))
    except ValueError as error:
        raise ConfigError(f"split: got {split!r}, needs three fractions, for instance 0.9,0.05,0.05") from error


def with_limit(options: Mapping[str, Any]) -> dict[str, Any]:
    """``options`` with ``DEFAULT_EPOCHS`` where they have no limit."""
    if all(options.get(name) is None for name in LIMITS):
        return {**options, "epochs": DEFAULT_EPOCHS}
    return dict(options)


def experiment_of(options: Mapping[str, Any]) -> Experiment:
    """The experiment of the options in ``OPTIONS``; what is left out has its default, other names are not looked at.

    Raises:
        ConfigError: a value is out of its range, or two do not go together.
    """
    options = with_limit(options)
    parts: dict[type, dict[str, Any]] = {place.part: {} for places in OPTIONS.values() for place in places}
    for name in OPTIONS.keys() & options.keys():
        for part, field in OPTIONS[name]:
            parts[part][field] = options[name]
    training = parts[TrainingConfig]
    training["dropout"], training["decay"] = Dropout(**parts[Dropout]), DecayConfig(**parts[DecayConfig])
    made = TrainingConfig(**training)
    data = parts[DataConfig]
    if isinstance(data.get("split"), str):
        data["split"] = fractions(data["split"])
    if "clip_norm" in parts[Experiment]:
        parts[Experiment]["clip_norm"] = parts[Experiment]["clip_norm"] or None
    return Experiment(
        made,
        DataConfig(**data),
        ModelSettings(**parts[ModelSettings]),
        OptimizerConfig(**parts[OptimizerConfig]),
        initial=Initial(**parts[Initial]),
        **parts[Experiment],
    )
