"""Parts of help texts, and flags of options."""

from __future__ import annotations

from collections.abc import Iterable


def one_of(names: Iterable[str]) -> str:
    """Return the sentence of a help text that lists the values of an option."""
    return f"One of {', '.join(names)}."


def default(text: str) -> str:
    """Return a default in words as the help shows it, escaped because help texts are rich markup."""
    return f"\\[default: {text}]"


def flag(name: str) -> str:
    """Return the flag of an option."""
    return f"--{name.replace('_', '-')}"
