"""Search spaces: settings of ``train`` by their names, each with a range of numbers or a list of choices."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from unrolled.engine.errors import ConfigError
from unrolled.engine.models.cells import CELLS
from unrolled.engine.models.initializers import INITIALIZERS
from unrolled.engine.models.language_model_config import LanguageModelConfig
from unrolled.engine.optimizers.config import OPTIMIZERS
from unrolled.engine.optimizers.schedules import SCHEDULES
from unrolled.engine.runs.recipe import TRAINING_OPTIONS, make_experiment, option_type

Value = bool | int | float | str | None
NONE = "none"  # text of the choice that leaves an option unset
MOST_COMBINATIONS = 4096  # that are checked before a study starts


@dataclass(frozen=True)
class Numbers:
    """Range of numbers from ``low`` to ``high``, both included; ``log``: every decade is equally likely."""

    low: float
    high: float
    log: bool = False

    @property
    def extremes(self) -> tuple[Value, ...]:
        """Return the values that are checked before a study: both ends."""
        return self.low, self.high

    def holds(self, value: Value) -> bool:
        """Return whether a value is in the domain."""
        return isinstance(value, int | float) and not isinstance(value, bool) and self.low <= value <= self.high

    def __str__(self) -> str:
        return f"{self.low:g}:{self.high:g}" + (":log" if self.log else "")


@dataclass(frozen=True)
class Choices:
    """List of values, in the order given."""

    values: tuple[Value, ...]

    @property
    def extremes(self) -> tuple[Value, ...]:
        """Return the values that are checked before a study: all."""
        return self.values

    def holds(self, value: Value) -> bool:
        """Return whether a value is in the domain."""
        return value in self.values

    def __str__(self) -> str:
        return ",".join(map(written, self.values))


Domain = Numbers | Choices
Space = dict[str, Domain]

# Domains of options that are named without one; the learning rate's depends on the optimizer.
USUAL: dict[str, str] = {
    "batch": "16,32,64,128",
    "length": "32,64,128,256",
    "hidden": "64,128,256,512",
    "embed": "32,64,128,256",
    "layers": "1,2,3",
    "cell": ",".join(CELLS),
    "dropout": "0:0.5",
    "input_dropout": "0:0.5",
    "output_dropout": "0:0.6",
    "init": ",".join(INITIALIZERS),
    "init_scale": "0.02:1:log",
    "forget_bias": "none,0,1,2",
    "optimizer": ",".join(OPTIMIZERS),
    "schedule": ",".join(SCHEDULES),
    "momentum": "0:0.95",
    "alpha": "0.9,0.95,0.99,0.999",
    "beta1": "0,0.5,0.9,0.95",
    "beta2": "0.9,0.99,0.999",
    "eps": "1e-10:1e-3:log",
    "weight_decay": "1e-6:0.1:log",
    "label_smoothing": "0:0.2",
    "clip": "0.1:10:log",
    "clip_value": "none,0.1,1,5",
    "warmup": "0:500",
    "decay": "0.3:0.95",
    "decay_after": "1:10",
    "decay_patience": "0:5",
    "average": "none,0.99,0.999",
    **dict.fromkeys(("tie", "variational", "reset", "sum_over_time"), "false,true"),
}
RATE = "lr"
RATE_SPAN = (1 / 20, 10)  # times the optimizer's usual rate
SEARCHED = (RATE, "batch")  # unless options are named
# Losses on another validation text, or another share of it, do not compare; trials share their limits.
NOT_SEARCHED = {
    **dict.fromkeys(
        ("level", "lowercase", "normalize", "punctuation", "vocab_size", "unknown"),
        "losses a token of two vocabularies",
    ),
    **dict.fromkeys(("batching", "split"), "losses on two validation texts"),
    **dict.fromkeys(("epochs", "steps", "seconds", "patience"), "trials of different lengths"),
    "validate_every": "trials that are looked at more or less often",
    "seed": "a seed and another",
}


def written(value: Value) -> str:
    """Return a value as it is typed."""
    if isinstance(value, bool) or value is None:
        return NONE if value is None else str(value).lower()
    return f"{value:g}" if isinstance(value, float) else str(value)


def parse_space(searches: Sequence[str], options: Mapping[str, Any]) -> Space:
    """Return the space of ``NAME``, ``NAME=LOW:HIGH``, ``NAME=LOW:HIGH:log`` and ``NAME=A,B,C``, names written as options.

    Args:
        searches: empty: ``SEARCHED``.
        options: fixed ones, on which usual ranges depend.

    Raises:
        ConfigError: a name is not known or cannot be searched, or a range is not valid.
    """
    typed: dict[str, str | None] = {}
    for search in searches or SEARCHED:
        name, sign, text = search.partition("=")
        name = name.strip().lstrip("-").replace("-", "_")
        if name in typed:
            raise ConfigError(f"search: {name} is given twice")
        _check_name(name)
        typed[name] = text.strip() if sign else None
    space = {name: _domain(name, text) for name, text in typed.items() if text is not None}
    for name in typed:
        if name not in space and name != RATE:
            space[name] = _domain(name, USUAL[name])
    if RATE in typed and RATE not in space:
        space[RATE] = usual_rates(space.get("optimizer"), options)
    if space.get("length") and options.get("batching") == "records":
        raise ConfigError("search: length cuts records, so that losses would be of different texts; give one length")
    return {name: space[name] for name in typed}


def _check_name(name: str) -> None:
    can = [known for known in TRAINING_OPTIONS if known not in NOT_SEARCHED]
    if name not in TRAINING_OPTIONS:
        raise ConfigError(f"search: {name!r} is no setting; there are {', '.join(can)}".replace("_", "-"))
    if name in NOT_SEARCHED:
        raise ConfigError(f"search: {name.replace('_', '-')} is not searched: {NOT_SEARCHED[name]} do not compare")


def usual_rates(optimizers: Domain | None, options: Mapping[str, Any]) -> Numbers:
    """Return learning rates around the usual rate of the optimizer, or of all optimizers that are searched."""
    names = optimizers.values if isinstance(optimizers, Choices) else (options.get("optimizer", "adam"),)
    usual = [OPTIMIZERS[str(name)].default_learning_rate for name in names if name in OPTIMIZERS] or [
        OPTIMIZERS["adam"].default_learning_rate
    ]
    return Numbers(min(usual) * RATE_SPAN[0], max(usual) * RATE_SPAN[1], log=True)


def _domain(name: str, text: str) -> Domain:
    kind, optional = option_type(name)
    if ":" in text:
        return _numbers(name, kind, text)
    values = tuple(_value(name, kind, optional, part.strip()) for part in text.split(","))
    if len(set(values)) < len(values) or len(values) < 2:
        raise ConfigError(f"search: {name}={text}: needs two different values or more, or a range LOW:HIGH")
    return Choices(values)


def _numbers(name: str, kind: type, text: str) -> Numbers:
    parts = text.split(":")
    if kind not in (int, float):
        raise ConfigError(f"search: {name}={text}: takes choices, for instance {name}={USUAL[name]}")
    if len(parts) not in (2, 3) or parts[2:] not in ([], ["log"]):
        raise ConfigError(f"search: {name}={text}: needs LOW:HIGH or LOW:HIGH:log")
    low, high = (_number(name, kind, part) for part in parts[:2])
    if not low < high:
        raise ConfigError(f"search: {name}={text}: the first number must be below the second")
    if len(parts) == 3 and low <= 0:
        raise ConfigError(f"search: {name}={text}: log needs numbers above 0")
    return Numbers(low, high, len(parts) == 3)


def _number(name: str, kind: type, text: str) -> float:
    try:
        value = kind(text)
    except ValueError as error:
        what = "a whole number" if kind is int else "a number"
        raise ConfigError(f"search: {name}: got {text!r}, needs {what}") from error
    if not math.isfinite(value):
        raise ConfigError(f"search: {name}: got {text}, needs a finite number")
    return value


def _value(name: str, kind: type, optional: bool, text: str) -> Value:
    if optional and text.lower() == NONE:
        return None
    if kind is bool:
        if text.lower() not in ("true", "false"):
            raise ConfigError(f"search: {name}: got {text!r}, needs true or false")
        return text.lower() == "true"
    return text if kind is str else _number(name, kind, text)


def _combinations(space: Space) -> Iterator[dict[str, Value]]:
    """Yield all combinations of extremes, or a sample if there are too many."""
    extremes = [domain.extremes for domain in space.values()]
    if math.prod(map(len, extremes)) <= MOST_COMBINATIONS:
        drawn: Iterator[tuple[Value, ...]] = itertools.product(*extremes)
    else:
        rng = random.Random(0)
        drawn = (tuple(map(rng.choice, extremes)) for _ in range(MOST_COMBINATIONS))
    return (dict(zip(space, values, strict=True)) for values in drawn)


def check_space(space: Space, options: Mapping[str, Any]) -> None:
    """Check that each end of a range and each choice is valid with some values of the others.

    Raises:
        ConfigError: one never is; the message has the reason.
    """
    refused: dict[tuple[str, Value], ConfigError] = {}
    accepted: set[tuple[str, Value]] = set()
    for chosen in _combinations(space):
        try:
            experiment = make_experiment({**options, **chosen})
            LanguageModelConfig(vocab_size=2, **asdict(experiment.model))
        except ConfigError as error:
            refused.update({item: error for item in chosen.items() if item not in refused})
        else:
            accepted.update(chosen.items())
    for (name, value), reason in refused.items():
        if (name, value) not in accepted:
            raise ConfigError(f"search: {name}={written(value)} never works: ", *reason.parts)


def usual_values(space: Space, options: Mapping[str, Any]) -> dict[str, Value] | None:
    """Return the settings of a run without a search if all of them are in the space, else None."""
    values = {name: options.get(name) for name in space}
    optimizer = options.get("optimizer", "adam")
    if RATE in space and values[RATE] is None and optimizer in OPTIMIZERS:
        values[RATE] = OPTIMIZERS[optimizer].default_learning_rate
    return values if all(domain.holds(values[name]) for name, domain in space.items()) else None
