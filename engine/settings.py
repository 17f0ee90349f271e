"""Settings, each defined once: on the field of the dataclass that holds its value.

    @dataclass(frozen=True)
    class DecayConfig:
        factor: Annotated[float, Setting("decay", "Factor of a step down.", range=SHARE, search="0.3:0.95")] = 0.5

The check of the value, the option of the command line, the key of recipes, the domain of searches and the help are all made
from this definition. A dataclass with such fields is a group of settings; a ``SettingTable`` joins several groups.
"""

from __future__ import annotations

import math
import types
import typing
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import MISSING, dataclass, fields
from typing import Annotated, Any, NamedTuple, TypeVar

from unrolled.engine.checks import check_choice, check_flag, is_number
from unrolled.engine.errors import ConfigError, SettingName

# Sections of the help
MODEL_PANEL, DATA_PANEL, OPTIMISATION_PANEL = "Model", "Data", "Optimisation"
DECODING_PANEL, JOBS_PANEL = "Decoding", "Many prompts"

Group = TypeVar("Group")


@dataclass(frozen=True)
class Range:
    """Range of a number.

    Args:
        needs: how an error message describes the range.
        low, high: its ends, which belong to it unless they are open.
        whole: only whole numbers are allowed.
    """

    needs: str
    low: float = -math.inf
    high: float = math.inf
    open_low: bool = False
    open_high: bool = False
    whole: bool = False

    def holds(self, value: object) -> bool:
        """Return whether ``value`` is a finite number in the range."""
        if not is_number(value) or (self.whole and not isinstance(value, int)):
            return False
        number: Any = value
        above = number > self.low if self.open_low else number >= self.low
        below = number < self.high if self.open_high else number <= self.high
        return above and below and math.isfinite(number)

    def needs_instead_of(self, value: object) -> str:
        """Return what is needed instead of ``value``, with the upper end if that is what it exceeds."""
        if self.whole and isinstance(value, int) and value > self.high:
            return f"a whole number from {self.low} to {self.high}"
        return self.needs


POSITIVE = Range("a number above 0", 0, open_low=True)
PROBABILITY = Range("a number from 0 up to, not including, 1", 0, 1, open_high=True)
COUNT = Range("a whole number of at least 1", 1, 2**63 - 1, whole=True)


class NotSearched(NamedTuple):
    """The reason why a study does not search for a setting: ``what`` do not compare."""

    what: str


class Around(NamedTuple):
    """Search domain around the usual value, which depends on the value of another setting.

    Args:
        option: the other setting.
        usual: the usual value for each value of ``option``.
        otherwise: the value of ``option`` that counts where none is given.
        low, high: ends of the domain relative to the usual value; every decade is equally likely.
    """

    option: str
    usual: Mapping[str, float]
    otherwise: str
    low: float
    high: float


class Effect(NamedTuple):
    """Condition under which a setting has an effect.

    Args:
        on: other settings, of which one has to have one of ``values``.
        values: empty: any value but zero.
    """

    on: tuple[str, ...]
    values: tuple[str, ...] = ()

    def holds(self, options: Mapping[str, Any]) -> bool:
        """Return whether the condition holds for options by name."""
        return any(options[name] in self.values if self.values else bool(options[name]) for name in self.on)


class Typed(NamedTuple):
    """The form in which a value is typed and stands in recipes, where it is not that of the field.

    Args:
        kind: the type of the typed value; ``list``: texts, from an option that may be repeated.
        parse: makes the value of the field from the typed one.
        form: makes the typed value from that of the field.
    """

    kind: type
    parse: Callable[[Any], Any]
    form: Callable[[Any], Any]


ONE_TEXT = Typed(str, str, str)
SEVERAL_TEXTS = Typed(list, tuple, list)


@dataclass(frozen=True)
class Setting:
    """Definition of a setting.

    Args:
        option: the name of its option, with _ for -; recipes and searches use it too.
        help: sentences about it, without its choices and its default.
        panel: the section of the help that shows it; None: the first one.
        range: the values that are allowed; None: any.
        choices: the names that are allowed; None: any.
        lists_choices: the help lists the choices.
        search: its usual domain in a search, as it is typed after its name; None: it does not determine a training.
        default: its default in words, where that depends on other settings or on the input; the option then has none.
        name: its name in messages; None: the name of the field.
        typed: the form in which it is typed; None: as the field holds it.
        effect: the condition under which it has an effect; None: always.
        flags: spellings of the option that replace the usual one.
        metavar: placeholder of the value in the help; None: the usual one.
    """

    option: str
    help: str
    panel: str | None = None
    range: Range | None = None
    choices: Collection[str] | None = None
    lists_choices: bool = True
    search: str | Around | NotSearched | None = None
    default: str | None = None
    name: str | None = None
    typed: Typed | None = None
    effect: Effect | None = None
    flags: tuple[str, ...] = ()
    metavar: str | None = None


# 64 bits: the width that both NumPy's generators and text generation accept.
SEED = Setting(
    "seed",
    "Fixes everything random.",
    range=Range("a whole number from 0 to 2⁶⁴ - 1", 0, 2**64 - 1, whole=True),
    search=NotSearched("a seed and another"),
)


