"""Pictures of training runs: the loss over training steps of one run or of several."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from unrolled.engine.models.heads.head import Metric
from unrolled.engine.plotting.figures import INK, PALETTE, new_figure, save_figure, split_groups, style_axes
from unrolled.engine.runs.metrics_log import read_metrics

POINTS = 200  # of the longest curve


def draw_loss_curves(runs: Mapping[str, Path], output: Path, loss: Metric, title: str = "") -> None:
    """Draw training loss (line) and validation loss (points) over training steps, one colour a run.

    Args:
        runs: label to run folder.
        output: file, .png, .svg or .pdf.
        loss: the loss among the metrics of the models' head.
        title: above the picture.

    Raises:
        MissingDependencyError: matplotlib is not installed.
    """
    figure = new_figure()
    axes = figure.add_subplot()
    steps = {label: list(read_metrics(folder, "step")) for label, folder in runs.items()}
    # one group size for all, so that equal losses are equal lines
    group = max(1, -(-max(map(len, steps.values()), default=0) // POINTS))
    widths = np.linspace(3.6, 1.2, len(runs)) if len(runs) > 1 else [1.6]
    for (label, folder), color, width in zip(runs.items(), PALETTE * len(runs), widths, strict=False):
        values = (np.array([line[key] for line in steps[label]], float) for key in ("step", "loss"))
        x, y = ([part.mean() for part in split_groups(one, group)] for one in values)
        axes.plot(x, y, color=color, linewidth=width, alpha=0.85, label="training" if len(runs) == 1 else label)
        _draw_validation(axes, label, folder, color, len(runs) == 1)
    axes.set_xlabel("training step")
    axes.set_ylabel(loss.label)
    axes.set_title(title, parse_math=False)
    style_axes(axes)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(frameon=False)
    save_figure(figure, output)


def _draw_validation(axes: Any, label: str, folder: Path, color: str, single: bool) -> None:
    lines = list(read_metrics(folder, "validation"))
    if lines:
        x, y = (np.array([line[key] for line in lines], float) for key in ("step", "loss"))
        color = INK if single else color
        axes.plot(x, y, "o", color=color, markersize=4, label="validation" if single else f"{label}, validation")
