"""Define ``unrolled bench train``, ``unrolled bench generate`` and ``unrolled bench stream``: measure peers on workloads."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from unrolled.bench.machine.machine_line import machine_line
from unrolled.bench.machine.system import system_info
from unrolled.bench.peers.registry import check_peers, peers_of
from unrolled.bench.peers.workloads import Workload, grid, step_call
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
    StreamPeers,
    StreamWorkloads,
    Threads,
    TrainPeers,
    TrainWorkloads,
    named_workloads,
    split_names,
    split_numbers,
)
from unrolled.cli.options.help_texts import default
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
    busy: int = 0,
) -> None:
    """Measure workloads, append each line to ``file``, and show the tables; exit with 1 if no peer could be measured.

    Each workload is measured by those of the peers that take part in its task.
    """
    if file is not None:
        check_append(file)
    tasks = list(dict.fromkeys(work.task for work in works))
    usual = dict.fromkeys(name for task in tasks for name in peers_of(task) if name != "torch-compile" or not quick)
    names = split_names(peers, list(usual))
    check_peers(names, *tasks)
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

            there = [name for name in names if name in peers_of(work.task)]
            for line in measure(work, there, machine["limits"], count, effort, show, busy):
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
    busy: Annotated[
        int | None,
        typer.Option(
            min=0,
            max=1024,
            help="Measure each round twice, alone and beside this many processes that each keep a core busy. "
            + default("0, of workload busy 1"),
        ),
    ] = None,
) -> None:
    """Whole training steps: forward, back-propagation through time, clipping, Adam.

    A peer whose loss, gradient norm or parameters after two steps are not those of the NumPy reference is not timed.
    Small steps are measured with one thread and with all, and the faster counts.
    With --busy N, torch is measured with one thread and with all, too. A fair share for n threads beside N neighbours on c
    cores is c·n/(n+N) of the cores: of two cores two thirds beside one neighbour, and a half beside two.
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
    neighbours = int(workload == "busy") if busy is None else busy
    _measure_workloads(works, peers, json, quick, threads, rounds, neighbours)


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


def stream(
    context: typer.Context,
    cells: CellNames = None,
    hidden: HiddenSizes = None,
    batch: BatchSizes = None,
    vocab: Annotated[int, typer.Option(help="Tokens of the vocabulary.")] = 65,
    peers: StreamPeers = None,
    workload: StreamWorkloads = None,
    json: JsonFile = None,
    quick: Quick = False,
    threads: Threads = None,
    rounds: Rounds = None,
) -> None:
    """Calls of one time step, as a model that follows a stream makes them: the time of a call from Python, checks included.

    Models have one layer and an embedding as wide as it. A peer whose logits or state after 32 steps are not those of the
    NumPy reference is not timed. Every peer is measured with one thread and with all, and the faster counts.
    """
    if workload is None and (cells, hidden, batch, vocab) == (None, None, None, 65):
        workload = "streaming-quick" if quick else "streaming"
    elif workload is not None:
        refuse_unused(context, ("cells", "hidden", "batch", "vocab"), OWN_SIZES)
    works = named_workloads(workload, "stream") if workload else None
    works = works or [
        step_call(cell, H, B, vocab)
        for cell in split_names(cells, ("lstm", "gru", "rnn"))
        for H in split_numbers(hidden, "--hidden", (64, 128, 256))
        for B in split_numbers(batch, "--batch", (1,))
    ]
    _measure_workloads(works, peers, json, quick, threads, rounds)
