"""Define ``unrolled bench report`` and ``unrolled bench compare``: show and compare measurements."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from unrolled.bench.results.comparison import compare as compare_lines
from unrolled.bench.results.comparison import other_machine
from unrolled.bench.results.lines import read_lines
from unrolled.bench.results.picture import draw
from unrolled.bench.results.tables import markdown as markdown_tables
from unrolled.cli.options.shared import Overwrite
from unrolled.cli.options.written_files import check_output
from unrolled.cli.terminal.console import err
from unrolled.cli.terminal.exit_codes import CHECK_FAILED
from unrolled.cli.terminal.measurements import show_bench_tables, show_bench_text, show_measurements
from unrolled.cli.terminal.tables import table


def report(
    files: Annotated[list[Path], typer.Argument(help="Written by --json of train, generate and stream.")],
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
        show_measurements(lines)


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
        show_bench_text(other, "yellow")
    shown = table("Time of a step, text or call, new over old", "workload", "old ms", "new ms", "ratio", "")
    for change in changes:
        mark = "slower" if change.slower else ""
        shown.add_row(
            change.name, f"{change.old_s * 1e3:.3g}", f"{change.new_s * 1e3:.3g}", f"{change.ratio:.2f}", mark
        )
    show_bench_tables([shown])
    slower = [change for change in changes if change.slower]
    show_bench_text(f"{len(slower)} of {len(changes)} slower by more than 5% and the spread of both measurements")
    for name, why in lost.items():
        show_bench_text(f"{name}: measured before, now {why}", "yellow")
    if fail_above is not None and (lost or any(change.ratio > 1 + fail_above / 100 for change in slower)):
        raise typer.Exit(CHECK_FAILED)
