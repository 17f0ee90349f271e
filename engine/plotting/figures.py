"""The shared style of all figures, and their files; matplotlib is imported only when one is drawn."""

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


def split_groups(values: NDArray, size: int) -> list[NDArray]:
    """Return ``values`` (n,) in groups of ``size`` neighbours, each for one point of a curve; the last group may be smaller."""
    return np.split(values, range(size, len(values), size))


def new_figure(width: float = 8, height: float = 4.8) -> Any:
    """Return a matplotlib Figure without a window; sizes are in inches.

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


def style_axes(axes: Any) -> None:
    """Draw a grid below the data, and remove the frame at the top and the right."""
    axes.grid(True, color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def save_figure(figure: Any, output: Path) -> None:
    """Write a .png, .svg or .pdf atomically."""
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph")  # a character missing from the font is drawn as a box
        figure.savefig(buffer, format=output.suffix.lstrip("."))
    write_atomically(output, buffer.getvalue())
