"""Tests of exit codes: not 0 if everything failed, 0 if something succeeded."""

from __future__ import annotations

import importlib
import sys
from typing import Any

import pytest
from measurements import MACHINE, line

from unrolled.bench.parity.agreement import Agreement
from unrolled.cli.app import run


def command(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["unrolled", *arguments])
    return run()


@pytest.mark.parametrize(
    ("lines", "code"),
    [
        ([line("numba", 1.0, parity="failed: nan"), line("torch", 1.0, parity="left out: torch is not installed")], 1),
        ([line("numba", 1.0, parity="failed: nan"), line("torch", 1.0)], 0),
    ],
)
def test_a_bench_in_which_no_peer_was_measured_ends_with_1(
    lines: list[dict[str, Any]], code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    verb = importlib.import_module("unrolled.cli.verbs.bench.measure")
    monkeypatch.setattr(verb, "machine_line", lambda threads: MACHINE)
    monkeypatch.setattr(verb, "measure", lambda *arguments: iter(lines))
    assert command(monkeypatch, "bench", "train", "--workload", "word", "--peers", "numba,torch") == code
    assert "numba, lstm 1×128 B32: failed: nan" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("errors", "code"), [(("it died", "it died too"), 1), (("it died", None), 0), ((None,), 0), ((), 0)]
)
def test_a_comparison_in_which_the_reference_alone_ran_ends_with_1(
    errors: tuple[str | None, ...],
    code: int,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    verb = importlib.import_module("unrolled.cli.verbs.compare")
    agreements = [Agreement("numpy", "model.safetensors"), *(Agreement("numba", "a.onnx", error=e) for e in errors)]
    monkeypatch.setattr(verb, "implementations", lambda run: [])
    monkeypatch.setattr(verb, "compare_all", lambda *arguments: iter(agreements))
    assert command(monkeypatch, "compare", "somewhere") == code
    assert ("nothing was compared: the reference alone ran" in capsys.readouterr().err) == (code == 1)
