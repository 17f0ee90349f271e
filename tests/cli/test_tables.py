"""Tests of tables in a terminal of 80 columns: no line is wider, no number is cut, columns are aligned with their names."""

from __future__ import annotations

import io
import itertools
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from measurements import MACHINE, line
from rich.cells import cell_len
from rich.console import Console

from unrolled.bench.batch import BATCH_COLUMNS, batch_cells
from unrolled.bench.parity.agreement import Agreement
from unrolled.bench.peers.registry import peers_of
from unrolled.bench.peers.workloads import SUITES, WORKLOADS
from unrolled.bench.results.tables import FIGURES, by_workload
from unrolled.cli.terminal.measurements import peer_head
from unrolled.cli.terminal.study_display import trial_tables
from unrolled.cli.terminal.tables import StyledRow, fitting_tables, table
from unrolled.cli.verbs.compare import show_agreements
from unrolled.tuning.outcomes import Trial
from unrolled.tuning.space import searchable

WIDTH = 80


def rendered(tables: list[Any], width: int = WIDTH) -> list[str]:
    console = Console(width=width, file=io.StringIO(), force_terminal=False, color_system=None)
    for one in tables:
        console.print(one)
    return console.file.getvalue().splitlines()  # type: ignore[attr-defined]


def check(lines: list[str], cells: list[str], width: int = WIDTH) -> None:
    """Check that no line is wider than ``width``, and that each number stands whole in a cell of its own."""
    assert max(map(cell_len, lines)) <= width
    assert not [one for one in lines if "…" in one]
    found = {cell.strip() for one in lines for cell in re.split("[│┃]", one)}
    assert not [cell for cell in cells if cell.strip() and cell.strip() not in found]


def measurements(suite: str) -> list[dict[str, Any]]:
    lines = []
    for hidden, batch in itertools.product((128, 512), (1, 64)):
        for place, peer in enumerate(peers_of(suite), 1):
            figures = {
                "tokens_per_s": 1_234_567 / place, "ratio_to_torch": 12.34 / place, "peak_fraction": 0.456,
                "peak_rss_mb": 1234.5 * place, "first_call_s": 123.456, "share_of_full_rows": 0.61,
                "calls_per_s": 1_234_567 / place,
            }  # fmt: skip
            if suite == "train":
                figures |= {
                    "busy": 2, "busy_tokens_per_s": 1_234_567 / place, "share_of_fair": 0.75, "busy_ratio_to_torch": 12.34,
                    "busy_median_s": 2.3456 * place,
                }  # fmt: skip
            unit = 1e-6 if suite == "stream" else 1e-3
            median = {"median_s": 1234.5 * place * unit, "spread_s": 12.3 * unit}
            lines.append({**line(peer, 1.0, hidden=hidden, batch=batch, **figures), **median, "suite": suite})
    long = {
        "layers": 2,
        "hidden": 200,
        "batch": 20,
        "length": 20,
        "vocab": 10_000,
        "embedding": 200,
        "optimizer": "sgd",
    }
    return [*lines, {**line("numba", 0.0123, **long), "suite": suite}]


@pytest.mark.parametrize("suite", SUITES)
@pytest.mark.parametrize("figure", FIGURES, ids=lambda figure: figure.title)
def test_a_figure_of_a_bench_has_a_peer_a_column_and_a_workload_a_row(suite: str, figure: Any) -> None:
    peers, rows = by_workload(measurements(suite), figure)
    if suite not in figure.suites or ("busy" in figure.title and suite != "train"):
        assert rows == []
        return
    assert peers == list(peers_of(suite))
    name = {"train": "lstm 1×128 B1 busy 2", "generate": "lstm 1×128 B1 V65", "stream": "lstm 1×128 B1 T64"}
    assert rows[0][0] == name[suite]
    assert len(rows) == 5
    head = ["workload", *map(peer_head, peers)]
    tables = fitting_tables(figure.title, head, [StyledRow(row) for row in rows], WIDTH)
    check(rendered(tables), [cell for row in rows for cell in row[1:]])
    assert len(tables) == 1  # all peers side by side
    tables = fitting_tables(figure.title, ["workload", *peers], [StyledRow(row) for row in rows], WIDTH)
    check(rendered(tables), [cell for row in rows for cell in row[1:]] + peers)
    assert sum(len(one.columns) - 1 for one in tables) == len(peers)
    wide = fitting_tables(figure.title, ["workload", *peers], [StyledRow(row) for row in rows], 200)
    assert len(wide) == 1


