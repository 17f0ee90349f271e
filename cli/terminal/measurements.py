"""Tables of benchmark measurements, within 80 columns."""

from __future__ import annotations

from collections.abc import Sequence

from rich.table import Table
from rich.text import Text

from unrolled.bench.peers.workloads import SUITE_TITLES
from unrolled.bench.results.lines import Line, measured
from unrolled.bench.results.tables import FIGURES, by_workload, machine_text, remarks, summary
from unrolled.cli.terminal.console import out
from unrolled.cli.terminal.tables import StyledRow, fitting_tables, show_tables, table_width

MOST_COLUMNS = 80  # of a line of text, in a terminal and in a file: reports of benchmarks are pasted into messages


def bench_width() -> int:
    """Return the maximal width of the text output of a benchmark."""
    return min(table_width(out), MOST_COLUMNS)


def show_bench_tables(tables: Sequence[Table]) -> None:
    """Print tables of a benchmark."""
    show_tables(out, tables, bench_width())


def show_bench_text(text: str, style: str = "") -> None:
    """Print a paragraph of a benchmark; lines end between words, or inside a word that is wider than a line."""
    out.print(Text(text, style=style), soft_wrap=False, overflow="fold", width=bench_width())


def show_measurements(lines: Sequence[Line]) -> None:
    """Print the machine, and for each suite its tables, remarks and summary."""
    for line in measured(lines, "machine"):
        show_bench_text(machine_text(line))
    for suite, title in SUITE_TITLES.items():
        rows = measured(lines, suite)
        if not rows:
            continue
        for figure in FIGURES:
            peers, cells = by_workload(rows, figure)
            if cells:
                head = ["workload", *map(peer_head, peers)]
                rows_of = [StyledRow(row) for row in cells]
                show_bench_tables(fitting_tables(f"{title}: {figure.title}", head, rows_of, bench_width()))
        for remark in (remark for line in rows for remark in remarks(line)):
            show_bench_text(remark, "yellow")
        if text := summary(lines, suite):
            show_bench_text(text)


def peer_head(peer: str) -> str:
    """Return the name of a peer as the head of a narrow column, with line breaks."""
    return peer.replace("onnxruntime", "onnx-runtime").replace("torchscript", "torch-script").replace("-", "\n")
