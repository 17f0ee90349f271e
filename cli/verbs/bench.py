"""Define ``unrolled bench``: measure engines, show measurements, compare them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from unrolled.bench.batch import BATCH_COLUMNS, BatchJob, batch_cells, measure_batch
from unrolled.bench.machine.machine_line import machine_line
from unrolled.bench.machine.system import system_info
from unrolled.bench.memory import MEMORY_COLUMNS, logits_mb, measure_memory, memory_cells, parameters_mb
from unrolled.bench.overhead import OVERHEAD_COLUMNS, measure_overhead
from unrolled.bench.peers import check_peers, peers_of
from unrolled.bench.results.comparison import compare as compare_lines
from unrolled.bench.results.comparison import other_machine
from unrolled.bench.results.lines import Line, check_machine, measured, read_lines
from unrolled.bench.results.picture import draw
from unrolled.bench.results.tables import FIGURES, by_workload, machine_text, remarks, summary
from unrolled.bench.results.tables import markdown as markdown_tables
from unrolled.bench.runner import QUICK, Effort, measure
from unrolled.bench.workloads import SUITES, WORKLOADS, Workload, grid, workloads_of
from unrolled.cli.options.shared import Overwrite, default, one_of, refuse_unused
from unrolled.cli.options.written_files import check_append, check_output
from unrolled.cli.terminal.console import err, out, warn
from unrolled.cli.terminal.exit_codes import FAILED
from unrolled.cli.terminal.tables import StyledRow, fitting_tables, show_tables, table, table_width
from unrolled.cli.verbs.bench_runtimes import runtimes
from unrolled.engine.checks import check_choice
from unrolled.engine.cores import usable_cores
from unrolled.engine.errors import ConfigError
from unrolled.engine.models.cells import CELLS
from unrolled.engine.storage.json_text import to_json
from unrolled.export.training_engines import TRAINABLES
from unrolled.runtime import ENGINES

bench = typer.Typer(
    help="Measure every engine side by side, each in a process of its own, and report against the machine's limits.",
    no_args_is_help=True,
)
bench.command("runtimes")(runtimes)

SIZE_OPTIONS, OWN_SIZES = (
    ("cells", "layers", "hidden", "batch", "length", "vocab"),
    "a named workload has sizes of its own",
)
CellNames = Annotated[str | None, typer.Option(help="Cells, with commas between them, for instance lstm,gru.")]
LayerCounts = Annotated[str | None, typer.Option(help="Numbers of layers.")]
HiddenSizes = Annotated[str | None, typer.Option(help="Hidden sizes.")]
BatchSizes = Annotated[str | None, typer.Option(help="Batch sizes, or streams side by side.")]
JsonFile = Annotated[
    Path | None,
    typer.Option("--json", help="Add every measurement to the end of this file as it is made."),
]
Quick = Annotated[bool, typer.Option("--quick", help="Few sizes and short rounds: a minute or two.")]
Threads = Annotated[int | None, typer.Option(min=1, help=f"Threads of every peer. {default('the cores there are')}")]
Rounds = Annotated[
    int | None,
    typer.Option(
        min=1,
        help="Rounds, of which the median counts. " + default(f"{Effort().rounds}, with --quick {QUICK.rounds}"),
    ),
]


def _peers(suite: str) -> Any:
    return typer.Option(
        help=f"Who takes part, with commas between them; left out: all. There are {', '.join(peers_of(suite))}."
    )


def _workload(suite: str) -> Any:
    return typer.Option(metavar="NAME", help=f"A named set. {one_of(workloads_of(suite))}")


TrainPeers = Annotated[str | None, _peers("train")]
GeneratePeers = Annotated[str | None, _peers("generate")]
TrainWorkloads = Annotated[str | None, _workload("train")]
GenerateWorkloads = Annotated[str | None, _workload("generate")]


def _numbers(text: str | None, option: str, usual: Sequence[int]) -> list[int]:
    if text is None:
        return list(usual)
    try:
        return [int(part) for part in text.split(",")]
    except ValueError as error:
        raise ConfigError(f"{option}: got {text!r}, needs whole numbers with commas between them") from error


def _names(text: str | None, usual: Sequence[str]) -> list[str]:
    return list(usual) if text is None else [part.strip() for part in text.split(",")]


def _run(
    works: Sequence[Workload],
    peers: str | None,
    file: Path | None,
    quick: bool,
    threads: int | None,
    rounds: int | None,
) -> None:
    """Measure workloads, append each line to ``file``, and show the tables; exit with 1 if no peer could be measured."""
    if file is not None:
        check_append(file)
    suite = works[0].suite
    names = _names(peers, [name for name in peers_of(suite) if name != "torch-compile" or not quick])
    check_peers(names, suite)
    count = threads or usable_cores()
    effort = QUICK if quick else Effort()
    if rounds is not None:
        effort = effort._replace(rounds=rounds)
    if file is not None:
        check_machine(file, system_info())
    lines: list[dict[str, Any]] = []

    def keep(line: dict[str, Any]) -> None:
        lines.append(line)
        if file is not None:
            with file.open("a", encoding="utf-8") as stream:
                stream.write(to_json(line) + "\n")

    with err.status("measuring the machine's limits") as status:
        machine = machine_line(count)
        keep(machine)
        for place, work in enumerate(works, 1):

            def say(text: str, place: int = place) -> None:
                status.update(f"{place} of {len(works)}: {text}")

            for line in measure(work, names, machine["limits"], count, effort, say):
                keep(line)
    _show_measurements(lines)
    if not any(line.get("parity") == "ok" for line in lines):
        raise typer.Exit(FAILED)


@bench.command("train")
def train(
    context: typer.Context,
    cells: CellNames = None,
    layers: LayerCounts = None,
    hidden: HiddenSizes = None,
    batch: BatchSizes = None,
    length: Annotated[int, typer.Option(help="Steps of a batch.")] = 64,
    vocab: Annotated[int, typer.Option(help="Tokens of the vocabulary.")] = 65,
    peers: TrainPeers = None,
    workload: TrainWorkloads = None,
    json: JsonFile = None,
    quick: Quick = False,
    threads: Threads = None,
    rounds: Rounds = None,
) -> None:
    """Whole training steps: forward, back-propagation through time, clipping, Adam.

    A peer whose loss, gradient norm or parameters after two steps are not those of the NumPy reference is not timed.
    """
    if workload is None and (cells, layers, hidden, batch, length, vocab) == (None, None, None, None, 64, 65):
        workload = "train-quick" if quick else "train"
    elif workload is not None:
        refuse_unused(context, SIZE_OPTIONS, OWN_SIZES)
    works = _named(workload, "train") if workload else None
    works = works or grid(
        "train",
        _names(cells, ("lstm", "gru", "rnn")),
        _numbers(layers, "--layers", (1,)),
        _numbers(hidden, "--hidden", (128,) if quick else (128, 256, 512)),
        _numbers(batch, "--batch", (1, 32)),
        length=length,
        vocab=vocab,
    )
    _run(works, peers, json, quick, threads, rounds)


@bench.command("generate")
def generate(
    context: typer.Context,
    cells: CellNames = None,
    layers: LayerCounts = None,
    hidden: HiddenSizes = None,
    batch: BatchSizes = None,
    length: Annotated[int, typer.Option(help="Tokens written in each stream.")] = 64,
    vocab: Annotated[int, typer.Option(help="Tokens of the vocabulary.")] = 100,
    peers: GeneratePeers = None,
    workload: GenerateWorkloads = None,
    json: JsonFile = None,
    quick: Quick = False,
    threads: Threads = None,
    rounds: Rounds = None,
) -> None:
    """Sampled text, one stream or many side by side, from prompt to tokens.

    A peer whose logits or greedy tokens are not those of the NumPy reference is not timed.
    """
    if workload is None and (cells, layers, hidden, batch, length, vocab) == (None, None, None, None, 64, 100):
        workload = "generate-quick" if quick else "generate"
    elif workload is not None:
        refuse_unused(context, SIZE_OPTIONS, OWN_SIZES)
    works = _named(workload, "generate") if workload else None
    works = works or grid(
        "generate",
        _names(cells, ("lstm", "gru", "rnn")),
        _numbers(layers, "--layers", (1,)),
        _numbers(hidden, "--hidden", (128,) if quick else (128, 256, 512)),
        _numbers(batch, "--batch", (1, 64)),
        length=length,
        vocab=vocab,
    )
    _run(works, peers, json, quick, threads, rounds)


@bench.command("overhead")
def overhead(
    cell: Annotated[str, typer.Option(help=f"Cell. {one_of(CELLS)}")] = "lstm",
    layers: Annotated[int, typer.Option(help="Number of layers.")] = 1,
    hidden: Annotated[int, typer.Option(help="Hidden size.")] = 256,
    vocab: Annotated[int, typer.Option(help="Tokens of the vocabulary.")] = 100,
    tokens: Annotated[int, typer.Option(min=1, help="Tokens of a text.")] = 2000,
    rounds: Annotated[int, typer.Option(min=1, help="Rounds, of which the median counts.")] = 9,
) -> None:
    """One text through onnxruntime: what a token costs beside the run of the graph."""
    work = Workload("generate", cell, layers, hidden, 1, vocab=vocab)
    shown = table(f"{cell} {layers} × {hidden}, V = {vocab}: µs a token", "", *OVERHEAD_COLUMNS)
    for name, cells in measure_overhead(work, tokens, rounds).items():
        shown.add_row(name, *cells)
    show_tables(out, [shown])


@bench.command("batch")
def batch(
    cell: Annotated[str, typer.Option(help=f"Cell. {one_of(CELLS)}")] = "lstm",
    layers: Annotated[int, typer.Option(help="Number of layers.")] = 1,
    hidden: Annotated[int, typer.Option(help="Hidden size.")] = 256,
    vocab: Annotated[int, typer.Option(help="Tokens of the vocabulary.")] = 100,
    rows: Annotated[int, typer.Option(min=1, help="Prompts.")] = 2000,
    lanes: Annotated[int, typer.Option(min=1, help="Texts written side by side.")] = 256,
    engines: Annotated[str, typer.Option(help=f"Who takes part. {one_of(ENGINES)}")] = "numba,onnxruntime,torch",
    rounds: Annotated[int, typer.Option(min=1, help="Rounds, of which the median counts.")] = 3,
    threads: Threads = None,
    json: JsonFile = None,
) -> None:
    """Prompts of 5 to 200 tokens, texts of 1 to 400: what is left of an engine's speed at full lanes.

    Beside it stands the rate of prompts and texts of fixed lengths, the mean ones, and that of one text after the other,
    on a sample of 48 rows; these two count the tokens of prompts, too.
    """
    names = _names(engines, ())
    for name in names:
        check_choice("engines", name, ENGINES)
    if json is not None:
        check_append(json)
    work = Workload("generate", cell, layers, hidden, lanes, vocab=vocab)
    rates: dict[str, list[dict[str, Any]]] = {name: [] for name in names}
    with err.status("measuring") as status:
        for place in range(rounds):
            for name in names:
                status.update(f"round {place + 1} of {rounds}: {name}")
                rates[name].append(measure_batch(BatchJob(work, name, rows, lanes, threads or usable_cores())))
    title = f"{cell} {layers} × {hidden}, V = {vocab}: {rows} prompts in {lanes} lanes"
    for name, rounds_of in rates.items():
        if json is not None:
            with json.open("a", encoding="utf-8") as stream:
                for rate in rounds_of:
                    stream.write(
                        to_json({**work.to_dict(), "suite": "batch", "engine": name, "rows": rows, **rate}) + "\n"
                    )
    figures = zip(BATCH_COLUMNS, *(batch_cells(rounds_of) for rounds_of in rates.values()), strict=True)
    show_tables(out, fitting_tables(title, ["", *rates], [StyledRow(cells) for cells in figures], table_width(out)))


@bench.command("memory")
def memory(
    cell: Annotated[str, typer.Option(help=f"Cell. {one_of(CELLS)}")] = "lstm",
    layers: Annotated[int, typer.Option(help="Number of layers.")] = 1,
    hidden: Annotated[int, typer.Option(help="Hidden size.")] = 256,
    rows: Annotated[int, typer.Option("--batch", help="Rows of a batch.")] = 32,
    length: Annotated[int, typer.Option(help="Steps of a batch.")] = 64,
    vocab: Annotated[int, typer.Option(help="Tokens of the vocabulary.")] = 50_000,
    engines: Annotated[str, typer.Option(help=f"Who takes part. {one_of(TRAINABLES)}")] = ",".join(TRAINABLES),
    json: JsonFile = None,
) -> None:
    """Three training steps and an evaluation: the peak memory of each engine."""
    names = _names(engines, ())
    for name in names:
        check_choice("engines", name, TRAINABLES)
    if json is not None:
        check_append(json)
    work = Workload("train", cell, layers, hidden, rows, length, vocab)
    shown = table(work.title, "engine", *MEMORY_COLUMNS)
    for name in names:
        with err.status(name):
            found = measure_memory(name, work)
        shown.add_row(name, *memory_cells(found))
        if json is not None:
            with json.open("a", encoding="utf-8") as stream:
                stream.write(to_json({**found, **work.to_dict(), "suite": "memory"}) + "\n")
    show_tables(out, [shown])
    out.print(
        f"weights, gradients and two moments: {parameters_mb(work):,.0f} MB; "
        f"an array of all logits, which nothing here makes: {logits_mb(work):,.0f} MB"
    )


def _named(name: str, suite: str) -> list[Workload]:
    if name in WORKLOADS and (other := WORKLOADS[name][0].suite) != suite:
        raise ConfigError(f"workload: {name} is measured by unrolled bench {other}")
    check_choice("workload", name, workloads_of(suite))
    return list(WORKLOADS[name])


def _show_measurements(lines: Sequence[Line]) -> None:
    for line in measured(lines, "machine"):
        out.print(machine_text(line))
    for suite in SUITES:
        rows = measured(lines, suite)
        if not rows:
            continue
        title = "Training step" if suite == "train" else "Generation"
        for figure in FIGURES:
            peers, cells = by_workload(rows, figure)
            if cells:
                head = ["workload", *(peer.replace("-", "\n") for peer in peers)]
                show_tables(
                    out,
                    fitting_tables(
                        f"{title}: {figure.title}", head, [StyledRow(row) for row in cells], table_width(out)
                    ),
                )
        for remark in (remark for line in rows for remark in remarks(line)):
            warn(out, remark)
        if text := summary(lines, suite):
            out.print(text)


@bench.command("report")
def report(
    files: Annotated[list[Path], typer.Argument(help="Written by --json of train and generate.")],
    markdown: Annotated[bool, typer.Option("--markdown", help="Print Markdown.")] = False,
    plot: Annotated[Path | None, typer.Option(help="Draw a picture: .png, .svg or .pdf.")] = None,
    overwrite: Overwrite = False,
) -> None:
    """Tables and a picture from files of measurements.

    A table a figure, with a peer a column and a workload a row; Markdown has all figures of a measurement in a row. Repeats
    of a measurement have a row each; the picture shows the last.
    """
    if plot is not None:
        check_output(plot, overwrite, files)
    lines = read_lines(files)
    if plot is not None:
        draw(lines, plot)
        err.print(f"drawn: {plot}")
    if markdown:
        print(markdown_tables(lines), end="")
    else:
        _show_measurements(lines)


@bench.command("compare")
def compare(
    old: Annotated[Path, typer.Argument(help="Measurements before.")],
    new: Annotated[Path, typer.Argument(help="Measurements after.")],
    fail_above: Annotated[
        float | None,
        typer.Option(
            help="Exit with code 1 if anything got slower by more than this many percent, or has no time in the new file."
        ),
    ] = None,
) -> None:
    """What got slower: every workload and peer that the old file measured, the largest slowdown first.

    Of repeats in a file (--json appends) the last one counts. What failed or is missing in the new file is named.
    """
    before, after = read_lines([old]), read_lines([new])
    changes, lost = compare_lines(before, after)
    if other := other_machine(before, after):
        warn(out, other)
    shown = table("Time of a step or text, new over old", "workload", "old ms", "new ms", "ratio", "")
    for change in changes:
        mark = "slower" if change.slower else ""
        shown.add_row(
            change.name, f"{change.old_s * 1e3:.3g}", f"{change.new_s * 1e3:.3g}", f"{change.ratio:.2f}", mark
        )
    show_tables(out, [shown])
    slower = [change for change in changes if change.slower]
    out.print(f"{len(slower)} of {len(changes)} slower by more than 5% and the spread of both measurements")
    for name, why in lost.items():
        warn(out, f"{name}: measured before, now {why}")
    if fail_above is not None and (lost or any(change.ratio > 1 + fail_above / 100 for change in slower)):
        raise typer.Exit(FAILED)
