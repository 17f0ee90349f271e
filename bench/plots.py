"""Pictures of trainings: the loss over steps of one run or of several."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from unrolled.engine.errors import MissingDependencyError
from unrolled.engine.run_folder import read_metrics

COLORS = ("#2563eb", "#d97706", "#059669", "#dc2626", "#7c3aed")


def _smoothed(steps: np.ndarray, losses: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Means over equal groups of steps, so that a long run stays a readable line."""
    group = max(1, math.ceil(len(losses) / 200))
    whole = len(losses) // group * group
    return steps[:whole].reshape(-1, group).mean(axis=1), losses[:whole].reshape(-1, group).mean(axis=1)


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
    axes.set_title(title)
    axes.grid(True, color="#e5e7eb", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    output.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(output)


def _draw_run(axes: Any, label: str, folder: Path, color: str, width: float, single: bool) -> None:
    steps = list(read_metrics(folder, "step"))
    if steps:
        x, y = _smoothed(np.array([s["step"] for s in steps], float), np.array([s["loss"] for s in steps]))
        axes.plot(x, y, color=color, linewidth=width, alpha=0.85, label="training" if single else label)
    validation = list(read_metrics(folder, "validation"))
    if validation:
        x, y = np.array([v["step"] for v in validation]), np.array([v["loss"] for v in validation])
        color = "#111827" if single else color
        axes.plot(x, y, "o", color=color, markersize=4, label="validation" if single else f"{label}, validation")
