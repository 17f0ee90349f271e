"""The display of a training: a live line in a terminal, a plain line at each validation elsewhere."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn
from rich.text import Text

from unrolled.cli.console import warn
from unrolled.engine.trainable import Trainable
from unrolled.engine.training import Observer, StepEvent, TrainingResult, ValidationEvent

REFRESH_S = 0.1  # between two updates of the live line


def clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{rest:02}" if minutes >= 60 else f"{minutes}:{rest:02}"


class TrainingDisplay(Observer):
    """Shows loss, perplexity, tokens/s and time left; with each validation its figures and a sample.

    Args:
        console: where to.
        sample: writes a text with the live model; None: no samples.
    """

    def __init__(self, console: Console, sample: Callable[[Trainable], str] | None = None) -> None:
        self.console, self.sample = console, sample
        self._loss: float | None = None  # smoothed
        self._shown = 0.0
        self._wide = console.width >= 115 or not console.is_terminal
        columns = [TextColumn("{task.fields[position]}"), TextColumn("{task.percentage:3.0f}%")]
        self._progress = Progress(
            *columns[:1],
            *([BarColumn(bar_width=20)] if self._wide else []),
            *columns[1:],
            TextColumn("{task.fields[figures]}"),
            console=console,
            disable=not console.is_terminal,
            transient=True,
        )
        self._task = self._progress.add_task("", total=1.0, position="compiling", figures="")

    def __enter__(self) -> TrainingDisplay:
        self._progress.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._progress.stop()

    def on_step(self, event: StepEvent) -> None:
        self._loss = event.loss if self._loss is None else 0.95 * self._loss + 0.05 * event.loss
        now = time.perf_counter()
        if now - self._shown < REFRESH_S and event.done < 1:
            return
        self._shown = now
        left = event.seconds * (1 - event.done) / max(event.done, 1e-9)
        self._progress.update(
            self._task,
            completed=event.done,
            position=f"step {event.step:,}" + (f", epoch {event.epoch:.2f}" if self._wide else ""),
            figures=f"loss {self._loss:.3f}  perplexity {math.exp(min(self._loss, 50)):.2f}  "
            f"{event.tokens_per_s:,.0f} tokens/s  {clock(left)} left",
        )

    def on_validation(self, event: ValidationEvent, trainable: Trainable, result: TrainingResult) -> None:
        metrics = event.metrics
        line = Text.assemble(
            (f"{clock(event.seconds):>7}", "dim"),
            f"  step {event.step:>6,}" + (f"  epoch {event.epoch:6.2f}" if self._wide else "") + "  validation loss ",
            (f"{metrics.loss:.4f}", "bold green" if event.best else ""),
            f"  perplexity {metrics.perplexity:.2f}",
            f"  bits {metrics.bits_per_token:.3f}  accuracy {metrics.accuracy:.1%}" if self._wide else "",
            f"  {result.tokens_per_s:,.0f} tokens/s" if self._wide else "",
        )
        self.console.print(line)
        if self.sample is not None:
            text = self.sample(trainable).replace("\n", "⏎")
            self.console.print(
                Text(f"         {text}", style="dim"), no_wrap=True, overflow="ellipsis", soft_wrap=False
            )

    def on_warning(self, message: str) -> None:
        warn(self.console, message)
