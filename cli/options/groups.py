"""Groups of settings as options of a verb: one parameter of the verb stands for the options of all settings of a group.

    @with_groups
    def evaluate(model: options.Model, *, reading: Annotated[ReadOptions, READING]) -> None: ...

The command line shows an option for each setting of ``READING``, and the verb gets what the group builds from their values.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial, wraps
from typing import Annotated, Any, get_args, get_origin

import typer

from unrolled.cli.options.help_texts import default, one_of
from unrolled.cli.options.refusals import refuse_unused
from unrolled.engine.settings import Definition, SettingTable, from_options

NO_SETTINGS = SettingTable()


@dataclass(frozen=True)
class OptionGroup:
    """Annotation of a parameter that stands for the options of several settings.

    Args:
        table: the settings.
        build: makes the argument of the verb from the values of the options by name.
        hidden: options without effect on the verb: its help does not show them, and typing one is refused; recipes may
            contain them.
        ignored: settings that are hidden too, and that the argument does not contain.
    """

    table: SettingTable
    build: Callable[[Mapping[str, Any]], Any] = dict
    hidden: tuple[str, ...] = ()
    ignored: SettingTable = NO_SETTINGS

    @property
    def definitions(self) -> dict[str, Definition]:
        """Return the definitions of all settings, ignored ones included, by option."""
        return {**self.table.definitions, **self.ignored.definitions}

    def parameters(self) -> list[inspect.Parameter]:
        """Return a parameter for each option."""
        hidden = {*self.hidden, *self.ignored.definitions}
        return [_parameter(definition, name in hidden) for name, definition in self.definitions.items()]

    def argument(self, values: Mapping[str, Any]) -> Any:
        """Return the argument of the verb for the values of all options of the verb."""
        return self.build({name: values[name] for name in self.table.definitions})


def options_of(group: type, *options: str) -> OptionGroup:
    """Return the options of a group, or some of them; the argument of the verb is an instance of the group."""
    table = SettingTable(group)
    return OptionGroup(table.only(options) if options else table, partial(from_options, group))


def _group_of(parameter: inspect.Parameter) -> OptionGroup | None:
    """Return the group that a parameter stands for; None for a parameter that is one option."""
    extras = get_args(parameter.annotation)[1:] if get_origin(parameter.annotation) is Annotated else ()
    return next((extra for extra in extras if isinstance(extra, OptionGroup)), None)


def settings_of_verb(verb: Callable[..., Any]) -> dict[str, Definition]:
    """Return the definitions of the settings of a verb by option; they are the keys of its recipes."""
    parameters = inspect.signature(inspect.unwrap(verb), eval_str=True).parameters.values()
    groups = [group for parameter in parameters if (group := _group_of(parameter)) is not None]
    return {name: definition for group in groups for name, definition in group.definitions.items()}


def with_groups(verb: Callable[..., None]) -> Callable[..., None]:
    """Return a verb with an option for each setting of its groups.

    Raises:
        TypeError: two parameters give the same option.
    """
    own = {name: (one, _group_of(one)) for name, one in inspect.signature(verb, eval_str=True).parameters.items()}
    options = [option for one, group in own.values() for option in (group.parameters() if group else [one])]
    names = [option.name for option in options]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise TypeError(f"{verb.__name__}: {', '.join(twice)} is an option of two parameters")

    @wraps(verb)
    def run(**values: Any) -> None:
        verb(**{name: group.argument(values) if group else values[name] for name, (_, group) in own.items()})

    signature = inspect.Signature([option.replace(kind=inspect.Parameter.KEYWORD_ONLY) for option in options])
    run.__signature__ = signature  # type: ignore[attr-defined]
    return run


def help_text(definition: Definition) -> str:
    """Return the help of a setting's option, with its choices and with a default that is no value."""
    setting = definition.setting
    listed = one_of(setting.choices) if setting.choices is not None and setting.lists_choices else ""
    words = "" if setting.default is None else default(setting.default)
    return " ".join(part for part in (setting.help, listed, words) if part)


def _parameter(definition: Definition, hidden: bool) -> inspect.Parameter:
    """Return the parameter of a setting's option."""
    setting, several = definition.setting, definition.kind is list
    value = None if several else definition.typed_default
    kind: Any = list[str] if several else definition.kind
    if value is None:
        kind = kind | None
    if hidden:
        option = typer.Option(*setting.flags, hidden=True, callback=_refuse)
    else:
        option = typer.Option(
            *setting.flags,
            help=help_text(definition),
            rich_help_panel=setting.panel,
            metavar=setting.metavar or (None if setting.choices is None else "NAME"),
            show_default=setting.default is None,
        )
    annotation = Annotated[kind, option]
    return inspect.Parameter(definition.option, inspect.Parameter.KEYWORD_ONLY, default=value, annotation=annotation)


def _refuse(context: typer.Context, parameter: typer.CallbackParam, value: Any) -> Any:
    """Refuse an option without effect on a verb if it was typed.

    Raises:
        ConfigError: the option was typed.
    """
    assert parameter.name is not None
    refuse_unused(context, [parameter.name], f"has no effect on unrolled {context.info_name}")
    return value