def test_cells_stand_under_their_peers_and_repeats_have_rows() -> None:
    lines = [line("numba", 0.002), line("torch", 0.004), line("numba", 0.003), line("numpy", 1.0, parity="failed: x")]
    peers, rows = by_workload([*lines, line("torch", 0.5, hidden=256)], FIGURES[0])
    assert peers == ["numba", "torch"]
    assert rows == [
        ["lstm 1×128 B32", "2", "4"],
        ["lstm 1×128 B32", "3", ""],
        ["lstm 1×256 B32", "", "500"],
    ]
    figures = {figure.title: figure for figure in FIGURES}
    _, spread = by_workload(lines, figures["± half the distance of the quartiles"])
    assert spread == [["lstm 1×128 B32", "2%", "1%"], ["lstm 1×128 B32", "2%", ""]]
    assert by_workload(lines, figures["times as fast as torch"]) == (peers, [])  # nothing was measured beside torch
    assert FIGURES[0].cell(line("numba", 12.3456)) == "12,346"
    assert figures["µs"].cell(line("numba", 12.3e-6)) == "12.3"


@pytest.mark.parametrize("columns", [None, "80", "200"])
def test_the_command_reports_within_80_columns(tmp_path: Path, columns: str | None) -> None:
    """Every line of text has at most 80 columns, also in a file and with remarks of many words or one long word."""
    path, other = tmp_path / "lines.jsonl", tmp_path / "others.jsonl"
    works = [work for suite in WORKLOADS.values() for work in suite]
    named = [{**work.to_dict(), "peer": peer, "median_s": 123.4, "parity": "ok", "threads": 2}
             for work in works for peer in peers_of(work.task)]  # fmt: skip
    failed = line(
        "torch", 1.0, parity="failed: " + "word " * 40 + "x" * 100, failed_settings={"a": "b " * 60, "c": "d" * 90}
    )
    made = [MACHINE, *(one for suite in SUITES for one in measurements(suite)), *named, failed]
    path.write_text("".join(json.dumps(one) + "\n" for one in made))
    other.write_text("".join(json.dumps(one) + "\n" for one in [{**MACHINE, "processor": "y" * 50}, *made[1:], failed]))
    width = {} if columns is None else {"COLUMNS": columns}
    without = {key: value for key, value in os.environ.items() if key != "COLUMNS"}
    for verb in (("report", str(path)), ("compare", str(path), str(other))):
        done = subprocess.run(
            [sys.executable, "-m", "unrolled.cli", "bench", *verb],
            capture_output=True,
            encoding="utf-8",
            env={**without, **width, "PYTHONIOENCODING": "utf-8"},
            check=True,
        )
        assert max(map(cell_len, done.stdout.splitlines())) <= WIDTH
        rows = [one for one in done.stdout.splitlines() if one.startswith(("│", "┃", "┏", "└"))]
        assert len(rows) > 30
        check(rows, ["12.3"] if verb[0] == "report" else ["12.3", "1.00"])


def test_a_batch_has_an_engine_a_column() -> None:
    names = ("full", "written", "read_too", "fixed", "alone")
    rates = {name: 1_234_567.0 * place for place, name in enumerate(names, 1)}
    engines = {engine: batch_cells([rates]) for engine in ("numba", "onnxruntime", "torch", "numpy")}
    rows = [StyledRow(row) for row in zip(BATCH_COLUMNS, *engines.values(), strict=True)]
    tables = fitting_tables("a title", ["", *engines], rows, WIDTH)
    assert len(tables) == 1
    check(rendered(tables), [*engines, *(cell for cells in engines.values() for cell in cells)])


def test_a_study_of_many_settings_is_shared_out_over_tables() -> None:
    names = searchable()[:24]
    params = dict.fromkeys(names, 0.000123456)
    trials = [
        Trial(number, state, 1.2345, params, 3, {"steps": 12_345, "tokens_per_s": 123_456.0})
        for number, state in ((7, "complete"), (12, "pruned"), (3, "diverged"))
    ]
    tables = trial_tables(trials, names, WIDTH)
    lines = rendered(tables)
    check(lines, ["7", "12", "1.2345", "0.000123", "12,345", "123,456", "best", "given up at 30%"])
    assert len(tables) > 1
    assert all(one.columns[0].header == "trial" for one in tables)
    assert len(trial_tables(trials, ["lr", "batch"], WIDTH)) == 1


def test_compare_keeps_numbers_whole_beside_a_long_name() -> None:
    console = Console(width=WIDTH, file=io.StringIO(), force_terminal=False, color_system=None)
    name = "a-rather-long-name-of-a-model-that-somebody-exported.onnx"
    show_agreements(
        console,
        [Agreement("numba", name, 1.2e-6, 1.0, 0.9999, 1.0, tokens_per_s_1=1_234_567.0, tokens_per_s_64=12_345_678.0)],
    )
    check(console.file.getvalue().splitlines(), ["1.2e-06", "100.00%", "99.99%", "1,234,567", "12,345,678"])  # type: ignore[attr-defined]


def test_alarm_a_table_that_is_squeezed_is_found() -> None:
    squeezed = table("", *[f"column {number}" for number in range(12)])
    squeezed.add_row(*["1,234,567"] * 12)
    with pytest.raises(AssertionError):
        check(rendered([squeezed]), ["1,234,567"])
    with pytest.raises(AssertionError):
        check(rendered([squeezed], 200), [])
