"""Define ``unrolled tune``: search for settings."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from unrolled.cli.options import shared as options
from unrolled.cli.options.groups import OptionGroup, with_groups
from unrolled.cli.options.help_texts import default, one_of
from unrolled.cli.options.recipes import Preset, Recipe
from unrolled.cli.options.training import TRIAL, without_effect
from unrolled.cli.terminal.console import emphasis, err, out, print_json, show_readings, warn
from unrolled.cli.terminal.exit_codes import CHECK_FAILED, INTERRUPTED
from unrolled.cli.terminal.study_display import StudyDisplay, trial_tables
from unrolled.cli.terminal.tables import show_tables, table_width
from unrolled.engine.data.opening import open_corpus
from unrolled.engine.data.readers.options import ReadOptions
from unrolled.engine.errors import UnrolledError
from unrolled.engine.settings import SettingTable, from_options
from unrolled.export.training_engines import check_alone
from unrolled.tuning.outcomes import StudyResult
from unrolled.tuning.plan import Plan
from unrolled.tuning.plots import draw_study
from unrolled.tuning.recipes import write_best
from unrolled.tuning.space import SEARCHED, parse_space, searchable
from unrolled.tuning.storage import BEST, JOURNAL, STUDY_PICTURE, check_folder, import_optuna
from unrolled.tuning.study import run_study

StudyOptions = Annotated[Mapping[str, Any], OptionGroup(SettingTable(Plan))]


@with_groups
def tune(
    corpus: options.CorpusArgument = None,
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder of the study.")] = Path("runs/study"),
    recipe: Recipe = None,
    preset: Preset = None,
    search: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME[=RANGE]",
            help="A setting to search: NAME=LOW:HIGH, NAME=LOW:HIGH:log, NAME=A,B,C, or NAME for its usual range; may be "
            f"repeated. {one_of(name.replace('_', '-') for name in searchable())} " + default(" and ".join(SEARCHED)),
        ),
    ] = None,
    resume: Annotated[
        bool,
        typer.Option(help="Go on with the study in the folder, given the same command; begins where there is none."),
    ] = False,
    overwrite: options.Overwrite = False,
    json: options.Json = False,
    *,
    study: StudyOptions,
    settings: Annotated[Mapping[str, Any], TRIAL],
) -> None:
    """Search for settings of train that give a low validation loss, by many short trainings.

    All other options and recipes are those of train; --steps, --epochs or --seconds is each trial's budget. Writes
    best.toml, which train takes as --recipe, and a picture. The first trial has the settings as given, for a comparison, if
    they are in the space. Ctrl-C ends the study with what is done, and --resume goes on. Exit code 1 where no trial is
    complete.
    """
    check_alone("tune")
    import_optuna()
    space = parse_space(search or (), settings)
    plan = from_options(Plan, study, options=settings, space=space)
    check_folder(output, resume, overwrite)
    text = open_corpus(corpus or (), from_options(ReadOptions, settings))
    console = err if json else out
    searched = ", ".join(f"{name.replace('_', '-')} {domain}" for name, domain in space.items())
    emphasis(
        console,
        (text.name, "bold"),
        f": {text.characters:,} characters; searching {searched} -> {output}",
    )
    readings = text.read_as(str(settings["batching"]))
    show_readings(console, readings)
    for message in without_effect(settings, space):
        warn(console, message)
    with StudyDisplay(console, plan.trials) as display:
        result = run_study(text, corpus or [], plan, output, resume, display, overwrite)
    written = [JOURNAL]
    if result.best is not None:
        write_best(output / BEST, result.best, plan, text)
        written.insert(0, BEST)
    else:
        (output / BEST).unlink(missing_ok=True)  # of an earlier study, which could be mistaken for this one's
    if result.trials:
        written += _draw_picture(console, output, result, plan, text.name)
        show_tables(console, trial_tables(result.trials, list(space), table_width(console)))
    _show_outcome(console, result, output, written, corpus or [])
    if json:
        read = [reading.to_dict() for reading in readings]
        print_json(_json_values(result, read, output))
    if result.interrupted:
        raise typer.Exit(INTERRUPTED)
    if result.best is None:
        raise typer.Exit(CHECK_FAILED)


def _json_values(result: StudyResult, read: list[dict[str, Any]], output: Path) -> dict[str, Any]:
    rows = [trial.to_dict() for trial in result.trials]
    best = result.best and result.best.number
    return {"best": best, "read": read, "interrupted": result.interrupted, "output": str(output), "trials": rows}


def _draw_picture(console: Console, output: Path, result: StudyResult, plan: Plan, name: str) -> list[str]:
    """Draw the picture and return its name in a list; a failure is a warning, because the study's result is saved."""
    try:
        draw_study(result.trials, plan.space, output / STUDY_PICTURE, f"{name}: {len(result.trials)} trials")
    except (UnrolledError, OSError) as error:
        warn(console, f"no picture of the study: {error}")
        return []
    return [STUDY_PICTURE]


def _failures(result: StudyResult) -> str:
    """Return a line with the outcomes of trials of which none is complete, and the reason of the last failure."""
    ended = Counter(trial.state for trial in result.trials)
    counts = ", ".join(f"{number} {state}" for state, number in sorted(ended.items())) or "none ended"
    last = max(result.trials, key=lambda trial: trial.number, default=None)
    reason = None if last is None else last.outcome.get("message")
    return counts if reason is None else f"{counts}; the last one: {reason}"


def _show_outcome(console: Console, result: StudyResult, output: Path, written: list[str], corpus: list[str]) -> None:
    if result.interrupted:
        console.print("interrupted; --resume goes on")
    if result.best is None:
        warn(console, f"no trial is complete, so there is no best one: {_failures(result)}")
    console.print(f"in {output}: {', '.join(written)}")
    if result.best is not None:
        command = ["unrolled", "train", *corpus, "--recipe", str(output / BEST), "-o", "runs/best"]
        console.print(f"Next: {shlex.join(command)}")
