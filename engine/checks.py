"""Shared checks of settings; each error names the setting, what came and what was needed."""

from __future__ import annotations

import math
import numbers
from collections.abc import Collection
from typing import Any

from unrolled.engine.errors import ConfigError, SettingName


def check_choice(name: str, value: object, known: Collection[str]) -> None:
    """Check that ``value`` is one of ``known``, usually the keys of a registry; the ConfigError lists them."""
    if not isinstance(value, str) or value not in known:
        raise ConfigError(SettingName(name), f": got {value!r}, choose one of {', '.join(known)}")


def check_flag(name: str, value: object) -> None:
    """Check that ``value`` is true or false."""
    if not isinstance(value, bool):
        raise ConfigError(SettingName(name), f": got {value!r}, needs true or false")


EXACT_LIMIT = 2**53  # floats skip whole numbers from here on: one that arrives as a float may be rounded


def is_number(value: object) -> bool:
    """Return whether the value is a number that a float can hold, infinity and NaN included."""
    if not isinstance(value, numbers.Real) or isinstance(value, bool):
        return False
    try:
        float(value)
    except OverflowError:
        return False
    return True


def check_whole(name: str, value: object, least: int, most: int = 2**63 - 1) -> None:
    """Check that ``value`` is a whole number within its limits."""
    good = isinstance(value, numbers.Integral) and not isinstance(value, bool)
    if not good or not least <= int(value) <= most:  # type: ignore[call-overload]
        too_large = good and int(value) > most  # type: ignore[call-overload]
        limits = f"from {least} to {most}" if too_large or most < 2**63 - 1 else f"of at least {least}"
        hint = ""
        if isinstance(value, float) and EXACT_LIMIT <= abs(value) < math.inf:
            hint = (
                "; a floating-point number of this size may be rounded: write all of its digits, without . and e, "
                "and give a column with missing values an integer type that has them"
            )
        raise ConfigError(SettingName(name), f": got {value!r}, needs a whole number {limits}{hint}")


def check_share(name: str, value: Any, meaning: str) -> None:
    """Check that ``value`` is a number from 0 to 1; ``meaning`` explains one of the ends in the error."""
    if not is_number(value) or not 0 <= value <= 1:
        raise ConfigError(SettingName(name), f": got {value!r}, needs a number from 0 to 1, where {meaning}")
