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


def _smoothed(steps: np.ndarray, losses: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Means over equal groups of steps, so that a long run stays a readable line."""
    groups = min(len(losses), 200)
    return (
        np.array([part.mean() for part in np.array_split(steps, groups)]),
        np.array([part.mean() for part in np.array_split(losses, groups)]),
    )


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
    widths = np.linspace(3.6, 1.2, len(runs)) if len(runs) > 1 else [1.6]
    for (label, folder), color, width in zip(runs.items(), COLORS * len(runs), widths, strict=False):
        _draw_run(axes, label, folder, color, float(width), single=len(runs) == 1)
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


def _draw_run(axes: Any, label: str, folder: Path, color: str, width: float, single: bool) -> None:
    steps = list(read_metrics(folder, "step"))
    if steps:
        x, y = _smoothed(np.array([s["step"] for s in steps], float), np.array([s["loss"] for s in steps], float))
        axes.plot(x, y, color=color, linewidth=width, alpha=0.85, label="training" if single else label)
    validation = list(read_metrics(folder, "validation"))
    if validation:
        x, y = np.array([v["step"] for v in validation]), np.array([v["loss"] for v in validation], float)
        color = "#111827" if single else color
        axes.plot(x, y, "o", color=color, markersize=4, label="validation" if single else f"{label}, validation")
