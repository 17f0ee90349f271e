"""Define ``unrolled bench batch``: speed with prompts and texts of many lengths."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from unrolled.bench.batch import BATCH_COLUMNS, BatchJob, batch_cells, measure_batch
from unrolled.bench.peers.workloads import Workload
from unrolled.cli.options.benchmarks import JsonFile, Threads, split_names
from unrolled.cli.options.help_texts import one_of
from unrolled.cli.options.written_files import append_line, check_append
from unrolled.cli.terminal.console import err
from unrolled.cli.terminal.measurements import bench_width, show_bench_tables
from unrolled.cli.terminal.tables import StyledRow, fitting_tables
from unrolled.engine.checks import check_choice
from unrolled.engine.cores import usable_cores
from unrolled.engine.models.cells import CELLS
from unrolled.runtime import ENGINES


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
    names = split_names(engines, ())
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
        for rate in rounds_of:
            append_line(json, {**work.to_dict(), "suite": "batch", "engine": name, "rows": rows, **rate})
    figures = zip(BATCH_COLUMNS, *(batch_cells(rounds_of) for rounds_of in rates.values()), strict=True)
    show_bench_tables(fitting_tables(title, ["", *rates], [StyledRow(cells) for cells in figures], bench_width()))
