"""Define ``unrolled bench train`` and ``unrolled bench generate``: measure peers on workloads."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from unrolled.bench.machine.machine_line import machine_line
from unrolled.bench.machine.system import system_info
from unrolled.bench.peers.registry import check_peers, peers_of
from unrolled.bench.peers.workloads import Workload, grid
from unrolled.bench.results.lines import check_machine
from unrolled.bench.runner import QUICK, Effort, measure
from unrolled.cli.options.benchmarks import (
    OWN_SIZES,
    SIZE_OPTIONS,
    BatchSizes,
    CellNames,
    GeneratePeers,
    GenerateWorkloads,
    HiddenSizes,
    JsonFile,
    LayerCounts,
    Quick,
    Rounds,
    Threads,
    TrainPeers,
    TrainWorkloads,
    named_workloads,
    split_names,
    split_numbers,
)
from unrolled.cli.options.refusals import refuse_unused
from unrolled.cli.options.written_files import append_line, check_append
from unrolled.cli.terminal.console import err
from unrolled.cli.terminal.exit_codes import CHECK_FAILED
from unrolled.cli.terminal.measurements import show_measurements
from unrolled.engine.cores import usable_cores


def _measure_workloads(
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
    (task,) = {work.task for work in works}
    names = split_names(peers, [name for name in peers_of(task) if name != "torch-compile" or not quick])
    check_peers(names, task)
    count = threads or usable_cores()
    effort = QUICK if quick else Effort()
    if rounds is not None:
        effort = effort._replace(rounds=rounds)
    if file is not None:
        check_machine(file, system_info())
    lines: list[dict[str, Any]] = []

    def keep(line: dict[str, Any]) -> None:
        lines.append(line)
        append_line(file, line)

    with err.status("measuring the machine's limits") as status:
        machine = machine_line(count)
        keep(machine)
        for place, work in enumerate(works, 1):

            def show(text: str, place: int = place) -> None:
                status.update(f"{place} of {len(works)}: {text}")

            for line in measure(work, names, machine["limits"], count, effort, show):
                keep(line)
    show_measurements(lines)
    if not any(line.get("parity") == "ok" for line in lines):
        raise typer.Exit(CHECK_FAILED)


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
    works = named_workloads(workload, "train") if workload else None
    works = works or grid(
        "train",
        split_names(cells, ("lstm", "gru", "rnn")),
        split_numbers(layers, "--layers", (1,)),
        split_numbers(hidden, "--hidden", (128,) if quick else (128, 256, 512)),
        split_numbers(batch, "--batch", (1, 32)),
        length=length,
        vocab=vocab,
    )
    _measure_workloads(works, peers, json, quick, threads, rounds)


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
    works = named_workloads(workload, "generate") if workload else None
    works = works or grid(
        "generate",
        split_names(cells, ("lstm", "gru", "rnn")),
        split_numbers(layers, "--layers", (1,)),
        split_numbers(hidden, "--hidden", (128,) if quick else (128, 256, 512)),
        split_numbers(batch, "--batch", (1, 64)),
        length=length,
        vocab=vocab,
    )
    _measure_workloads(works, peers, json, quick, threads, rounds)
