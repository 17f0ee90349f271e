"""Recipes (TOML files whose values replace the defaults of ``train``), and the presets that are part of the package."""

from __future__ import annotations

import difflib
import inspect
import json
import math
import sys
import tomllib
import typing
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from unrolled.engine.checks import check_choice
from unrolled.engine.errors import ConfigError, first_line

FOLDER = Path(__file__).parent
PRESETS = ("small", "medium", "large")
# Options of train that do not decide how a run trains.
NO_SETTINGS = ("recipe", "preset", "output", "overwrite", "resume", "corpus", "json")


def read_recipe(path: Path, kinds: Mapping[str, type]) -> dict[str, Any]:
    """Return the values of a recipe, keyed by option name with ``_`` for ``-``.

    Args:
        kinds: type of the values of each option.

    Raises:
        ConfigError: the file cannot be read, is empty or is not TOML in UTF-8; or a key is no option, is repeated, or has a
            value of another type, and the message names the key.
    """
    try:
        values = tomllib.loads(path.read_bytes().decode("utf-8-sig"))
    except OSError as error:
        raise ConfigError(f"recipe: {path} cannot be read ({error.strerror})") from error
    except UnicodeDecodeError as error:
        raise ConfigError(
            f"recipe: {path} is not UTF-8 ({error.reason} at byte {error.start}); save it as that"
        ) from error
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"recipe: {path} is not TOML ({first_line(error)})") from error
    if not values:
        raise ConfigError(f"recipe: {path} is empty; needs options, for instance hidden = 256")
    recipe: dict[str, Any] = {}
    for key, value in values.items():
        name = key.replace("-", "_")
        if name in recipe:
            raise ConfigError(f"recipe: {path}: {key} is there twice, with - and with _; leave one")
        if name not in kinds:
            near = difflib.get_close_matches(name, kinds, 1, 0.75)
            hint = f" (did you mean {near[0].replace('_', '-')}?)" if near else ""
            raise ConfigError(f"recipe: {path} has {key}{hint}; known are {', '.join(sorted(kinds)).replace('_', '-')}")
        recipe[name] = _checked(path, key, value, kinds[name])
    return recipe


WANTED = {bool: "true or false", int: "a whole number", float: "a finite number", str: "a text in quotes"}


def _checked(path: Path, key: str, value: Any, kind: type) -> Any:
    """Return a value as ``kind``; a whole number is accepted for a float."""
    if isinstance(value, dict | list):
        raise ConfigError(f"recipe: {path}: {key} is a {type(value).__name__}, needs one value")
    if kind is float and type(value) is int and abs(value) <= sys.float_info.max:
        value = float(value)
    finite = not isinstance(value, float) or math.isfinite(value)
    if type(value) is not kind or not finite:
        got = json.dumps(value) if isinstance(value, bool | int | float | str) else str(value)
        raise ConfigError(f"recipe: {path}: {key}: got {got}, needs {WANTED[kind]}")
    return value


def kinds_of(verb: Callable[..., Any]) -> dict[str, type]:
    """Return the options of a verb that a recipe may set, each with the type of its values."""
    kinds = {}
    for name, parameter in inspect.signature(verb, eval_str=True).parameters.items():
        hint = parameter.annotation
        hint = typing.get_args(hint)[0] if typing.get_origin(hint) is Annotated else hint
        plain = [kind for kind in typing.get_args(hint) or (hint,) if kind is not type(None)]
        if name not in NO_SETTINGS and plain[0] in WANTED:
            kinds[name] = plain[0]
    return kinds


def _take(context: typer.Context, path: Path) -> None:
    assert context.command.callback is not None
    # A recipe takes precedence over a preset, in either order of reading.
    recipe, earlier = read_recipe(path, kinds_of(context.command.callback)), dict(context.default_map or {})
    context.default_map = {**earlier, **recipe} if path.parent != FOLDER else {**recipe, **earlier}


def take_recipe(context: typer.Context, path: Path | None) -> Path | None:
    """Replace the defaults of the options with the values of a recipe, and return its path."""
    if path is not None:
        _take(context, path)
    return path


def take_preset(context: typer.Context, name: str | None) -> str | None:
    """Replace the defaults of the options with the values of a preset, and return its name."""
    if name is not None:
        check_choice("preset", name, PRESETS)
        _take(context, FOLDER / f"{name}.toml")
    return name
