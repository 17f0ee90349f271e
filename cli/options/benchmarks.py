"""Options of the verbs of ``unrolled bench``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from unrolled.bench.peers.registry import peers_of
from unrolled.bench.peers.workloads import WORKLOADS, Workload, workloads_of
from unrolled.bench.runner import QUICK, Effort
from unrolled.cli.options.help_texts import default, one_of
from unrolled.engine.checks import check_choice
from unrolled.engine.errors import ConfigError

SIZE_OPTIONS = ("cells", "layers", "hidden", "batch", "length", "vocab")
OWN_SIZES = "a named workload has sizes of its own"  # why the options of sizes are refused with one
CellNames = Annotated[str | None, typer.Option(help="Cells, with commas between them, for instance lstm,gru.")]
LayerCounts = Annotated[str | None, typer.Option(help="Numbers of layers.")]
HiddenSizes = Annotated[str | None, typer.Option(help="Hidden sizes.")]
BatchSizes = Annotated[str | None, typer.Option(help="Batch sizes, or streams side by side.")]
JsonFile = Annotated[
    Path | None,
    typer.Option("--json", help="Add every measurement to the end of this file as it is made."),
]
Quick = Annotated[bool, typer.Option("--quick", help="Few sizes and short rounds: a minute or two.")]
Threads = Annotated[int | None, typer.Option(min=1, help=f"Threads of every peer. {default('the cores there are')}")]
Rounds = Annotated[
    int | None,
    typer.Option(
        min=1,
        help="Rounds, of which the median counts. " + default(f"{Effort().rounds}, with --quick {QUICK.rounds}"),
    ),
]


def _peers(suite: str) -> Any:
    return typer.Option(
        help=f"Who takes part, with commas between them; left out: all. There are {', '.join(peers_of(suite))}."
    )


def _workload(suite: str) -> Any:
    return typer.Option(metavar="NAME", help=f"A named set. {one_of(workloads_of(suite))}")


TrainPeers = Annotated[str | None, _peers("train")]
GeneratePeers = Annotated[str | None, _peers("generate")]
StreamPeers = Annotated[str | None, _peers("stream")]
TrainWorkloads = Annotated[str | None, _workload("train")]
GenerateWorkloads = Annotated[str | None, _workload("generate")]
StreamWorkloads = Annotated[str | None, _workload("stream")]


def split_numbers(text: str | None, option: str, usual: Sequence[int]) -> list[int]:
    """Return the whole numbers between commas; ``usual`` if the option was left out."""
    if text is None:
        return list(usual)
    try:
        return [int(part) for part in text.split(",")]
    except ValueError as error:
        raise ConfigError(f"{option}: got {text!r}, needs whole numbers with commas between them") from error


def split_names(text: str | None, usual: Sequence[str]) -> list[str]:
    """Return the names between commas; ``usual`` if the option was left out."""
    return list(usual) if text is None else [part.strip() for part in text.split(",")]


def named_workloads(name: str, suite: str) -> list[Workload]:
    """Return the workloads of a named set; raise ConfigError if it is unknown or belongs to another suite."""
    if name in WORKLOADS and (other := WORKLOADS[name][0].suite) != suite:
        raise ConfigError(f"workload: {name} is measured by unrolled bench {other}")
    check_choice("workload", name, workloads_of(suite))
    return list(WORKLOADS[name])
