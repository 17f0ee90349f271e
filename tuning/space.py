"""Search spaces: settings of ``train`` by their names, each with a range of numbers or a list of choices."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from unrolled.engine.errors import ConfigError
from unrolled.engine.runs.recipe import TRAINING_SETTINGS, make_experiment
from unrolled.engine.settings import Around, Definition, NotSearched, SettingTable

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

SEARCHED = ("lr", "batch")  # unless options are named


def written(value: Value) -> str:
    """Return a value as it is typed."""
    if isinstance(value, bool) or value is None:
        return NONE if value is None else str(value).lower()
    return f"{value:g}" if isinstance(value, float) else str(value)


def searchable(table: SettingTable = TRAINING_SETTINGS) -> list[str]:
    """Return the options that a study can search."""
    return [name for name, one in table.definitions.items() if isinstance(one.setting.search, str | Around)]


def parse_space(searches: Sequence[str], options: Mapping[str, Any], table: SettingTable = TRAINING_SETTINGS) -> Space:
    """Return the space of ``NAME``, ``NAME=LOW:HIGH``, ``NAME=LOW:HIGH:log`` and ``NAME=A,B,C``, names written as options.

    Args:
        searches: empty: ``SEARCHED``.
        options: fixed ones, on which usual domains depend.
        table: the settings of the training.

    Raises:
        ConfigError: a name is not known or cannot be searched, or a range is not valid.
    """
    typed: dict[str, str | None] = {}
    for search in searches or SEARCHED:
        name, sign, text = search.partition("=")
        name = name.strip().lstrip("-").replace("-", "_")
        if name in typed:
            raise ConfigError(f"search: {_spelling(name)} is given twice")
        _check_name(name, table)
        typed[name] = text.strip() if sign else None
    space: Space = {}
    for name, given in typed.items():
        wanted = table.definitions[name].setting.search if given is None else given
        if isinstance(wanted, str):
            space[name] = _domain(table.definitions[name], wanted)
    for name in typed.keys() - space.keys():
        usual = table.definitions[name].setting.search
        assert isinstance(usual, Around)
        space[name] = _around(usual, space.get(usual.option), options.get(usual.option))
    if space.get("length") and options.get("batching") == "records":
        raise ConfigError("search: length cuts records, so that losses would be of different texts; give one length")
    return {name: space[name] for name in typed}


def _spelling(option: str) -> str:
    """Return the name of an option as it is typed."""
    return option.replace("_", "-")


def _check_name(name: str, table: SettingTable) -> None:
    if name not in table.definitions:
        known = ", ".join(map(_spelling, searchable(table)))
        raise ConfigError(f"search: {_spelling(name)!r} is no setting; there are {known}")
    search = table.definitions[name].setting.search
    if isinstance(search, NotSearched):
        raise ConfigError(f"search: {_spelling(name)} is not searched: {search.what} do not compare")


def _around(usual: Around, searched: Domain | None, fixed: str | None) -> Numbers:
    """Return the domain around the usual values of all values of the other setting that are searched, or of the fixed one."""
    names = searched.values if isinstance(searched, Choices) else (fixed,)
    values = [usual.usual[str(name)] for name in names if name in usual.usual] or [usual.usual[usual.otherwise]]
    return Numbers(min(values) * usual.low, max(values) * usual.high, log=True)


def _domain(definition: Definition, text: str) -> Domain:
    if ":" in text:
        return _numbers(definition, text)
    name = _spelling(definition.option)
    values = tuple(_value(definition, part.strip()) for part in text.split(","))
    if len(set(values)) < len(values) or len(values) < 2:
        raise ConfigError(f"search: {name}={text}: needs two different values or more, or a range LOW:HIGH")
    return Choices(values)


def _numbers(definition: Definition, text: str) -> Numbers:
    parts, name, kind = text.split(":"), _spelling(definition.option), definition.kind
    if kind not in (int, float):
        raise ConfigError(f"search: {name}={text}: takes choices, for instance {name}={definition.setting.search}")
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


def _value(definition: Definition, text: str) -> Value:
    name, kind = _spelling(definition.option), definition.kind
    if definition.can_be_unset and text.lower() == NONE:
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
            make_experiment({**options, **chosen})
        except ConfigError as error:
            refused.update({item: error for item in chosen.items() if item not in refused})
        else:
            accepted.update(chosen.items())
    for (name, value), reason in refused.items():
        if (name, value) not in accepted:
            raise ConfigError(f"search: {_spelling(name)}={written(value)} never works: ", *reason.parts)


def usual_values(
    space: Space, options: Mapping[str, Any], table: SettingTable = TRAINING_SETTINGS
) -> dict[str, Value] | None:
    """Return the settings of a run without a search if all of them are in the space, else None."""
    values = {name: options.get(name) for name in space}
    for name in space:
        usual = table.definitions[name].setting.search
        if isinstance(usual, Around) and values[name] is None:
            values[name] = usual.usual.get(options.get(usual.option, usual.otherwise))
    return values if all(domain.holds(values[name]) for name, domain in space.items()) else None