@dataclass(frozen=True)
class Definition:
    """A setting together with the field that holds it.

    Args:
        kind: the type of the typed value: bool, int, float, str or list.
        optional: the field may be None.
        default: the default of the field.
    """

    setting: Setting
    group: type
    field: str
    kind: type
    optional: bool
    default: Any

    @property
    def option(self) -> str:
        """Return the name of the option."""
        return self.setting.option

    @property
    def name(self) -> str:
        """Return the name in messages."""
        return self.setting.name or self.field

    @property
    def can_be_unset(self) -> bool:
        """Return whether the typed value may be None."""
        return self.optional and self.setting.typed is None

    @property
    def typed_default(self) -> Any:
        """Return the default of the option; None if it depends on something else."""
        if self.setting.default is not None:
            return None
        return self.default if self.setting.typed is None else self.setting.typed.form(self.default)

    def parse(self, value: Any) -> Any:
        """Return the value of the field for the typed ``value``."""
        return value if self.setting.typed is None else self.setting.typed.parse(value)

    def check(self, value: Any) -> None:
        """Check the value of the field.

        Raises:
            ConfigError: the value is out of range.
        """
        allowed = self.setting.range
        if value is None and self.optional:
            return
        if allowed is not None and not allowed.holds(value):
            got = repr(value) if allowed.whole or isinstance(value, str) else str(value)
            raise ConfigError(SettingName(self.name), f": got {got}, needs {allowed.needs_instead_of(value)}")
        if self.setting.choices is not None and self.setting.typed is None:
            check_choice(self.name, value, self.setting.choices)
        if self.kind is bool:
            check_flag(self.name, value)


_known_groups: dict[type, Mapping[str, Definition]] = {}


def settings_of(group: type) -> Mapping[str, Definition]:
    """Return the definitions of the settings of a dataclass, by field."""
    if group not in _known_groups:
        _known_groups[group] = types.MappingProxyType(_find_settings(group))
    return _known_groups[group]


def _find_settings(group: Any) -> dict[str, Definition]:
    hints = typing.get_type_hints(group, include_extras=True)
    found = {}
    for field in fields(group):
        hint = hints[field.name]
        hint, *extras = typing.get_args(hint) if typing.get_origin(hint) is Annotated else (hint,)
        for setting in extras:
            if isinstance(setting, Setting):
                kind, optional = _plain(hint)
                kind = kind if setting.typed is None else setting.typed.kind
                default = None if field.default is MISSING else field.default
                found[field.name] = Definition(setting, group, field.name, kind, optional, default)
    return found


def _plain(hint: Any) -> tuple[type, bool]:
    """Return the type in a hint without None, and whether None was there."""
    if typing.get_origin(hint) not in (types.UnionType, typing.Union):
        return hint, False
    kinds = [one for one in typing.get_args(hint) if one is not types.NoneType]
    return kinds[0], len(kinds) < len(typing.get_args(hint))


def check_settings(values: object) -> None:
    """Check the settings of an instance of a group, each by itself.

    Raises:
        ConfigError: a value is out of range.
    """
    for field, definition in settings_of(type(values)).items():
        definition.check(getattr(values, field))


def from_options(group: type[Group], options: Mapping[str, Any], /, **others: Any) -> Group:
    """Return an instance of a group.

    Args:
        options: typed values by option; a missing one, or None where the field has another default, has its default.
        others: values of fields by name, for fields that are no settings.

    Raises:
        ConfigError: a value is out of range, or two conflict.
    """
    for field, definition in settings_of(group).items():
        value = options.get(definition.option)
        if value is not None or (definition.can_be_unset and definition.option in options):
            others[field] = definition.parse(value)
    return group(**others)


class SettingTable:
    """Settings by option.

    Args:
        parts: groups, or tables of settings, in the order of the options.

    Raises:
        TypeError: two fields define the same option; they may only share one definition.
    """

    def __init__(self, *parts: type | SettingTable) -> None:
        self.definitions: dict[str, Definition] = {}
        for part in parts:
            table = part.definitions if isinstance(part, SettingTable) else settings_of(part)
            for definition in table.values():
                known = self.definitions.setdefault(definition.option, definition)
                if known.setting is not definition.setting:
                    owners = f"{known.group.__name__} and {definition.group.__name__}"
                    raise TypeError(f"{definition.option} is defined twice, by {owners}")

    def only(self, options: Iterable[str]) -> SettingTable:
        """Return a table of some of the settings."""
        table = SettingTable()
        table.definitions = {name: self.definitions[name] for name in options}
        return table

    def without(self, options: Collection[str]) -> SettingTable:
        """Return a table without some of the settings."""
        return self.only(name for name in self.definitions if name not in options)

    def without_effect(self, options: Mapping[str, Any], searched: Iterable[str] = ()) -> list[Definition]:
        """Return the definitions of options that differ from their defaults and have no effect.

        Args:
            options: typed values of all options.
            searched: options that a study chooses, so that options that depend on them may have an effect.
        """
        found = []
        for name, definition in self.definitions.items():
            effect = definition.setting.effect
            if effect is None or options[name] == definition.typed_default or effect.holds(options):
                continue
            if not {name, *effect.on} & set(searched):
                found.append(definition)
        return found
