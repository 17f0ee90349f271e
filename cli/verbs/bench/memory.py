"""Define ``unrolled bench memory``: peak memory of training."""

from __future__ import annotations

from typing import Annotated

import typer

from unrolled.bench.memory import MEMORY_COLUMNS, logits_mb, measure_memory, memory_cells, parameters_mb
from unrolled.bench.peers.workloads import Workload
from unrolled.cli.options.benchmarks import JsonFile, split_names
from unrolled.cli.options.help_texts import one_of
from unrolled.cli.options.written_files import append_line, check_append
from unrolled.cli.terminal.console import err
from unrolled.cli.terminal.measurements import show_bench_tables, show_bench_text
from unrolled.cli.terminal.tables import table
from unrolled.engine.checks import check_choice
from unrolled.engine.models.cells import CELLS
from unrolled.export.training_engines import TRAINABLES


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
    names = split_names(engines, ())
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
        append_line(json, {**found, **work.to_dict(), "suite": "memory"})
    show_bench_tables([shown])
    show_bench_text(
        f"weights, gradients and two moments: {parameters_mb(work):,.0f} MB; "
        f"an array of all logits, which nothing here makes: {logits_mb(work):,.0f} MB"
    )
