"""Tests of the display of a training: its text, its width, and its share of the time."""

from __future__ import annotations

import io
from dataclasses import make_dataclass
from pathlib import Path

import pytest
from rich.console import Console

from unrolled.bench.machine import peak
from unrolled.bench.peers.flops import flops_per_token
from unrolled.bench.peers.workloads import Workload
from unrolled.cli.terminal import training_display
from unrolled.cli.terminal.training_display import Speed, TrainingDisplay
from unrolled.engine.models.heads.next_token import NextTokenHead, TokenMetrics
from unrolled.engine.models.language_model_config import LanguageModelConfig
from unrolled.engine.training.events import SampleEvent, StepEvent

HEAD = NextTokenHead(65)


def event(step: int, done: float = 0.5) -> StepEvent:
    return StepEvent(step, step / 100, 30.0, done, 1.5, 0.25, 1e-3, 2048, 100_000.0, TokenMetrics(1.5, 0.5, 2048))


def test_means_are_smoothed_whether_annotations_are_strings_or_types() -> None:
    as_types = make_dataclass("Metrics", [("loss", float), ("count", int)])
    as_strings = make_dataclass("Metrics", [("loss", "float"), ("count", "int")])
    for metrics in (as_types, as_strings):
        got = training_display._smoothed(metrics(2.0, 7), metrics(6.0, 9), 0.75)  # type: ignore[arg-type]
        assert (got.loss, got.count) == (3.0, 9)


@pytest.mark.parametrize("width", [80, 140])
@pytest.mark.parametrize(
    ("speed", "shown"),
    [
        (Speed(1e6, 200.0), "50% of the peak (100 of 200 GFLOP/s)"),
        (Speed(1e6, None), "100.0 GFLOP/s (the machine's peak is not known)"),
        (None, "100,000 tokens/s"),
    ],
)
def test_a_terminal_shows_all_figures_in_its_width(width: int, speed: Speed | None, shown: str) -> None:
    plain = Console(width=width, file=io.StringIO(), record=True)
    display = TrainingDisplay(Console(width=width, file=io.StringIO(), force_terminal=True), HEAD, speed)
    with display:
        display.on_step(event(12_345))
        plain.print(display._lines(event(12_345), event(12_345).metrics))
    text = plain.export_text()
    for part in (
        "step 12,345", "epoch 123.45", "50%", "0:30 left", "loss 1.5000", "perplexity 4.48", "accuracy 50.0%",
        "gradient norm 0.25", "100,000 tokens/s", shown,
    ):  # fmt: skip
        assert part in text
    assert len(text.splitlines()) == 3
    assert max(map(len, text.splitlines())) <= width


def test_drawing_takes_a_bounded_share_of_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(training_display.time, "perf_counter", lambda: now[0])
    display = TrainingDisplay(Console(width=80, file=io.StringIO(), force_terminal=True), HEAD)
    drawn: list[float] = []

    def slow(*arguments: object, **settings: object) -> None:
        drawn.append(now[0])
        now[0] += 0.01

    with display:
        assert display._live is not None
        monkeypatch.setattr(display._live, "update", slow)
        for step in range(1, 10_001):
            now[0] += 0.001
            display.on_step(event(step))
    assert 3 <= len(drawn) <= 6
    assert len(drawn) * 0.01 / now[0] <= 1.5 * training_display.DRAWING_SHARE


def test_elsewhere_steps_print_nothing_and_a_sample_is_one_line() -> None:
    console = Console(width=80, file=io.StringIO())
    with TrainingDisplay(console, HEAD) as display:
        display.on_step(event(1))
        display.on_sample(SampleEvent(1, "one\ntwo [red]three[/red]"))
    assert isinstance(console.file, io.StringIO)
    assert console.file.getvalue().strip() == "one⏎two [red]three[/red]"


def test_operations_a_token_are_those_of_the_benchmark() -> None:
    config = LanguageModelConfig("lstm", 65, 128, 256, 2)
    work = Workload("train", "lstm", 2, 256, 32, 64, 65, 128)
    assert flops_per_token(config.spec, 32, 64) == work.flops / (32 * 64)


def test_a_peak_that_cannot_be_measured_is_not_known_and_other_engines_do_not_wait(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    limits = pytest.importorskip("unrolled.bench.machine.limits", reason="numba is not installed")

    def no_folder() -> float:
        raise RuntimeError("cannot cache function: no locator available")

    monkeypatch.setattr(limits, "core_peak", no_folder)
    assert peak.quick_peak.__wrapped__("numba") is None
    monkeypatch.setattr(limits, "core_peak", lambda: pytest.fail("was measured"))
    assert peak.quick_peak.__wrapped__("numpy") is None
    assert peak.quick_peak.__wrapped__("torch") is None


def test_the_best_peak_is_kept(tmp_path: Path) -> None:
    file = tmp_path / peak.FILE
    assert peak._best_so_far(file, "a", 100.0) == 100.0
    assert peak._best_so_far(file, "a", 80.0) == 100.0
    assert peak._best_so_far(file, "b", 80.0) == 80.0
    file.write_text("{damaged")
    assert peak._best_so_far(file, "a", 90.0) == 90.0
    assert peak._best_so_far(tmp_path / "no" / "x" / peak.FILE, "a", 70.0) == 70.0
