"""Define ``unrolled lr-find``: a learning rate range test, under the name that it has in fastai and Lightning.

It is no part of ``tune``, because it needs no Optuna, trains once for some seconds, and is run before everything else.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from unrolled.cli.options import shared as options
from unrolled.cli.options.groups import options_of, with_groups
from unrolled.cli.options.recipes import Preset, Recipe
from unrolled.cli.options.training import TRIAL, without_effect
from unrolled.cli.options.written_files import check_output
from unrolled.cli.terminal.console import emphasis, err, out, print_json, show_readings, warn
from unrolled.cli.terminal.exit_codes import INTERRUPTED
from unrolled.cli.terminal.training_display import TrainingDisplay
from unrolled.engine.data.opening import open_corpus
from unrolled.engine.data.readers.options import ReadOptions
from unrolled.engine.errors import UnrolledError
from unrolled.engine.runs.recipe import LIMIT_OPTIONS
from unrolled.engine.settings import from_options
from unrolled.engine.storage.atomic_files import write_atomically
from unrolled.engine.storage.json_text import to_json
from unrolled.export.training_engines import check_alone
from unrolled.tuning.plots import draw_range_test
from unrolled.tuning.range_test import RangeTest, Sweep, range_test
from unrolled.tuning.trial import Datasets, prepare_trial

CURVE_FILE, CURVE_PICTURE = "lr.jsonl", "lr.png"
# Settings of train that the range test replaces.
NO_EFFECT = (
    *LIMIT_OPTIONS, "validate_every", "lr", "schedule", "warmup", "decay", "decay_after", "decay_patience", "patience",
    "average",
)  # fmt: skip
RangeTestSettings = Annotated[Mapping[str, Any], replace(TRIAL, hidden=NO_EFFECT)]
SweepOptions = Annotated[Sweep, options_of(Sweep)]


@with_groups
def lr_find(
    corpus: options.CorpusArgument = None,
    output: Annotated[
        Path, typer.Option("--output", "-o", help=f"Folder for {CURVE_FILE} and {CURVE_PICTURE}.")
    ] = Path("runs/lr-find"),
    recipe: Recipe = None,
    preset: Preset = None,
    overwrite: options.Overwrite = False,
    json: options.Json = False,
    *,
    sweep: SweepOptions,
    settings: RangeTestSettings,
) -> None:
    """Find a learning rate by a range test: raise it update by update, until the loss explodes.

    Suggests a tenth of the rate with the lowest smoothed loss, and shows where the loss falls fastest, the other customary
    rule (L. N. Smith, "Cyclical Learning Rates for Training Neural Networks", 2017). Options and recipes are those of
    train; its limits, rate and schedules play no part: recipes may hold them, typed they are refused. No model is written.
    """
    check_alone("lr-find")
    console = err if json else out
    curve, picture = output / CURVE_FILE, output / CURVE_PICTURE
    for path in (curve, picture):
        check_output(path, overwrite)
    text = open_corpus(corpus or (), from_options(ReadOptions, settings))
    run = prepare_trial(Datasets(text), {**settings, "average": None})
    readings = text.read_as(run.experiment.data.batching)
    show_readings(console, readings)
    console.print(f"{text.name}: {run.trainable.spec.core.cell_definition.title}, engine {run.trainable.engine}")
    for message in without_effect(settings):
        warn(console, message)
    with TrainingDisplay(console, run.trainable.spec.head) as display:
        test = range_test(run, sweep, display)
    if test.losses:
        output.mkdir(parents=True, exist_ok=True)
        # Removed first, so that no picture of an earlier curve remains if drawing fails.
        picture.unlink(missing_ok=True)
        write_atomically(curve, "".join(to_json(line) + "\n" for line in test.lines()).encode())
        written = [curve.name]
        try:
            draw_range_test(test, picture, f"{text.name}: {run.trainable.spec.core.cell_definition.title}")
            written.append(picture.name)
        except (UnrolledError, OSError) as error:
            warn(console, f"no picture of the curve: {error}")
        _show_suggestion(console, test)
        console.print(f"in {output}: {', '.join(written)}")
    if json:
        figures = {"suggestion": test.suggestion, "steepest_descent": test.steepest, "updates": len(test.losses)}
        read = [reading.to_dict() for reading in readings]
        print_json(
            {**figures, "read": read, "exploded": test.exploded, "interrupted": test.interrupted, "output": str(output)}
        )
    if test.interrupted:
        raise typer.Exit(INTERRUPTED)


def _show_suggestion(console: Console, test: RangeTest) -> None:
    if test.suggestion is None or test.steepest is None:
        warn(console, "the loss never fell, so nothing is suggested; begin with a lower rate, or end with a higher one")
        return
    emphasis(
        console,
        "suggested learning rate ",
        (f"{test.suggestion:.2g}", "bold green"),
        f", a tenth of the rate with the lowest loss; it falls fastest at {test.steepest:.2g}",
    )
    if not test.exploded and not test.interrupted:
        console.print("the loss did not explode; a higher --high would show where it does")
