"""Options that take the defaults of the other options from a recipe or a preset."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from unrolled.cli.options.groups import settings_of_verb
from unrolled.cli.options.help_texts import one_of
from unrolled.cli.recipes import FOLDER, PRESETS, read_recipe
from unrolled.engine.checks import check_choice


def _take(context: typer.Context, path: Path) -> None:
    assert context.command.callback is not None
    # A recipe takes precedence over a preset, in either order of reading.
    recipe = read_recipe(path, settings_of_verb(context.command.callback))
    earlier = dict(context.default_map or {})
    context.default_map = {**earlier, **recipe} if path.parent != FOLDER else {**recipe, **earlier}


def _take_recipe(context: typer.Context, path: Path | None) -> Path | None:
    """Replace the defaults of the options with the values of a recipe, and return its path."""
    if path is not None:
        _take(context, path)
    return path


def _take_preset(context: typer.Context, name: str | None) -> str | None:
    """Replace the defaults of the options with the values of a preset, and return its name."""
    if name is not None:
        check_choice("preset", name, PRESETS)
        _take(context, FOLDER / f"{name}.toml")
    return name


Recipe = Annotated[
    Path | None,
    typer.Option(
        help="TOML file of options; what the command line says goes before it.",
        metavar="FILE",
        is_eager=True,
        callback=_take_recipe,
    ),
]
Preset = Annotated[
    str | None,
    typer.Option(
        help=f"A recipe that comes with unrolled, with its limit in epochs. {one_of(PRESETS)} On a megabyte of text and two "
        "cores they take a minute, three minutes, and twenty with --precision bf16 (35 in float32).",
        metavar="NAME",
        is_eager=True,
        callback=_take_preset,
    ),
]
