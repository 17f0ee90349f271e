"""Display of a training: live lines in a terminal, a plain line at each validation elsewhere."""

from __future__ import annotations

import time
from dataclasses import fields, replace
from typing import NamedTuple

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from unrolled.cli.terminal.console import WIDE_COLUMNS, warn
from unrolled.engine.models.heads.head import Head, Metric, Metrics, selecting_metric
from unrolled.engine.training.events import SampleEvent, StepEvent, ValidationEvent
from unrolled.engine.training.observers import TrainingObserver
from unrolled.engine.training.result import TrainingResult
from unrolled.engine.training.trainable import Trainable

REFRESH_S = 0.1  # minimal time between two updates of the live lines
DRAWING_SHARE = 0.004  # maximal share of the time for drawing live lines
SMOOTHING = 0.95


class Speed(NamedTuple):
    """Conversion of the speed of a training to a share of the machine's peak."""

    flops: float  # for each position or sequence that counts
    peak_gflops: float | None  # float32 FMA peak; None if unknown

    def text(self, count_per_s: float) -> str:
        gflops = self.flops * count_per_s / 1e9
        if self.peak_gflops is None:
            return f"{gflops:,.1f} GFLOP/s (the machine's peak is not known)"
        share = gflops / self.peak_gflops
        return (
            f"{share:{'.0%' if share >= 0.1 else '.1%'}} of the peak ({gflops:,.0f} of {self.peak_gflops:,.0f} GFLOP/s)"
        )


def clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{rest:02}" if minutes >= 60 else f"{minutes}:{rest:02}"


class TrainingDisplay(TrainingObserver):
    """Display of the head's metrics, gradient norm, speed and time left, and of each validation with a sample.

    The live lines are drawn by the training's own thread, and less often if drawing is slow, so that drawing takes less than
    ``DRAWING_SHARE`` of the time.

    Args:
        console: destination of the lines.
        head: the head of the model.
        speed: conversion of speeds on this machine; None: the share of the peak is not shown.
    """

    def __init__(self, console: Console, head: Head, speed: Speed | None = None) -> None:
        self.console, self.head, self.speed = console, head, speed
        self._metrics: Metrics | None = None  # smoothed
        self._norm = 0.0  # smoothed
        self._steps = 0
        self._next = 0.0  # time of the next update of the lines
        self._validated = ""
        self._wide = console.width >= WIDE_COLUMNS or not console.is_terminal
        self._live: Live | None = None

    def __enter__(self) -> TrainingDisplay:
        if self.console.is_terminal:
            waiting = Text("compiling or loading the kernels", style="dim")
            self._live = Live(waiting, console=self.console, auto_refresh=False, transient=True)
            self._live.start(refresh=True)
        return self

    def __exit__(self, *error: object) -> None:
        if self._live is not None:
            self._live.stop()

    def on_step(self, event: StepEvent) -> None:
        if self._live is None:
            return
        self._steps += 1
        # A plain mean over the first steps, so that the very first one does not linger.
        keep = min(SMOOTHING, 1 - 1 / self._steps)
        self._metrics = _smoothed(self._metrics, event.metrics, keep)
        self._norm += (1 - keep) * (event.grad_norm - self._norm)
        now = time.perf_counter()
        if now < self._next and event.done < 1:
            return
        self._live.update(self._lines(event, self._metrics), refresh=True)
        after = time.perf_counter()
        self._next = after + max(REFRESH_S, (after - now) / DRAWING_SHARE)

    def _lines(self, event: StepEvent, metrics: Metrics) -> RenderableType:
        """Return three lines of at most 80 columns, with smoothed metrics."""
        left = event.seconds * (1 - event.done) / max(event.done, 1e-9)
        top = Table.grid(padding=(0, 2), expand=False)
        top.add_row(
            Text.assemble((f"step {event.step:,}", "bold"), f"  epoch {event.epoch:.2f}"),
            ProgressBar(1.0, event.done, width=40 if self._wide else 20),
            f"{event.done:.0%}  {clock(left)} left",
        )
        selecting = selecting_metric(self.head)
        figures = Text()
        for metric in self._shown(wide=False):
            figures.append(f"{metric.title} ").append(metric.text(metric.of(metrics)), _bold(metric is selecting))
            figures.append("  ")
        figures.append(f"gradient norm {self._norm:.3g}")
        speed = Text(f"{event.count_per_s:,.0f} {self.head.counts}/s", style="dim")
        if self.speed is not None:
            speed.append(f"  {self.speed.text(event.count_per_s)}")
        if self._wide and self._validated:
            figures.append(f"  validation {self._validated}")
        for line in (figures, speed):
            line.no_wrap, line.overflow = True, "ellipsis"
        return Group(top, figures, speed)

    def on_validation(self, event: ValidationEvent, trainable: Trainable, result: TrainingResult) -> None:
        selecting = selecting_metric(self.head)
        self._validated = selecting.text(selecting.of(event.metrics))
        line = Text.assemble(
            (f"{clock(event.seconds):>7}", "dim"),
            f"  step {event.step:>6,}" + (f"  epoch {event.epoch:6.2f}" if self._wide else "") + "  validation",
        )
        for number, metric in enumerate(self._shown(self._wide)):
            style = "bold green" if event.best and metric is selecting else ""
            line.append(f"{'  ' if number else ' '}{metric.title} ").append(
                metric.text(metric.of(event.metrics)), style
            )
        if self._wide:
            line.append(f"  {result.count_per_s:,.0f} {self.head.counts}/s")
        self.console.print(line, soft_wrap=not self.console.is_terminal)

    def _shown(self, wide: bool) -> list[Metric]:
        """Return the metrics for which a line has room."""
        return [metric for metric in self.head.metrics if wide or not metric.detail]

    def on_sample(self, event: SampleEvent) -> None:
        text = event.text.replace("\n", "⏎")
        self.console.print(Text(f"         {text}", style="dim"), no_wrap=True, overflow="ellipsis", soft_wrap=False)

    def on_warning(self, message: str) -> None:
        warn(self.console, message)


def _bold(wanted: bool) -> str:
    return "bold" if wanted else ""


def _smoothed(before: Metrics | None, now: Metrics, keep: float) -> Metrics:
    """Return metrics whose means are moved from those before towards those of now, by a share of 1 - ``keep``."""
    if before is None:
        return now
    means = {field.name: getattr(before, field.name) for field in fields(now) if field.type in (float, "float")}
    return replace(now, **{name: old + (1 - keep) * (getattr(now, name) - old) for name, old in means.items()})
