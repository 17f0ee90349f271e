"""Define ``unrolled train``: train a model."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from unrolled.bench.machine.peak import quick_peak
from unrolled.bench.peers.flops import flops_per_token
from unrolled.cli.options import shared as options
from unrolled.cli.options.engines import TrainingEngine
from unrolled.cli.options.groups import with_groups
from unrolled.cli.options.recipes import Preset, Recipe
from unrolled.cli.options.training import TRAINING, TRAINING_OUTPUT, TrainingOutput, without_effect
from unrolled.cli.options.written_files import check_output
from unrolled.cli.terminal.console import err, out, print_json, warn
from unrolled.cli.terminal.exit_codes import INTERRUPTED
from unrolled.cli.terminal.training_display import Speed, TrainingDisplay
from unrolled.cli.terminal.training_summary import show_training_result, show_training_start
from unrolled.engine.data.opening import open_corpus
from unrolled.engine.data.readers.options import ReadOptions
from unrolled.engine.errors import UnrolledError
from unrolled.engine.models.heads.head import Metric
from unrolled.engine.network.language_model import TokenStepper
from unrolled.engine.runs.experiment import PreparedRun, continue_normalization, prepare_run
from unrolled.engine.runs.recipe import make_experiment
from unrolled.engine.runs.run_files import LOSS_CURVES, check_start
from unrolled.engine.settings import from_options
from unrolled.engine.tokenizers.contract import Tokenizer
from unrolled.engine.training.observers import Sampler, TrainingObserver
from unrolled.engine.training.result import TrainingResult
from unrolled.engine.training.trainable import Trainable
from unrolled.export.training_engines import make_trainable, training_group
from unrolled.report.loss_curves import draw_loss_curves
from unrolled.report.tensorboard import EventFiles
from unrolled.runtime import generate
from unrolled.runtime.models.engines import TokenizedModel


@with_groups
def train(
    corpus: options.CorpusArgument = None,
    output: Annotated[Path, typer.Option("--output", "-o", help="Run folder to write.")] = Path("runs/run"),
    recipe: Recipe = None,
    preset: Preset = None,
    overwrite: Annotated[
        bool, typer.Option(help="Replace a run that is in the folder, its picture and exported files too.")
    ] = False,
    resume: Annotated[
        bool,
        typer.Option(
            help="Go on with the run in the folder, given the same command; bit for bit as if it had not stopped, "
            "unless --seconds limits it. Begins where there is none."
        ),
    ] = False,
    json: options.Json = False,
    *,
    settings: Annotated[Mapping[str, Any], TRAINING],
    extras: Annotated[TrainingOutput, TRAINING_OUTPUT],
) -> None:
    """Train a model on text and write a run folder: best and last checkpoint, metrics.jsonl, picture of the loss.

    A recipe is a TOML file of these options by their names, for instance hidden = 256 or output-dropout = 0.1.
    Several limits may be given; the first one reached ends the training. Ctrl-C ends it too, and keeps what there is.
    """
    asked, reading = make_experiment(settings), from_options(ReadOptions, settings)
    chosen = from_options(TrainingEngine, settings)
    with training_group(chosen.engine) as group:
        group.shared(lambda: _check_output(output, overwrite, resume))
        experiment = group.shared(lambda: continue_normalization(asked, output)) if resume else asked
        observers: list[TrainingObserver] = [EventFiles(output)] if extras.tensorboard else []
        text = open_corpus(corpus or (), reading, group)
        run = prepare_run(
            text,
            experiment,
            lambda spec, params, rule, clip: make_trainable(
                chosen.engine, spec, params, rule, clip, chosen.precision, group
            ),
        )
        console = Console(quiet=True) if not group.leads else err if json else out
        show_training_start(console, run, output, group.size, without_effect(settings))
        sampler = _sampler(run.dataset.tokenizer, experiment.training.seed) if extras.samples else None
        speed = _speed(run) if group.leads and console.is_terminal else None
        with TrainingDisplay(console, run.trainable.spec.head, speed) as display:
            result = run.run(output, overwrite, [*observers, display], resume, sampler, group)
    if group.leads:
        _show_end(console, run, result, output, json)
    if result.interrupted:
        raise typer.Exit(INTERRUPTED)


def _check_output(output: Path, overwrite: bool, resume: bool) -> None:
    """Check that a run and its picture, which only this verb draws, may be written to a folder."""
    check_start(output, overwrite, resume)
    if not resume:
        check_output(output / LOSS_CURVES, overwrite)


def _show_end(console: Console, run: PreparedRun, result: TrainingResult, output: Path, json: bool) -> None:
    if result.steps == 0:
        console.print("interrupted before the first step; nothing is written")
    else:
        title = f"{run.corpus.name}: {run.trainable.spec.core.cell_definition.title}, {run.trainable.engine}"
        picture = _draw_losses(console, output, run.trainable.spec.head.metrics[0], title)
        show_training_result(console, run, result, output, picture)
    if json:
        read = [reading.to_dict() for reading in run.corpus.read_as(run.experiment.data.batching)]
        print_json({**result.to_dict(run.trainable.spec.head), "read": read, "output": str(output)})


def _speed(run: PreparedRun) -> Speed:
    data, trainable = run.experiment.data, run.trainable
    return Speed(flops_per_token(trainable.spec, data.batch_size, data.length), quick_peak(trainable.engine))


def _sampler(tokenizer: Tokenizer, seed: int) -> Sampler:
    """Return a function that generates a short text from the model in training, with equal draws, to show progress."""

    def sample(trainable: Trainable) -> str:
        model = TokenizedModel(trainable.engine, TokenStepper(trainable), tokenizer)
        start = tokenizer.start_prompt()
        return generate(model, [start], max_new_tokens=120, temperature=0.7, seed=seed)[0].text

    return sample


def _draw_losses(console: Console, output: Path, loss: Metric, title: str) -> Path | None:
    """Draw the picture of the loss and return its path; a failure is a warning, because the training's result is saved."""
    try:
        draw_loss_curves({"run": output}, output / LOSS_CURVES, loss, title)
    except (UnrolledError, OSError) as error:
        warn(console, f"no picture of the loss: {error}")
        return None
    return output / LOSS_CURVES
