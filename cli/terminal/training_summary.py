"""Lines at the start and the end of a training."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from unrolled.cli.terminal.console import emphasis, show_readings, warn
from unrolled.cli.terminal.training_display import clock
from unrolled.engine.data.dataset_warnings import dataset_warnings
from unrolled.engine.models.heads.head import Head, Metric, selecting_metric
from unrolled.engine.models.language_model_config import language_model_of
from unrolled.engine.models.parameters import parameter_count
from unrolled.engine.runs.experiment import PreparedRun
from unrolled.engine.runs.metrics_log import METRICS
from unrolled.engine.runs.resume_file import RESUME
from unrolled.engine.storage.checkpoint import BEST_CHECKPOINT, LAST_CHECKPOINT
from unrolled.engine.training.result import TrainingResult
from unrolled.engine.training.validation_budget import VALIDATION_SHARE


def show_training_start(console: Console, run: PreparedRun, output: Path, processes: int, idle: Sequence[str]) -> None:
    """Print corpus, model and folder of a run that starts, and warnings; ``idle`` names options without effect."""
    config, data = language_model_of(run.trainable.spec), run.experiment.data
    validation = run.dataset.validation
    emphasis(
        console,
        (run.corpus.name, "bold"),
        f": {run.corpus.characters:,} characters, {config.vocab_size:,} {data.level} tokens; "
        f"{run.dataset.train.tokens_per_epoch:,} to train on, "
        f"{validation.tokens_per_epoch if validation else 0:,} to validate on",
    )
    show_readings(console, run.corpus.read_as(data.batching))
    console.print(
        f"{config.cell_definition.title}, {config.num_layers} × {config.hidden_size}, "
        f"{parameter_count(config.spec):,} parameters, "
        f"engine {run.trainable.engine}{f' in {processes} processes' if processes > 1 else ''}, "
        f"batch {data.batch_size} × {data.length} -> {output}"
    )
    for message in (*dataset_warnings(run.dataset), *idle):
        warn(console, message)


def _validation_cost(result: TrainingResult, head: Head, default: bool) -> str:
    """Return a sentence on the share of validation in the work, with the reason if the default budget is exceeded."""
    assert result.last is not None
    size = result.last.count
    times = result.validation_count // size
    text = (
        f"{times:,} validation{'s' if times > 1 else ''} on {size:,} {head.counts} took {result.validation_share:.1%} of "
        f"the work, counted in {head.counts}"
    )
    if default and times == 1 and result.validation_share > VALIDATION_SHARE:
        text += f"; the one at the end alone is more than the {VALIDATION_SHARE:.0%} that the default keeps to"
    return text


def _phrase(metric: Metric, value: float) -> str:
    """Return a metric as a part of a sentence."""
    return f"{metric.text(value)} {metric.unit}" if metric.unit else f"{metric.title} {metric.text(value)}"


def show_training_result(
    console: Console, run: PreparedRun, result: TrainingResult, output: Path, picture: Path | None
) -> None:
    """Print speed, best validation and files of a run that has ended."""
    if not result.losses:
        console.print(
            "the run is finished, nothing is left to do; raise its limit where the schedule does not follow it, or begin "
            "a new one"
        )
    head = run.trainable.spec.head
    ended = "interrupted after" if result.interrupted else "trained for"
    best = result.best
    console.print(
        f"{ended} {result.steps:,} steps, {result.epochs:.2f} epochs, {clock(result.seconds)} "
        f"at {result.count_per_s:,.0f} {head.counts}/s (compilation and first call {result.first_call_s:.1f} s)"
    )
    if best is not None:
        selecting = selecting_metric(head)
        others = ", ".join(_phrase(metric, metric.of(best)) for metric in head.metrics if metric is not selecting)
        emphasis(
            console,
            f"best validation {selecting.title} ",
            (selecting.text(selecting.of(best)), "bold"),
            f" at step {result.best_step:,}" + (f": {others}" if others else ""),
        )
    else:
        console.print("no validation: best.safetensors is the last")
    if result.last is not None:
        console.print(_validation_cost(result, head, run.experiment.training.validate_every is None))
    written = [BEST_CHECKPOINT, LAST_CHECKPOINT, RESUME, METRICS, *([picture.name] if picture else [])]
    console.print(f"in {output}: {', '.join(written)}")
