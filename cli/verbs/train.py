"""Define ``unrolled train``: train a model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from unrolled.bench.machine.peak import quick_peak
from unrolled.bench.peers.workloads import flops_per_token
from unrolled.cli.options import shared as options
from unrolled.cli.options.effects import without_effect
from unrolled.cli.options.shared import DATA_PANEL
from unrolled.cli.options.written_files import check_output
from unrolled.cli.terminal.console import err, out, print_json, warn
from unrolled.cli.terminal.exit_codes import INTERRUPTED
from unrolled.cli.terminal.training_display import Speed, TrainingDisplay
from unrolled.cli.terminal.training_summary import show_training_result, show_training_start
from unrolled.engine.data.opening import open_corpus
from unrolled.engine.data.splits import DEFAULT_SPLIT
from unrolled.engine.errors import UnrolledError
from unrolled.engine.models.cells import CELLS
from unrolled.engine.models.initializers import INITIALIZERS
from unrolled.engine.models.language_model_config import language_model_of
from unrolled.engine.network.language_model import TokenStepper
from unrolled.engine.optimizers.config import OPTIMIZERS
from unrolled.engine.optimizers.schedules import SCHEDULES
from unrolled.engine.runs.experiment import PreparedRun, prepare_run
from unrolled.engine.runs.recipe import DEFAULT_EPOCHS, make_experiment
from unrolled.engine.runs.run_files import LOSS_CURVES, check_start
from unrolled.engine.tokenizers.contract import Tokenizer
from unrolled.engine.training.observers import Sampler, TrainingObserver
from unrolled.engine.training.result import TrainingResult
from unrolled.engine.training.trainable import Trainable
from unrolled.engine.training.validation_budget import MAX_SAVE_INTERVAL, VALIDATION_SHARE
from unrolled.export.training_engines import TRAINABLES, make_trainable, training_group
from unrolled.report.loss_curves import draw_loss_curves
from unrolled.report.tensorboard import EventFiles
from unrolled.runtime import generate
from unrolled.runtime.models.engines import TokenizedModel

MODEL_PANEL, OPTIMISATION_PANEL = "Model", "Optimisation"


def train(
    corpus: options.CorpusArgument = None,
    output: Annotated[Path, typer.Option("--output", "-o", help="Run folder to write.")] = Path("runs/run"),
    recipe: options.Recipe = None,
    preset: options.Preset = None,
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
    engine: Annotated[str, typer.Option(metavar="NAME", help=options.one_of(TRAINABLES))] = "numba",
    precision: options.Precision = "float32",
    cell: Annotated[
        str, typer.Option(metavar="NAME", help=options.one_of(CELLS), rich_help_panel=MODEL_PANEL)
    ] = "lstm",
    layers: Annotated[int, typer.Option(rich_help_panel=MODEL_PANEL)] = 1,
    hidden: Annotated[int, typer.Option(help="Units a layer.", rich_help_panel=MODEL_PANEL)] = 256,
    embed: Annotated[int, typer.Option(help="Width of the embedding.", rich_help_panel=MODEL_PANEL)] = 128,
    dropout: Annotated[float, typer.Option(help="Between layers.", rich_help_panel=MODEL_PANEL)] = 0.0,
    input_dropout: Annotated[float, typer.Option(help="Of the embeddings.", rich_help_panel=MODEL_PANEL)] = 0.0,
    output_dropout: Annotated[
        float, typer.Option(help="Of what the output layer reads.", rich_help_panel=MODEL_PANEL)
    ] = 0.0,
    variational: Annotated[
        bool, typer.Option(help="Drop the same units at all steps of a chunk.", rich_help_panel=MODEL_PANEL)
    ] = False,
    tie: Annotated[
        bool,
        typer.Option(help="Use the embedding as output weights; needs embed = hidden.", rich_help_panel=MODEL_PANEL),
    ] = False,
    init: Annotated[
        str,
        typer.Option(
            metavar="NAME", help=f"Initial weights. {options.one_of(INITIALIZERS)}", rich_help_panel=MODEL_PANEL
        ),
    ] = "pytorch",
    init_scale: Annotated[
        float | None,
        typer.Option(
            help="Range of uniform, gain of the others. " + options.default("uniform 0.1, others 1"),
            rich_help_panel=MODEL_PANEL,
        ),
    ] = None,
    forget_bias: Annotated[
        float | None, typer.Option(help="Of an LSTM's forget gates at first.", rich_help_panel=MODEL_PANEL)
    ] = None,
    reset: Annotated[
        bool,
        typer.Option(
            help="Begin each chunk with a state of zeros instead of carrying it on.", rich_help_panel=DATA_PANEL
        ),
    ] = False,
    level: options.Level = "char",
    batching: options.Batching = "stream",
    batch: Annotated[int, typer.Option(help="Lanes or records a batch.", rich_help_panel=DATA_PANEL)] = 32,
    length: Annotated[
        int,
        typer.Option(help="Tokens a chunk; of longer records the end is lost.", rich_help_panel=DATA_PANEL),
    ] = 64,
    split: Annotated[
        str, typer.Option(help="Fractions for training, validation, test.", rich_help_panel=DATA_PANEL)
    ] = ",".join(map(str, DEFAULT_SPLIT)),
    column: options.Column = None,
    field: options.Field = None,
    encoding: options.Encoding = "utf-8",
    delimiter: options.Delimiter = None,
    quoting: options.Quoting = None,
    header: options.Header = None,
    lowercase: Annotated[
        bool | None,
        typer.Option(
            help="Lower-case the text. " + options.default("yes for level word, else no"),
            rich_help_panel=DATA_PANEL,
            show_default=False,
        ),
    ] = None,
    normalize: options.Normalize = None,
    punctuation: Annotated[
        bool, typer.Option(help="Keep punctuation marks as words.", rich_help_panel=DATA_PANEL)
    ] = False,
    vocab_size: Annotated[
        int | None,
        typer.Option(
            help="Most words or byte pairs. " + options.default("all words, 2048 byte pairs"),
            rich_help_panel=DATA_PANEL,
        ),
    ] = None,
    unknown: options.Unknown = None,
    optimizer: Annotated[
        str, typer.Option(metavar="NAME", help=options.one_of(OPTIMIZERS), rich_help_panel=OPTIMISATION_PANEL)
    ] = "adam",
    lr: Annotated[
        float | None,
        typer.Option(
            help="Learning rate. "
            + options.default(", ".join(f"{n} {r.default_learning_rate:g}" for n, r in OPTIMIZERS.items())),
            rich_help_panel=OPTIMISATION_PANEL,
        ),
    ] = None,
    schedule: Annotated[
        str, typer.Option(metavar="NAME", help=options.one_of(SCHEDULES), rich_help_panel=OPTIMISATION_PANEL)
    ] = "cosine",
    momentum: Annotated[float, typer.Option(help="Of sgd.", rich_help_panel=OPTIMISATION_PANEL)] = 0.0,
    alpha: Annotated[
        float, typer.Option(help="Decay of rmsprop's mean of squared gradients.", rich_help_panel=OPTIMISATION_PANEL)
    ] = 0.99,
    beta1: Annotated[
        float, typer.Option(help="Decay of adam's and adamw's mean of gradients.", rich_help_panel=OPTIMISATION_PANEL)
    ] = 0.9,
    beta2: Annotated[
        float, typer.Option(help="Decay of their mean of squared gradients.", rich_help_panel=OPTIMISATION_PANEL)
    ] = 0.999,
    eps: Annotated[
        float,
        typer.Option(
            help="Of rmsprop, adam and adamw: added to the root of that mean.",
            rich_help_panel=OPTIMISATION_PANEL,
        ),
    ] = 1e-8,
    weight_decay: Annotated[
        float | None,
        typer.Option(
            help="L2 penalty; decoupled for adamw. " + options.default("adamw 0.01, others 0"),
            rich_help_panel=OPTIMISATION_PANEL,
        ),
    ] = None,
    warmup: Annotated[
        int, typer.Option(help="Steps over which the rate rises from nothing.", rich_help_panel=OPTIMISATION_PANEL)
    ] = 0,
    decay: Annotated[
        float,
        typer.Option(help="Factor of one step down of schedule step or plateau.", rich_help_panel=OPTIMISATION_PANEL),
    ] = 0.5,
    decay_after: Annotated[
        int,
        typer.Option(
            help="Epochs before schedule step goes down, then each epoch.", rich_help_panel=OPTIMISATION_PANEL
        ),
    ] = 1,
    decay_patience: Annotated[
        int,
        typer.Option(
            help="Validations without a better loss that plateau lets pass.", rich_help_panel=OPTIMISATION_PANEL
        ),
    ] = 0,
    patience: Annotated[
        int | None,
        typer.Option(
            help="Stop after so many validations without a better loss; never if left out.",
            rich_help_panel=OPTIMISATION_PANEL,
        ),
    ] = None,
    average: Annotated[
        float | None,
        typer.Option(
            help="Evaluate and save a moving average of the weights, of this decay, for instance 0.999.",
            rich_help_panel=OPTIMISATION_PANEL,
        ),
    ] = None,
    label_smoothing: Annotated[
        float,
        typer.Option(
            help="Share of the target's probability spread over all tokens.", rich_help_panel=OPTIMISATION_PANEL
        ),
    ] = 0.0,
    clip_value: Annotated[
        float | None,
        typer.Option(
            help="Largest size of any one gradient, before --clip; any if left out.", rich_help_panel=OPTIMISATION_PANEL
        ),
    ] = None,
    sum_over_time: Annotated[
        bool,
        typer.Option(
            help="Sum the loss over a chunk's steps instead of averaging it: gradients are T times as large.",
            rich_help_panel=OPTIMISATION_PANEL,
        ),
    ] = False,
    clip: Annotated[
        float, typer.Option(help="Largest gradient norm; 0: no clipping.", rich_help_panel=OPTIMISATION_PANEL)
    ] = 1.0,
    epochs: Annotated[
        float | None,
        typer.Option(
            help="Passes over the data, also a fraction. " + options.default(f"{DEFAULT_EPOCHS} without another limit")
        ),
    ] = None,
    steps: Annotated[int | None, typer.Option(help="Updates.")] = None,
    seconds: Annotated[float | None, typer.Option(help="Of training, validation included.")] = None,
    validate_every: Annotated[
        int | None,
        typer.Option(
            help="Steps between validations. "
            + options.default(
                f"an epoch, {MAX_SAVE_INTERVAL} at the most; "
                f"more where validation would take over {VALIDATION_SHARE:.0%} of the work"
            )
        ),
    ] = None,
    seed: options.Seed = 0,
    samples: Annotated[
        bool, typer.Option(help="Write a sample with each validation, on the screen and into metrics.jsonl.")
    ] = True,
    tensorboard: Annotated[
        bool,
        typer.Option("--tensorboard", help="Keep event files in the run folder too, for tensorboard --logdir."),
    ] = False,
    json: options.Json = False,
) -> None:
    """Train a model on text and write a run folder: best and last checkpoint, metrics.jsonl, picture of the loss.

    A recipe is a TOML file of these options by their names, for instance hidden = 256 or output-dropout = 0.1.
    Several limits may be given; the first one reached ends the training. Ctrl-C ends it too, and keeps what there is.
    """
    given = locals()  # keyed by the names of the options
    experiment, reading, idle = make_experiment(given), options.read_options(given), without_effect(given)
    with training_group(engine) as group:
        group.shared(lambda: _check_output(output, overwrite, resume))
        observers: list[TrainingObserver] = [EventFiles(output)] if tensorboard else []
        text = open_corpus(corpus or (), reading, group)
        run = prepare_run(
            text,
            experiment,
            lambda spec, params, rule, clip: make_trainable(engine, spec, params, rule, clip, precision, group),
        )
        console = Console(quiet=True) if not group.leads else err if json else out
        show_training_start(console, run, output, group.size, idle)
        sampler = _sampler(run.dataset.tokenizer, seed) if samples else None
        with TrainingDisplay(console, _speed(run) if group.leads and console.is_terminal else None) as display:
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
        picture = _draw_losses(console, output, title)
        show_training_result(console, run, result, output, picture)
    if json:
        read = [reading.to_dict() for reading in run.corpus.read_as(run.experiment.data.batching)]
        print_json({**result.to_dict(), "read": read, "output": str(output)})


def _speed(run: PreparedRun) -> Speed:
    data, trainable = run.experiment.data, run.trainable
    return Speed(
        flops_per_token(language_model_of(trainable.spec), data.batch_size, data.length), quick_peak(trainable.engine)
    )


def _sampler(tokenizer: Tokenizer, seed: int) -> Sampler:
    """Return a function that generates a short text from the model in training, with equal draws, to show progress."""

    def sample(trainable: Trainable) -> str:
        model = TokenizedModel(trainable.engine, TokenStepper(trainable), tokenizer)
        start = tokenizer.start_prompt()
        return generate(model, [start], max_new_tokens=120, temperature=0.7, seed=seed)[0].text

    return sample


def _draw_losses(console: Console, output: Path, title: str) -> Path | None:
    """Draw the picture of the loss and return its path; a failure is a warning, because the training's result is saved."""
    try:
        draw_loss_curves({"run": output}, output / LOSS_CURVES, title)
    except (UnrolledError, OSError) as error:
        warn(console, f"no picture of the loss: {error}")
        return None
    return output / LOSS_CURVES
