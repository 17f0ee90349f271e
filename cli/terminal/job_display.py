"""Progress and summary of a job: a live line in a terminal, plain lines elsewhere."""

from __future__ import annotations

import time

from rich.console import Console
from rich.progress import BarColumn, TextColumn
from rich.progress import Progress as Bar

from unrolled.cli.terminal.tables import rate
from unrolled.cli.terminal.training_display import clock
from unrolled.engine.data.readers.options import kept_quotes_note
from unrolled.runtime.jobs.job import Progress
from unrolled.runtime.jobs.result_files import STDOUT

PLAIN_S = 10.0  # between two lines of progress outside a terminal


class JobDisplay:
    """Display of rows, tokens/s and time left: a live line in a terminal, a plain line every ten seconds elsewhere."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self._bar = Bar(
            BarColumn(bar_width=20),
            TextColumn("{task.fields[figures]}"),
            console=console,
            disable=not console.is_terminal,
            transient=True,
        )
        self._task = self._bar.add_task("", total=None, figures="")
        self._shown = time.perf_counter()

    def __enter__(self) -> JobDisplay:
        self._bar.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._bar.stop()

    def __call__(self, progress: Progress) -> None:
        if self.console.is_terminal:
            self._bar.update(self._task, completed=progress.rows, total=progress.total, figures=progress_line(progress))
        elif time.perf_counter() - self._shown >= PLAIN_S:
            self._shown = time.perf_counter()
            self.console.print(progress_line(progress))


def progress_line(progress: Progress) -> str:
    """Return the progress of a job in a line; rows of an earlier run do not count for its speed."""
    done = progress.rows - progress.kept
    speed = progress.tokens / max(progress.seconds, 1e-9)
    text = f"{progress.rows:,}"
    if progress.total is not None:
        text += f" of {max(progress.total, progress.rows):,}"
    text += f" rows  {rate(speed)} tokens/s"
    if progress.total is not None and done > 0:
        left = progress.seconds / done * max(progress.total - progress.rows, 0)
        text += f"  {clock(left)} left"
    return text + (f"  {progress.errors:,} errors" if progress.errors else "")


def job_summary(progress: Progress, output: str) -> str:
    """Return the results of a job in a line."""
    if progress.complete:
        return f"{output} is complete: {progress.rows:,} rows; --overwrite writes it anew"
    kept = f", {progress.kept:,} of them before" if progress.kept else ""
    errors = f", {progress.errors:,} of them errors" if progress.errors else ""
    text = (
        f"{progress.rows:,} rows{kept}{errors}; {progress.tokens:,} tokens in {clock(progress.seconds)}, "
        f"{rate(progress.tokens / max(progress.seconds, 1e-9))} tokens/s"
    )
    if progress.blank_lines:
        text += f"; blank lines, which are no rows: {progress.blank_lines:,}"
    text += kept_quotes_note(progress.quoted)
    if progress.interrupted:
        text = "interrupted; " + text + ("" if output == STDOUT else "; --resume goes on")
    return text
