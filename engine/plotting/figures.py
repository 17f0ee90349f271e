"""The look that all pictures share, and how they are written; matplotlib is imported when one is drawn."""

from __future__ import annotations

import io
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unrolled.engine.errors import MissingDependencyError
from unrolled.engine.storage.atomic_files import write_atomically

PALETTE = ("#2563eb", "#d97706", "#059669", "#dc2626", "#7c3aed")
INK, GRID, FAINT = "#111827", "#e5e7eb", "#9ca3af"


def groups(values: NDArray, size: int) -> list[NDArray]:
    """``values`` (n,) as groups of ``size`` neighbours, of which a curve is drawn; the last group may be smaller."""
    return np.split(values, range(size, len(values), size))


def new_figure(width: float = 8, height: float = 4.8) -> Any:
    """A matplotlib Figure of so many inches that no window belongs to.

    Raises:
        MissingDependencyError: matplotlib is not installed.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingDependencyError('the picture needs matplotlib: pip install "unrolled[plot]"') from error
    figure = Figure(figsize=(width, height), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def dress(axes: Any) -> None:
    """Grid behind the data, and no frame at the top and the right."""
    axes.grid(True, color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def save_figure(figure: Any, output: Path) -> None:
    """Write a .png, .svg or .pdf, whole or not at all."""
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph")  # a character that the font has not is drawn as a box
        figure.savefig(buffer, format=output.suffix.lstrip("."))
    write_atomically(output, buffer.getvalue())
