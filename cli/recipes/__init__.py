"""Recipes: options of ``train`` from a TOML file, in the place of their defaults; and those that come with unrolled."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import typer

from unrolled.engine.checks import check_choice
from unrolled.engine.errors import ConfigError

FOLDER = Path(__file__).parent
PRESETS = ("small", "medium", "large")
NO_SETTINGS = (
    "recipe",
    "preset",
    "output",
    "overwrite",
    "resume",
    "corpus",
    "json",
)  # what a run does, not how it trains


def read_recipe(path: Path, known: set[str]) -> dict[str, Any]:
    """Option names, with ``_`` for ``-``, to the values of a recipe.

    Args:
        known: the names that there are.

    Raises:
        ConfigError: the file cannot be read, is no TOML, or has a key that is no option, or a table or list.
    """
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"recipe: {path} cannot be read ({error.strerror})") from error
    except ValueError as error:  # of TOML, and of text that is not UTF-8
        raise ConfigError(f"recipe: {path} is not TOML ({error})") from error
    recipe = {name.replace("-", "_"): value for name, value in values.items()}
    if unknown := sorted(set(recipe) - known):
        raise ConfigError(f"recipe: {path} has {', '.join(unknown)}; known are {', '.join(sorted(known))}")
    for name, value in recipe.items():
        if isinstance(value, dict | list):
            raise ConfigError(f"recipe: {path}: {name} is a {type(value).__name__}, needs one value")
    return recipe


def _take(context: typer.Context, path: Path) -> None:
    known = {parameter.name or "" for parameter in context.command.params} - set(NO_SETTINGS)
    # the preset and the recipe: what the recipe says goes before the preset, whichever is read first
    recipe, earlier = read_recipe(path, known), dict(context.default_map or {})
    context.default_map = {**earlier, **recipe} if path.parent != FOLDER else {**recipe, **earlier}


def take_recipe(context: typer.Context, path: Path | None) -> Path | None:
    """The options' defaults become those of the recipe ``path``."""
    if path is not None:
        _take(context, path)
    return path


def take_preset(context: typer.Context, name: str | None) -> str | None:
    """The options' defaults become those of a preset."""
    if name is not None:
        check_choice("preset", name, PRESETS)
        _take(context, FOLDER / f"{name}.toml")
    return name
