"""Recipes (TOML files whose values replace the defaults of ``train``), and the presets that are part of the package."""

from __future__ import annotations

import difflib
import json
import math
import sys
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from unrolled.engine.errors import ConfigError, first_line
from unrolled.engine.settings import Definition

FOLDER = Path(__file__).parent
PRESETS = ("small", "medium", "large")


def read_recipe(path: Path, known: Mapping[str, Definition]) -> dict[str, Any]:
    """Return the values of a recipe, keyed by option name with ``_`` for ``-``.

    Args:
        known: the settings that a recipe may contain.

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
        if name not in known:
            near = difflib.get_close_matches(name, known, 1, 0.75)
            hint = f" (did you mean {near[0].replace('_', '-')}?)" if near else ""
            raise ConfigError(f"recipe: {path} has {key}{hint}; known are {', '.join(sorted(known)).replace('_', '-')}")
        recipe[name] = _checked(path, key, value, known[name].kind)
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
