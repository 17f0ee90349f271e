"""Pictures of trainings: the loss over steps of one run or of several."""

from __future__ import annotations

import io
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from unrolled.engine.checkpoint import write_atomically
from unrolled.engine.errors import MissingDependencyError
from unrolled.engine.run_folder import read_metrics

COLORS = ("#2563eb", "#d97706", "#059669", "#dc2626", "#7c3aed")
POINTS = 200  # of the longest line


def _smoothed(values: np.ndarray, group: int) -> np.ndarray:
    """Means of ``group`` neighbours; the last group may be smaller."""
    return np.array([part.mean() for part in np.split(values, range(group, len(values), group))])


def draw_loss_curves(runs: Mapping[str, Path], output: Path, title: str = "") -> None:
    """Training loss (line) and validation loss (points) over steps, one colour a run.

    Args:
        runs: label to run folder.
        output: .png, .svg or .pdf.

    Raises:
        MissingDependencyError: matplotlib is not installed.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingDependencyError('the picture needs matplotlib: pip install "unrolled[plot]"') from error
    figure = Figure(figsize=(8, 4.8), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    steps = {label: list(read_metrics(folder, "step")) for label, folder in runs.items()}
    # one group size for all, so that equal losses are equal lines
    group = max(1, -(-max(map(len, steps.values()), default=0) // POINTS))
    widths = np.linspace(3.6, 1.2, len(runs)) if len(runs) > 1 else [1.6]
    for (label, folder), color, width in zip(runs.items(), COLORS * len(runs), widths, strict=False):
        x, y = (_smoothed(np.array([line[key] for line in steps[label]], float), group) for key in ("step", "loss"))
        axes.plot(x, y, color=color, linewidth=width, alpha=0.85, label="training" if len(runs) == 1 else label)
        _draw_validation(axes, label, folder, color, len(runs) == 1)
    axes.set_xlabel("training step")
    axes.set_ylabel("cross-entropy, nats a token")
    axes.set_title(title, parse_math=False)
    axes.grid(True, color="#e5e7eb", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(frameon=False)
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph")  # a character that the font has not is drawn as a box
        figure.savefig(buffer, format=output.suffix.lstrip("."))
    write_atomically(output, buffer.getvalue())


def _draw_validation(axes: Any, label: str, folder: Path, color: str, single: bool) -> None:
    lines = list(read_metrics(folder, "validation"))
    if lines:
        x, y = (np.array([line[key] for line in lines], float) for key in ("step", "loss"))
        color = "#111827" if single else color
        axes.plot(x, y, "o", color=color, markersize=4, label="validation" if single else f"{label}, validation")
