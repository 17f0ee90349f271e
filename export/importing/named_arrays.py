"""Arrays of a foreign model by their names in its file."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from numpy.typing import NDArray

NamedArrays = Mapping[str, NDArray]


def listed(names: Iterable[str], most: int = 4) -> str:
    """Return names for a message, at most ``most`` of them and the number of the others."""
    names = list(names)
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
