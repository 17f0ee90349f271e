"""Checks of settings that many places make; each names the setting, what came and what was needed."""

from __future__ import annotations

from collections.abc import Collection

from unrolled.engine.errors import ConfigError


def check_choice(name: str, value: object, known: Collection[str]) -> None:
    """Check that ``value`` is one of ``known``, mostly the keys of a registry; ConfigError names them."""
    if not isinstance(value, str) or value not in known:
        raise ConfigError(f"{name}: got {value!r}, choose one of {', '.join(known)}")


def check_seed(seed: object) -> None:
    """Check a seed of NumPy's generators, of 64 bits so that generation takes it too."""
    if not isinstance(seed, int) or not 0 <= seed < 2**64:
        raise ConfigError(f"seed: got {seed!r}, needs a whole number from 0 to 2⁶⁴ - 1")
