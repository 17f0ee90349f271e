"""Display of a study: a line for each finished trial, and in a terminal live lines for the running ones."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Column, Table
from rich.text import Text

from unrolled.cli.terminal.console import WIDE_COLUMNS, warn
from unrolled.cli.terminal.tables import StyledRow, fitting_tables, rate
from unrolled.tuning.outcomes import Trial
from unrolled.tuning.space import Value, written
from unrolled.tuning.study import StudyObserver
from unrolled.tuning.trial import RUNGS

STYLES = {"complete": "", "pruned": "dim"}


def trial_settings(trial: Trial) -> str:
    return "  ".join(f"{name.replace('_', '-')} {setting(value)}" for name, value in trial.params.items())


def setting(value: Value) -> str:
    return f"{value:.3g}" if isinstance(value, float) else written(value)


def state(trial: Trial) -> str:
    return f"given up at {trial.rung / RUNGS:.0%}" if trial.state == "pruned" else trial.state


class StudyDisplay(StudyObserver):
    """Display of running and finished trials and the best loss so far.

    Args:
        console: destination of the lines.
        trials: number of trials of the study.
    """

    def __init__(self, console: Console, trials: int) -> None:
        self.console, self.total = console, trials
        self._best: float | None = None
        self._ended = 0
        self._tasks: dict[int, TaskID] = {}
        self._progress = Progress(
            TextColumn("{task.description}", table_column=Column(no_wrap=True)),
            *([BarColumn(bar_width=20)] if console.width >= WIDE_COLUMNS else []),
            TextColumn("{task.percentage:3.0f}%", table_column=Column(no_wrap=True)),
            TextColumn("{task.fields[figures]}", table_column=Column(no_wrap=True, overflow="ellipsis")),
            *([TimeElapsedColumn()] if console.width >= WIDE_COLUMNS else []),
            console=console,
            disable=not console.is_terminal,
            transient=True,
        )
        self._all = self._progress.add_task("study", total=trials, figures="")

    def __enter__(self) -> StudyDisplay:
        self._progress.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._progress.stop()

    def on_begin(self, trials: list[Trial]) -> None:
        if trials:
            self.console.print(f"going on after {len(trials)} trial{'s' if len(trials) > 1 else ''}")
        for trial in trials:
            self._count(trial)

    def on_start(self, trial: Trial) -> None:
        figures = f"loading or compiling  {trial_settings(trial)}"
        self._tasks[trial.number] = self._progress.add_task(f"trial {trial.number}", total=1.0, figures=figures)

    def on_pulse(self, trial: Trial, done: float, step: int) -> None:
        loss = "" if trial.loss is None else f"loss {trial.loss:.4f}  "
        figures = f"{loss}{trial_settings(trial)}  step {step:,}"
        self._progress.update(self._tasks[trial.number], completed=done, figures=figures)

    def on_end(self, trial: Trial) -> None:
        self._progress.remove_task(self._tasks.pop(trial.number))
        best = self._count(trial)
        seconds = trial.outcome.get("seconds")
        message = trial.outcome.get("message")
        line = Text.assemble(
            (f"trial {trial.number:>3}  ", "dim"),
            (f"{trial.loss:.4f}" if trial.loss is not None else "     –", "bold green" if best else ""),
            f"  {trial_settings(trial)}",
            (f"  {state(trial)}" if trial.state != "complete" else "", "yellow" if message else "dim"),
            (
                f"  {trial.outcome['steps']:,} steps, {seconds:.0f} s{_validation(trial)}"
                if seconds is not None
                else "",
                "dim",
            ),
            (f": {message}" if message else "", "yellow"),
        )
        self.console.print(line)

    def on_warning(self, message: str) -> None:
        warn(self.console, message)

    def _count(self, trial: Trial) -> bool:
        """Count a finished trial, and return whether it is the best so far."""
        self._ended += 1
        best = trial.state == "complete" and trial.loss is not None and (self._best is None or trial.loss < self._best)
        if best:
            self._best = trial.loss
        text = f"{self._ended} of {self.total}" + ("" if self._best is None else f"  best loss {self._best:.4f}")
        self._progress.update(self._all, completed=self._ended, figures=text)
        return best


def _validation(trial: Trial) -> str:
    """Return the share of validation in a trial's work as text; empty for trials of 0.1.0, which did not record it."""
    share = trial.outcome.get("validation_share")
    return "" if share is None else f", {share:.0%} of the work validation"


def trial_tables(trials: Sequence[Trial], names: Sequence[str], width: int) -> list[Table]:
    """Return tables of all trials in the order given, the best one highlighted, each at most ``width`` characters wide."""
    columns = ["trial", "loss", *(name.replace("_", "-\n") for name in names), "steps", "tokens/s", "state"]
    rows = []
    for place, trial in enumerate(trials):
        first = place == 0 and trial.state == "complete"
        cells = [
            str(trial.number),
            "–" if trial.loss is None else f"{trial.loss:.4f}",
            *(setting(trial.params[name]) if name in trial.params else "–" for name in names),
            *_figures(trial),
            "best" if first else state(trial),
        ]
        rows.append(StyledRow(cells, "bold green" if first else STYLES.get(trial.state, "yellow")))
    return fitting_tables("Trials by validation loss, nats a token", columns, rows, width)


def _figures(trial: Trial) -> list[str]:
    steps = trial.outcome.get("steps")
    return ["–" if steps is None else f"{steps:,}", rate(trial.outcome.get("tokens_per_s"))]
