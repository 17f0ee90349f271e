"""Options that have no effect in combination with the other options."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any, NamedTuple

import typer

from unrolled.cli.options import shared as options
from unrolled.engine.runs.recipe import option_default


class Condition(NamedTuple):
    """Condition under which an option of a training has an effect: the options it depends on, and its name in a message."""

    on: tuple[str, ...]
    met: Callable[[Mapping[str, Any]], bool]
    needs: str


DROPOUTS = ("dropout", "input_dropout", "output_dropout")
# Combinations that the experiment refuses are not listed. These are allowed, because a recipe of a study over schedules
# contains options of all of them.
CONDITIONS: dict[str, Condition] = {
    "decay": Condition(("schedule",), lambda o: o["schedule"] in ("step", "plateau"), "--schedule step or plateau"),
    "decay_after": Condition(("schedule",), lambda o: o["schedule"] == "step", "--schedule step"),
    "decay_patience": Condition(("schedule",), lambda o: o["schedule"] == "plateau", "--schedule plateau"),
    "variational": Condition(DROPOUTS, lambda o: any(o[name] for name in DROPOUTS), "dropout"),
    "reset": Condition(("batching",), lambda o: o["batching"] == "stream", "--batching stream"),
}


def without_effect(given: Mapping[str, Any], searched: Collection[str] = ()) -> list[str]:
    """Return a line for each option of a training that differs from its default and has no effect.

    Args:
        given: values of all options.
        searched: options that a study chooses, so that options depending on them may have an effect.
    """
    found = []
    for name, condition in CONDITIONS.items():
        idle = given[name] != option_default(name) and not condition.met(given)
        if idle and not {name, *condition.on} & set(searched):
            found.append(f"{options.flag(name)}: has no effect here; it goes with {condition.needs}")
    return found


def refuse(context: typer.Context, parameter: typer.CallbackParam, value: Any) -> Any:
    """Refuse an option without effect on a verb if it was typed; a recipe may contain it.

    Raises:
        ConfigError: the option was typed.
    """
    assert parameter.name is not None
    options.refuse_unused(context, [parameter.name], f"has no effect on unrolled {context.info_name}")
    return value
