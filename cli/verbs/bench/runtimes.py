"""Define ``unrolled bench runtimes``: run exported files in other runtimes."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Annotated

import typer

from unrolled.bench.runtimes.findings import findings
from unrolled.bench.runtimes.registry import HOSTS, select_runtimes
from unrolled.bench.runtimes.tables import errors_of, table_of
from unrolled.cli.options.help_texts import default
from unrolled.cli.options.written_files import append_line, check_append
from unrolled.cli.terminal.console import err
from unrolled.engine.checks import check_choice
from unrolled.engine.models.cells import CELLS


def runtimes(
    python: Annotated[
        str, typer.Option(metavar="FILE", help="Interpreter that has the runtimes' Python packages.")
    ] = sys.executable,
    hosts: Annotated[
        Path, typer.Option(metavar="DIR", help="Folder with node and web, in which npm installed onnxruntime.")
    ] = HOSTS,
    only: Annotated[
        str | None, typer.Option(metavar="TEXT", help="Runtimes in whose name this is. " + default("all"))
    ] = None,
    cells: Annotated[str, typer.Option(help="Cells, with commas between them.")] = ",".join(CELLS),
    json: Annotated[
        Path | None, typer.Option("--json", help="Add what each runtime made of each file to the end of this file.")
    ] = None,
) -> None:
    """Show which exported form and storage runs in which runtime, and how far its numbers are from the NumPy engine's.

    Runtimes that are not installed are left out, with a line that says so. Prints a table in Markdown: the largest
    difference of a logit, and whether greedy and sampled tokens are equal, in the worst of the cells.
    """
    names = [part.strip() for part in cells.split(",")]
    for name in names:
        check_choice("cells", name, CELLS)
    chosen = select_runtimes(only)
    if json is not None:
        check_append(json)
    found = []
    with tempfile.TemporaryDirectory() as folder, err.status("exporting") as status:
        for finding in findings(Path(folder), python, hosts, chosen, names):
            status.update(f"{finding.runtime}: {finding.cell} {finding.form} {finding.storage}")
            found.append(finding)
            append_line(json, {"suite": "runtimes", **finding._asdict()})
    head, *rows = table_of(found)
    for row in [head, ["---"] * len(head), *rows]:
        print(f"| {' | '.join(row)} |")
    for line in errors_of(found):
        print(f"- {line}")
