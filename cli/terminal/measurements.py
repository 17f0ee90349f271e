"""Tables of benchmark measurements."""

from __future__ import annotations

from collections.abc import Sequence

from unrolled.bench.peers.workloads import SUITES
from unrolled.bench.results.lines import Line, measured
from unrolled.bench.results.tables import FIGURES, by_workload, machine_text, remarks, summary
from unrolled.cli.terminal.console import out, warn
from unrolled.cli.terminal.tables import StyledRow, fitting_tables, show_tables, table_width


def show_measurements(lines: Sequence[Line]) -> None:
    """Print the machine, and for each suite its tables, remarks and summary."""
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
