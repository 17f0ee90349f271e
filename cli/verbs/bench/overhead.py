"""Define ``unrolled bench overhead``: the cost of a token beside the run of the graph."""

from __future__ import annotations

from typing import Annotated

import typer

from unrolled.bench.overhead import OVERHEAD_COLUMNS, measure_overhead
from unrolled.bench.peers.workloads import Workload
from unrolled.cli.options.help_texts import one_of
from unrolled.cli.terminal.measurements import show_bench_tables
from unrolled.cli.terminal.tables import table
from unrolled.engine.models.cells import CELLS


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
    show_bench_tables([shown])
