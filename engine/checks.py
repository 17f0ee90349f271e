"""Shared checks of settings; each error names the setting, what came and what was needed."""

from __future__ import annotations

from collections.abc import Collection

from unrolled.engine.errors import ConfigError


def check_choice(name: str, value: object, known: Collection[str]) -> None:
    """Check that ``value`` is one of ``known``, usually the keys of a registry; the ConfigError lists them."""
    if not isinstance(value, str) or value not in known:
        raise ConfigError(f"{name}: got {value!r}, choose one of {', '.join(known)}")


def check_seed(seed: object) -> None:
    """Check that ``seed`` fits 64 bits, the width that both NumPy's generators and text generation accept."""
    if not isinstance(seed, int) or not 0 <= seed < 2**64:
        raise ConfigError(f"seed: got {seed!r}, needs a whole number from 0 to 2⁶⁴ - 1")
