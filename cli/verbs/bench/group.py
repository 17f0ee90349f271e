"""The group ``unrolled bench`` with its verbs."""

from __future__ import annotations

import typer

from unrolled.cli.verbs.bench.batch import batch
from unrolled.cli.verbs.bench.measure import generate, stream, train
from unrolled.cli.verbs.bench.memory import memory
from unrolled.cli.verbs.bench.overhead import overhead
from unrolled.cli.verbs.bench.results import compare, report
from unrolled.cli.verbs.bench.runtimes import runtimes

bench = typer.Typer(
    help="Measure every engine side by side, each in a process of its own, and report against the machine's limits.",
    no_args_is_help=True,
)
for verb in (runtimes, train, generate, stream, overhead, batch, memory, report, compare):
    bench.command(verb.__name__)(verb)
