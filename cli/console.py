"""Where output goes: results to standard output, progress and errors to standard error."""

from __future__ import annotations

import json
import math
import os
from typing import Any

from rich.console import Console
from rich.table import Table

WIDTH = int(os.environ["COLUMNS"]) if os.environ.get("COLUMNS", "").isdigit() else None

out = Console(width=WIDTH, highlight=False)
err = Console(width=WIDTH, highlight=False, stderr=True)


def print_json(values: Any) -> None:
    """One JSON document on standard output; numbers that JSON has not become null."""
    print(json.dumps(_finite(values), indent=2, ensure_ascii=False))


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def table(title: str, *columns: str, numbers_from: int = 1) -> Table:
    """An empty table whose columns from ``numbers_from`` on are set to the right."""
    made = Table(title=title, title_justify="left", title_style="bold", header_style="bold")
    for place, column in enumerate(columns):
        made.add_column(column, justify="right" if place >= numbers_from else "left")
    return made


def rate(tokens_per_s: float | None) -> str:
    return "–" if tokens_per_s is None else f"{tokens_per_s:,.0f}"


def share(value: float | None) -> str:
    return "–" if value is None else f"{value:.2%}"
