"""Tests of the benchmark: counted operations, parity gate, files and reports, and one small run of each suite."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer
from measurements import LIMITS, MACHINE, line
from typer.testing import CliRunner

from unrolled.bench import runner
from unrolled.bench.batch import BATCH_COLUMNS, BatchJob, batch_cells, measure_batch
from unrolled.bench.machine import limits
from unrolled.bench.overhead import OVERHEAD_COLUMNS, measure_overhead
from unrolled.bench.parity_gate import PARITY, ROUNDED_PARITY, compare_arrays
from unrolled.bench.peers import contestant_process
from unrolled.bench.peers.contestant_process import ContestantProcess, TimedContestant
from unrolled.bench.peers.inputs import make_checkpoint
from unrolled.bench.peers.registry import PEERS, Peer, peers_of
from unrolled.bench.peers.workloads import SUITES, WORKLOADS, Workload, grid, step_call, workloads_of
from unrolled.bench.results import comparison, lines, picture, tables
from unrolled.bench.runner import Effort, measure
from unrolled.cli.app import app
from unrolled.engine.cores import ONNXRUNTIME_THREADS, THREAD_VARIABLES
from unrolled.engine.errors import ConfigError, ModelFileError
from unrolled.engine.processes.messages import pack_arrays, unpack_arrays
from unrolled.engine.processes.worker import WorkerError
from unrolled.runtime.models.onnx_model import open_checkpoint


def write(path: Path, *lines: dict[str, Any]) -> Path:
    path.write_text("".join(json.dumps(entry) + "\n" for entry in lines))
    return path


def test_work_counted_by_hand() -> None:
    # 3 steps of 2 rows, V = 5, E = 7, H = 4, an LSTM of two layers
    work = Workload("train", "lstm", 2, 4, 2, 3, 5, 7)
    recurrent = 2 * 6 * 4 * 16 * 3  # two hidden products and one input product of (6, 4) by (4, 16)
    output, table = 2 * 6 * 4 * 5, 2 * 5 * 7 * 16
    assert work.flops == 3 * (recurrent + output + table)
    # with more tokens in the vocabulary than in the batch only those of the batch are multiplied
    assert Workload("train", "rnn", 1, 4, 2, 3, 50, 7).flops == 3 * (2 * 6 * 4 * 4 + 2 * 6 * 4 * 50 + 2 * 6 * 7 * 4)
    generated = Workload("generate", "gru", 1, 4, 2, 3, 5, 7)
    assert generated.flops == 2 * 6 * 4 * 12 + 2 * 6 * 4 * 5
    assert generated.weight_bytes == 4 * (4 * 12 + 4 * 5)
    assert generated.tokens == 6


TAGGER = Workload("train", "gru", 2, 4, 3, 5, 11, 7, classes=6, bidirectional=True)


def test_work_of_both_directions_and_of_ragged_rows_counted_by_hand() -> None:
    N = 3 * 5  # time steps; H = 4, and 12 rows of gates in each of two layers and two directions
    hidden, between = 4 * (2 * N * 4 * 12), 2 * (2 * N * 8 * 12)
    table, output = 2 * (2 * 11 * 7 * 12), 2 * N * 8 * 6
    assert TAGGER.flops == 3 * (hidden + between + table + output)
    ragged = dataclasses.replace(TAGGER, ragged=True)
    assert ragged.lengths is not None
    assert sorted(ragged.lengths) == [1, 3, 5]
    assert ragged.tokens == 9  # fewer than the 11 tokens of the vocabulary
    hidden, between, table, output = (part * 9 // N for part in (hidden, between, 2 * (2 * N * 7 * 12), output))
    assert ragged.flops == 3 * (hidden + between + table + output)


def test_work_on_real_values_counted_by_hand() -> None:
    N = 3 * 5  # time steps of 7 columns; H = 4, and 12 rows of gates in each of two directions
    work = dataclasses.replace(TAGGER, layers=1, values=7)
    hidden, read, output = 2 * (2 * N * 4 * 12), 2 * (2 * N * 7 * 12), 2 * N * 8 * 6
    assert work.flops == 3 * (hidden + output) + 2 * read  # values need no gradient


def test_lengths_of_ragged_rows_are_evenly_spread_from_1_to_all_time_steps() -> None:
    for B, T in ((32, 64), (128, 64), (3, 5), (1, 9)):
        lengths = Workload("train", "lstm", 1, 8, B, T, classes=2, ragged=True).lengths
        assert lengths is not None
        assert (len(lengths), lengths.dtype) == (B, np.int64)
        assert 1 <= lengths.min() <= lengths.max() <= T
        assert abs(lengths.mean() - (T + 1) / 2) <= 0.5
        if B > 1:
            assert (np.diff(lengths) < 0).any()  # in no order
    assert Workload("train", "lstm", classes=2).lengths is None


def test_only_taggers_are_bidirectional_or_ragged() -> None:
    with pytest.raises(ConfigError, match="values: needs classes"):
        Workload("train", "lstm", values=3)
    for name in ("bidirectional", "ragged"):
        with pytest.raises(ConfigError, match=f"{name}: needs classes"):
            Workload("train", "lstm", **{name: True})
        with pytest.raises(ConfigError, match=f"{name}: got 1, needs true or false"):
            Workload("train", "lstm", classes=3, **{name: 1})
    with pytest.raises(ConfigError, match="classes: a tagger has no suite generate"):
        Workload("generate", "lstm", classes=3)
    for wrong in (-1, 2.5):
        with pytest.raises(ConfigError, match="values: got"):
            Workload("train", "lstm", classes=3, values=wrong)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="classes: got 1"):
        Workload("train", "lstm", classes=1)


def test_named_workloads_are_of_one_suite_and_all_different() -> None:
    for name, works in WORKLOADS.items():
        assert len({work.suite for work in works}) == 1, name
        assert len(set(works)) == len(works), name
    assert len(WORKLOADS["train"]) == 3 * 3 * 4 + 3 * 2


def test_sizes_that_make_no_sense_are_refused() -> None:
    with pytest.raises(ConfigError, match="batch"):
        Workload("train", "lstm", batch=0)
    with pytest.raises(ConfigError, match="cell"):
        grid("train", ["lsmt"], [1], [8], [1])


REFERENCE = {"loss 1": np.array(2.0), "rnn.weight_hh_l0 1": np.linspace(-1, 1, 12).reshape(3, 4)}


@pytest.mark.parametrize("name", REFERENCE)
def test_parity_alarm(name: str) -> None:
    assert compare_arrays({key: value * (1 + 1e-7) for key, value in REFERENCE.items()}, REFERENCE) == "ok"
    wrong = dict(REFERENCE)
    wrong[name] = REFERENCE[name] + 3 * PARITY["parameters"]
    assert compare_arrays(wrong, REFERENCE).startswith(f"{name} differs by")
    wrong[name] = REFERENCE[name] * np.nan
    assert compare_arrays(wrong, REFERENCE).startswith(f"{name} differs by nan")
    wrong[name] = np.zeros(5)
    assert "shape" in compare_arrays(wrong, REFERENCE)
    assert compare_arrays({}, REFERENCE) == "loss 1, rnn.weight_hh_l0 1 missing"


def test_greedy_tokens_must_be_the_same_to_the_last() -> None:
    tokens = np.array([[1, 2, 3]])
    assert compare_arrays({"greedy": tokens}, {"greedy": tokens}) == "ok"
    assert compare_arrays({"greedy": tokens + [[0, 0, 1]]}, {"greedy": tokens}) != "ok"
    assert compare_arrays({"loss": np.array(4.02)}, {"loss": np.array(4.0)}) != "ok"
    assert compare_arrays({"loss": np.array(4.02)}, {"loss": np.array(4.0)}, ROUNDED_PARITY) == "ok"
    assert compare_arrays({"loss": np.array(4.05)}, {"loss": np.array(4.0)}, ROUNDED_PARITY) != "ok"


SHORT = Effort(rounds=2, seconds=0.01, patience=120)


@pytest.mark.parametrize("suite", ["train", "generate"])
def test_a_small_run(suite: str) -> None:
    work = Workload(suite, "gru", 1, 16, 3, 5, 11, 8)
    lines = {entry["peer"]: entry for entry in measure(work, ["numpy", "numba"], LIMITS, 2, SHORT)}
    assert set(lines) == {"numpy", "numba"}
    for entry in lines.values():
        assert entry["parity"] == "ok"
        assert entry["gflops"] == pytest.approx(work.flops / entry["median_s"] / 1e9)
        assert entry["peak_fraction"] == pytest.approx(entry["gflops"] / 200)
        assert entry["tokens_per_s"] == pytest.approx(15 / entry["median_s"])
        assert entry["rounds"] == 2
        assert entry["first_call_s"] > 0
        assert "ratio_to_torch" not in entry


def test_a_peer_whose_results_differ_is_reported_and_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    work = Workload("train", "rnn", 1, 8, 2, 3, 5, 4)
    monkeypatch.setattr("unrolled.bench.runner.compare_arrays", lambda *arrays: "loss 1 differs by 1")
    (entry,) = measure(work, ["numpy"], LIMITS, 1, SHORT)
    assert entry["parity"] == "failed: loss 1 differs by 1"
    assert "median_s" not in entry


class MadeUp:
    """Worker that answers with the ``times`` of its setting: seconds of each round, None if it dies there."""

    times: dict[str, list[float | None]]
    asked: dict[str, int]

    def __init__(self, job: dict[str, Any], patience: float) -> None:
        self.label = job["setting"].get("label", job["peer"])

    def __enter__(self) -> MadeUp:
        return self

    def __exit__(self, *error: object) -> None: ...

    def stop(self) -> None: ...

    def answer(self) -> dict[str, Any]:
        arrays = {"logits": np.full(3, 2.0 if self.label == "wrong" else 1.0)}
        return {"first_call_s": 4.0, "peak_rss_mb": 300.0, "step_rss_mb": 20.0, "arrays": pack_arrays(arrays)}

    def measure(self, settle: float) -> dict[str, Any]:
        place = self.asked[self.label] = self.asked.get(self.label, 0) + 1
        seconds = self.times[self.label][place - 1]
        if seconds is None:
            raise WorkerError("it died")
        return {"seconds": seconds}


@pytest.fixture
def made_up(monkeypatch: pytest.MonkeyPatch) -> type[MadeUp]:
    """Replace the peers numba and torch, the latter with several settings, by workers with given times."""
    settings = {name: {"label": name} for name in ("fast at first", "best", "slow", "wrong", "dies")}
    some = PEERS["numpy"].generate
    monkeypatch.setitem(PEERS, "numba", Peer("", "numpy", generate=some))
    monkeypatch.setitem(PEERS, "torch", Peer("", "numpy", generate=some, settings={"generate": settings}))
    monkeypatch.setattr(runner, "ContestantProcess", MadeUp)
    monkeypatch.setattr(runner, "PAUSE", 0)
    MadeUp.asked = {}
    MadeUp.times = {
        "numba": [9.0, 0.8, 0.4, 0.5],
        "fast at first": [9.0, 1.0, 2.0, 2.0],
        "best": [9.0, 1.2, 1.2, 1.5],
        "slow": [0.1, 1.31],
        "dies": [9.0, 1.0, None],
    }
    return MadeUp


def test_the_best_setting_counts_and_those_that_failed_are_named(made_up: type[MadeUp]) -> None:
    work = Workload("generate", "gru", 1, 4, 1, 3, 5, 7)
    numba, torch = measure(work, ["numba", "torch"], LIMITS, 2, Effort(rounds=3))
    assert (torch["peer"], torch["setting"], torch["median_s"], torch["rounds"]) == ("torch", "best", 1.2, 3)
    assert torch["failed_settings"] == {"wrong": "logits differs by 1.0e+00, allowed is 1.0e-04", "dies": "it died"}
    assert torch["ratio_to_torch"] == 1
    # After one round that is not counted and one that is, a setting more than 1.3 times slower than the fastest leaves.
    assert made_up.asked == {"numba": 4, "fast at first": 4, "best": 4, "slow": 2, "dies": 3}
    assert "failed_settings" not in numba
    assert (numba["setting"], numba["median_s"]) == ("default", 0.5)
    assert numba["spread_s"] == pytest.approx(0.65 - 0.45)
    assert numba["ratio_to_torch"] == pytest.approx(
        3
    )  # median of 1.2 / 0.8, 1.2 / 0.4, 1.5 / 0.5; the ratio of the medians is 2.4
    assert numba["tokens_per_s"] == pytest.approx(6)
    assert numba["peak_fraction"] == pytest.approx(work.flops / 0.5 / 200e9)
    assert (numba["first_call_s"], numba["peak_rss_mb"], numba["step_rss_mb"]) == (4, 300, 20)


def test_a_peer_none_of_whose_settings_passed_names_all(made_up: type[MadeUp]) -> None:
    made_up.times = {name: [None] for name in made_up.times} | {"numba": [1.0] * 4}
    failed, numba = measure(Workload("generate", "rnn"), ["torch", "numba"], LIMITS, 1, Effort(rounds=3))
    assert failed["parity"].startswith("failed: logits differs")
    assert set(failed["failed_settings"]) == {"fast at first", "best", "slow", "wrong", "dies"}
    assert numba["parity"] == "ok"
    assert "ratio_to_torch" not in numba


@pytest.mark.parametrize(("hidden", "bandwidth"), [(4, 100), (128, 50), (512, 10)])
def test_one_stream_is_held_against_the_bandwidth_of_where_its_weights_are(
    made_up: type[MadeUp], hidden: int, bandwidth: float
) -> None:
    (one,) = measure(Workload("generate", "lstm", hidden=hidden, batch=1, length=3), ["numba"], LIMITS, 2, Effort(3))
    read = 4 * (hidden * 4 * hidden + hidden * 65) * 3  # float32 weights of gates and output, three steps
    assert one["bandwidth_fraction"] == pytest.approx(read / 0.5 / (bandwidth * 1e9))
    made_up.asked.clear()
    (two,) = measure(Workload("generate", "lstm", hidden=hidden, batch=2), ["numba"], LIMITS, 2, Effort(3))
    assert "bandwidth_fraction" not in two


def test_memory_of_steps_does_not_count_the_parity_check(monkeypatch: pytest.MonkeyPatch) -> None:
    peak = 100.0

    class Contestant:
        def run(self) -> None:
            nonlocal peak
            peak += 10

        def parity(self) -> dict[str, Any]:
            nonlocal peak
            peak += 1000
            return {"loss 1": np.array(2.0)}

    monkeypatch.setitem(PEERS, "numba", Peer("", "numpy", train=lambda work, setting, threads: Contestant()))
    monkeypatch.setattr(contestant_process, "peak_memory_mb", lambda: peak)
    job = {"peer": "numba", "setting": {}, "threads": 1, "seconds": 0.0}
    timed = TimedContestant()
    first = timed.answer({**job, "workload": Workload("train", "rnn").to_dict()})
    rounds = [timed.answer({"settle": 0.0}) for _ in range(2)]
    assert (first["peak_rss_mb"], first["step_rss_mb"]) == (120, 20)
    assert first["first_call_s"] > 0
    assert [set(answer) for answer in rounds] == [{"seconds"}] * 2
    assert unpack_arrays(first["arrays"])["loss 1"] == 2


def test_runs_before_a_round_are_not_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]

    class Adapting:
        """A contestant that is slow for ten seconds."""

        def run(self) -> None:
            clock[0] += 2.0 if clock[0] < 10 else 1.0

        def parity(self) -> dict[str, Any]:
            return {}

    monkeypatch.setitem(PEERS, "numba", Peer("", "numpy", train=lambda work, setting, threads: Adapting()))
    monkeypatch.setattr(contestant_process.time, "perf_counter", lambda: clock[0])
    timed = TimedContestant()
    job = {"peer": "numba", "setting": {}, "threads": 1, "seconds": 2.0}
    timed.answer({**job, "workload": Workload("train", "rnn").to_dict()})
    clock[0] = 0.0
    assert timed.answer({"settle": 0.0})["seconds"] == 2.0
    clock[0] = 0.0
    assert timed.answer({"settle": 10.0})["seconds"] == 1.0


def test_a_small_run_of_onnxruntime() -> None:
    work = Workload("generate", "gru", 1, 16, 1, 5, 11, 8)
    lines = {entry["peer"]: entry for entry in measure(work, ["onnxruntime", "onnxruntime-graph"], LIMITS, 1, SHORT)}
    assert set(lines) == {"onnxruntime", "onnxruntime-graph"}
    for entry in lines.values():
        assert entry["parity"] == "ok"
        assert "failed_settings" not in entry
        assert entry["bandwidth_fraction"] > 0
        assert entry["step_rss_mb"] is None or 0 <= entry["step_rss_mb"] < entry["peak_rss_mb"]


def test_a_small_run_of_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("torch", reason="the torch extra is not installed")
    peer = PEERS["torch"]
    work = Workload("train", "gru", 1, 16, 3, 5, 11, 8)
    label, setting = next(iter(peer.settings_of(work, 1).items()))  # only the first: importing torch takes seconds
    monkeypatch.setitem(PEERS, "torch", dataclasses.replace(peer, settings={"train": {label: setting}}))
    numpy, torch = measure(work, ["numpy", "torch"], LIMITS, 1, SHORT)
    assert (numpy["parity"], torch["parity"]) == ("ok", "ok")
    assert torch["setting"] == label
    assert "failed_settings" not in torch
    assert torch["ratio_to_torch"] == 1
    assert numpy["ratio_to_torch"] > 0


@pytest.mark.parametrize("values", [0, 2])
@pytest.mark.parametrize("ragged", [False, True])
def test_a_small_run_of_taggers(monkeypatch: pytest.MonkeyPatch, ragged: bool, values: int) -> None:
    """The parity gate holds torch's ways to treat padding, which share nothing with this package, against the reference."""
    pytest.importorskip("torch", reason="the torch extra is not installed")
    work = dataclasses.replace(TAGGER, ragged=ragged, values=values)
    peer, kind = PEERS["torch"], "ragged" if ragged else "label"
    ways = {label: one for label, one in peer.settings_of(work, 1).items() if label.endswith("no onednn, fused")}
    assert [one["rows"] for one in ways.values()] == (["packed", "padded"] if ragged else ["full"])
    monkeypatch.setitem(PEERS, "torch", dataclasses.replace(peer, settings={kind: ways}))
    measured = {entry["peer"]: entry for entry in measure(work, ["numpy", "numba", "torch"], LIMITS, 1, SHORT)}
    for entry in measured.values():
        assert entry["parity"] == "ok"
        assert "failed_settings" not in entry
        assert entry["tokens_per_s"] == pytest.approx((9 if ragged else 15) / entry["median_s"])
        assert entry["gflops"] == pytest.approx(work.flops / entry["median_s"] / 1e9)
    assert measured["torch"]["setting"] in ways


def test_alarm_a_tagger_that_ignores_the_lengths_fails_the_parity_gate() -> None:
    ragged = dataclasses.replace(TAGGER, ragged=True)
    expected = PEERS["numpy"].label(ragged, {}, 1).parity()  # type: ignore[misc]
    full = PEERS["numpy"].label(TAGGER, {}, 1).parity()  # type: ignore[misc]
    assert compare_arrays(expected, expected) == "ok"
    assert "differs by" in compare_arrays(full, expected)


MEASURE_LONG = """
from unrolled.bench.peers.contestant_process import ContestantProcess
from unrolled.bench.peers.workloads import Workload
work = Workload("train", "rnn", 1, 4, 1, 2, 3, 2).to_dict()
job = {"peer": "numpy", "workload": work, "setting": {}, "threads": 1, "seconds": 300}
with ContestantProcess(job, 120) as worker:
    worker.answer()
    worker.send({"settle": 0})
    print(worker.pid, flush=True)
    worker.answer()
"""


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="asks Linux which processes there are")
def test_a_worker_ends_with_a_bench_that_is_killed(tmp_path: Path) -> None:
    bench = subprocess.Popen([sys.executable, "-c", MEASURE_LONG], cwd=tmp_path, stdout=subprocess.PIPE, text=True)
    assert bench.stdout is not None
    try:
        worker = int(bench.stdout.readline())
        assert _runs(worker)
    finally:
        bench.kill()
        bench.communicate()
    until = time.monotonic() + 60
    while _runs(worker):
        assert time.monotonic() < until, "it measures on"
        time.sleep(0.1)


def _runs(process: int) -> bool:
    """Return whether a process runs; one that has ended but that its parent has not waited for does not."""
    try:
        return ") Z " not in Path("/proc", str(process), "stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_a_worker_that_fails_reports_the_reason() -> None:
    job = {"peer": "numba", "setting": {}, "threads": 1, "seconds": 0.01}
    work = Workload("train", "rnn", 1, 4, 1, 2, 3, 2).to_dict()
    with (
        ContestantProcess({**job, "workload": {**work, "optimizer": "lion"}}, 120) as worker,
        pytest.raises(WorkerError, match="ConfigError: optimizer: got 'lion'"),
    ):
        worker.answer()
    with (
        ContestantProcess({**job, "peer": "nobody", "workload": {}}, 120) as worker,
        pytest.raises(WorkerError, match="nobody"),
    ):
        worker.answer()


def test_a_stated_number_of_threads_reaches_onnxruntime(monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint = make_checkpoint(Workload("generate", "gru", hidden=8, vocab=9, embedding=4))

    def threads(form: str) -> int:
        model: Any = open_checkpoint(checkpoint, form)
        return int(model.session.get_session_options().intra_op_num_threads)

    for name in THREAD_VARIABLES:  # as in worker processes of the benchmark and of a study
        monkeypatch.setenv(name, "3")
    assert threads("step") == 3
    assert threads("both") == 3
    for empty in ("", " "):
        monkeypatch.setenv(ONNXRUNTIME_THREADS, empty)
        assert threads("step") == 0  # onnxruntime's own choice
    for wrong in ("0", "-1", "two", "1.5", "99999", "9" * 5000):
        monkeypatch.setenv(ONNXRUNTIME_THREADS, wrong)
        with pytest.raises(ConfigError, match=f"{ONNXRUNTIME_THREADS}: got '{wrong}', needs a whole number"):
            threads("step")


def test_every_peer_takes_part_in_a_suite() -> None:
    for name, peer in PEERS.items():
        assert any(peer.maker(suite) for suite in SUITES), name
        for suite in SUITES:
            assert peer.settings_of(Workload(suite, "lstm"), 2)
        for ragged in (False, True):
            assert peer.settings_of(dataclasses.replace(TAGGER, ragged=ragged), 2)


def test_the_number_of_threads_is_a_setting_where_one_may_be_faster() -> None:
    few, many = Workload("train", "lstm", hidden=16, batch=2), Workload("train", "lstm", hidden=256)
    numba, torch = PEERS["numba"], PEERS["torch"]

    def threads(peer: Peer, *arguments: Any) -> list[int]:
        return [setting["threads"] for setting in peer.settings_of(*arguments).values()]

    assert list(numba.settings_of(few, 4)) == ["1 thread", "4 threads"]
    assert list(numba.settings_of(many, 4)) == list(numba.settings_of(few, 1)) == ["default"]
    assert threads(torch, few, 4) == [1] * 4 + [4] * 4
    assert threads(torch, many, 4) == [4] * 4
    assert len(set(torch.settings_of(few, 4))) == 8
    # beside busy neighbours the engine that chooses by itself is measured as it is
    assert threads(torch, many, 4, 1) == [1] * 4 + [4] * 4
    assert threads(numba, few, 4, 1) == threads(numba, many, 4, 1) == [4]


def test_tables_and_the_geometric_mean(tmp_path: Path) -> None:
    rows = [
        MACHINE,
        line("numba", 0.002, ratio_to_torch=2.0),
        line("torch", 0.004, ratio_to_torch=1.0),
        line("numba", 0.008, hidden=256, ratio_to_torch=0.5),
        line("numpy", 0.1, parity="failed: loss 1 differs by 1"),
    ]
    text = tables.markdown(lines.read_lines([write(tmp_path / "a.jsonl", *rows)]))
    assert "| lstm 1×128 B32 | numba | 2 |" in text
    assert "| 0.50 (slower) |" in text
    assert "failed: loss 1 differs by 1" in text
    assert "geometric mean 1.00, from 0.50 to 2.00; ahead in 1 of 2 workloads" in text
    assert "float32 FMA 100 with 1 thread, 200 with 2 threads GFLOP/s" in text


def test_lines_of_measurements_end_at_line_ends_alone(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", MACHINE, line("numba", 0.002, remark="a\u2028b"))
    text = "\ufeff" + path.read_text(encoding="utf-8").replace("\\u2028", "\u2028")
    assert "\u2028" in text
    path.write_bytes(text.replace("\n", "\r\n").encode())
    assert lines.read_lines([path])[1]["remark"] == "a\u2028b"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "line 1: not JSON"),
        ('{"a": 1}', "line 1: not a line of unrolled bench"),
        ('{"suite": "train", "peer": "numba"}', "line 1: cell, layers"),
        ('{"suite": "memory", "engine": "numba"}', "no measurement of bench train, generate or stream"),
        ("", "no measurement"),
    ],
)
def test_files_that_are_not_measurements(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "bad.jsonl"
    path.write_text(content)
    with pytest.raises(ModelFileError, match=message):
        lines.read_lines([path])
    with pytest.raises(ModelFileError, match=r"missing\.jsonl: cannot be read \(no such file or directory\)"):
        lines.read_lines([tmp_path / "missing.jsonl"])


def test_a_workload_is_named_by_its_unusual_sizes() -> None:
    line = {"suite": "train", "cell": "lstm", "layers": 1, "hidden": 128, "batch": 32, "length": 64, "vocab": 65}
    assert lines.workload_name(line) == "lstm 1×128 B32"
    assert lines.workload_name({**line, "embedding": 128, "optimizer": "adam", "busy": 0}) == "lstm 1×128 B32"
    assert lines.workload_name({**line, "embedding": 64, "optimizer": "sgd"}) == "lstm 1×128 B32 E64 sgd"
    assert lines.workload_name({**line, "length": 20, "vocab": 10_000}) == "lstm 1×128 B32 T20 V10000"
    assert lines.workload_name({**line, "busy": 2}) == "lstm 1×128 B32 busy 2"
    tagger, *_ = WORKLOADS["tagger"]
    assert lines.workload_name(tagger.to_dict()) == "bilstm 1×128 B32 C20"
    other = dataclasses.replace(tagger, bidirectional=False, ragged=True, vocab=65, classes=3)
    assert lines.workload_name(other.to_dict()) == "lstm 1×128 B32 V65 C3 ragged"
    assert lines.workload_name(dataclasses.replace(other, values=6).to_dict()) == "lstm 1×128 B32 X6 C3 ragged"
    assert lines.workload_name(step_call("gru", 64, 1).to_dict()) == "gru 1×64 B1"
    assert (
        lines.workload_name(dataclasses.replace(step_call("gru", 64, 8), embedding=32).to_dict()) == "gru 1×64 B8 E32"
    )


def test_all_named_workloads_have_names_of_their_own() -> None:
    for suite in SUITES:
        different = {work for works in WORKLOADS.values() for work in works if work.suite == suite}
        assert len({lines.workload_name(work.to_dict()) for work in different}) == len(different)


def test_ragged_rows_are_set_against_full_ones() -> None:
    sizes = {"classes": 20, "vocab": 1000, "embedding": 100}
    rows = [
        line("numba", 0.010, **sizes), line("numba", 0.006, **sizes, ragged=True),
        line("numba", 0.020, **sizes, batch=128), line("numba", 0.011, **sizes, batch=128, ragged=True),
        line("torch", 0.030, **sizes, ragged=True),  # its full rows were not measured
    ]  # fmt: skip
    shared = [entry.get("share_of_full_rows") for entry in tables.with_ragged_shares(rows)]
    assert shared == [None, pytest.approx(0.6), None, pytest.approx(0.55), None]
    text = "Ragged rows, half of whose time steps are padding, take 0.55 to 0.60 on numba of the time of full rows."
    assert text in tables.markdown(rows)
    (figure,) = [one for one in tables.FIGURES if "ragged" in one.title]
    peers, found = tables.by_workload(rows, figure)
    assert peers == ["numba", "torch"]
    assert ["lstm 1×128 B32 C20 ragged", "0.60", "–"] in found
    assert tables.by_workload(rows[:1], figure)[1] == []


def test_compare_finds_what_got_slower() -> None:
    old = [line("numba", 0.010), line("torch", 0.010), line("numba", 0.020, hidden=256)]
    new = [line("numba", 0.012), line("torch", 0.0104), line("numba", 0.015, hidden=256)]
    changes, lost = comparison.compare(old, new)
    assert not lost
    assert [(round(change.ratio, 2), change.slower) for change in changes] == [
        (1.2, True),
        (1.04, False),
        (0.75, False),
    ]
    noisy = [line("numba", 0.012, spread_s=0.003)]
    assert not comparison.compare(old, noisy).changes[0].slower
    with pytest.raises(ConfigError, match="that the old one measured"):
        comparison.compare(old, [line("numba", 0.01, vocab=7)])


def test_compare_names_what_was_lost_and_takes_the_last_of_repeats() -> None:
    failed, left_out = {"parity": "failed: loss 1 differs by 1"}, {"parity": "left out: torch is not installed"}
    old = [line("numba", 0.010), line("torch", 0.010), line("numba", 0.010, hidden=256), line("numpy", 1.0, **failed)]
    new = [line("numba", 0.010, **failed), line("torch", 0.010, **left_out), line("numpy", 1.0, **failed)]
    name = "train, lstm 1×{} B32, 2 threads: {}"
    assert comparison.compare(old, new) == ([], {
        name.format(128, "numba"): failed["parity"],
        name.format(128, "torch"): left_out["parity"],
        name.format(256, "numba"): "missing",
    })  # fmt: skip
    (change,), lost = comparison.compare([*old[1:2], line("torch", 0.020)], [*new[1:2], line("torch", 0.030)])
    assert (change.old_s, change.new_s, lost) == (0.020, 0.030, {})
    assert comparison.compare(old[:1], [*old[:1], *new[:1]]).lost  # the last line failed
    with pytest.raises(ConfigError, match="that the old one measured"):
        comparison.compare(old[3:], new)


def test_settings_that_failed_are_remarked() -> None:
    why = {"onednn, fused": "loss 1 differs by 1", "onednn, foreach": "died"}
    partly, whole = line("torch", 0.1, failed_settings=why), line("torch", 0.1)
    assert tables.remarks(whole) == []
    assert tables.remarks(partly) == [
        "torch, lstm 1×128 B32: without its setting 'onednn, fused', which failed: loss 1 differs by 1",
        "torch, lstm 1×128 B32: without its setting 'onednn, foreach', which failed: died",
    ]
    assert f"\n- {tables.remarks(partly)[1]}\n" in tables.markdown([partly])
    none = {**partly, "parity": "failed: loss 1 differs by 1"}
    assert tables.remarks(none)[0].endswith(": failed: loss 1 differs by 1")
    assert tables.remarks(none)[2] == "torch, lstm 1×128 B32, onednn, foreach: died"
    assert len(tables.remarks({**none, "failed_settings": {"default": "loss 1 differs by 1"}})) == 1


def test_every_peer_that_was_measured_is_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("matplotlib", reason="the plot extra is not installed")
    figures: list[Any] = []
    monkeypatch.setattr(picture, "save_figure", lambda figure, output: figures.append(figure))
    peers = [*PEERS, "a new one"]
    lines = [line(peer, 0.01 * n, suite=suite) for n, peer in enumerate(peers, 1) for suite in SUITES]
    picture.draw([MACHINE, *lines, line("failed", 1.0, parity="failed: so it is")], tmp_path / "picture.png")
    styles = set()
    for axes in figures[0].axes:
        drawn = {artist.get_label(): artist for artist in axes.get_lines()}
        assert list(drawn) == [*peers, "FMA peak"]
        assert [drawn[peer].get_xdata()[0] for peer in peers] == [line["gflops"] for line in lines[:: len(SUITES)]]
        assert [text.get_text() for text in axes.get_legend().get_texts()] == list(drawn)
        styles |= {(drawn[peer].get_color(), drawn[peer].get_marker()) for peer in peers}
    assert len(styles) == len(peers)  # all different, and the same in both panels


def test_the_command_reports_compares_and_draws(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="the plot extra is not installed")
    old = write(tmp_path / "old.jsonl", MACHINE, line("numba", 0.010, ratio_to_torch=1.5))
    new = write(tmp_path / "new.jsonl", MACHINE, line("numba", 0.013, ratio_to_torch=1.2))
    run = CliRunner().invoke
    picture = tmp_path / "picture.png"
    result = run(app, ["bench", "report", str(old), "--markdown", "--plot", str(picture)])
    assert result.exit_code == 0, result.output
    assert "geometric mean 1.50" in result.stdout
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert run(app, ["bench", "compare", str(old), str(new)]).exit_code == 0
    assert run(app, ["bench", "compare", str(old), str(new), "--fail-above", "20"]).exit_code == 1
    assert run(app, ["bench", "compare", str(old), str(new), "--fail-above", "50"]).exit_code == 0
    why = {"onednn": "it died"}
    with new.open("a") as stream:
        stream.write(json.dumps(line("torch", 0.1, failed_settings=why)) + "\n")
        stream.write(json.dumps(line("numba", 0.1, parity="failed: nan")) + "\n")
    shown = run(app, ["bench", "report", str(new)]).stdout.replace("\n", " ")
    assert "without its setting 'onednn', which failed: it died" in shown
    result = run(app, ["bench", "compare", str(old), str(new)])
    assert (result.exit_code, "numba: measured before, now failed: nan" in result.stdout) == (0, True)
    assert run(app, ["bench", "compare", str(old), str(new), "--fail-above", "50"]).exit_code == 1


def test_measurements_of_another_machine_are_not_mixed_with_these(tmp_path: Path) -> None:
    run = CliRunner().invoke
    other = write(
        tmp_path / "other.jsonl", {"suite": "batch"}, {**MACHINE, "processor": "another"}, line("numba", 0.02)
    )
    before = other.read_bytes()
    for verb in ("train", "generate"):
        result = run(app, ["bench", verb, "--quick", "--json", str(other)])
        assert isinstance(result.exception, ConfigError)
        assert "holds measurements of another, 2 cores, and this machine is " in str(result.exception)
    assert other.read_bytes() == before
    lines.check_machine(other, {**MACHINE, "processor": "another", "threads": 7})
    lines.check_machine(write(tmp_path / "batch.jsonl", {"suite": "batch"}), MACHINE)
    lines.check_machine(tmp_path / "new.jsonl", MACHINE)
    mine = write(tmp_path / "mine.jsonl", MACHINE, line("numba", 0.01))
    assert "measured on a processor, 2 cores, now on another, 2 cores" in (
        run(app, ["bench", "compare", str(mine), str(other)]).stdout.replace("\n", " ")
    )
    assert "measured on" not in run(app, ["bench", "compare", str(mine), str(mine)]).stdout


@pytest.mark.slow
def test_the_command_measures_and_writes_lines(tmp_path: Path) -> None:
    file = tmp_path / "lines.jsonl"
    arguments = "--cells rnn --hidden 8 --batch 2 --length 4 --vocab 7 --peers numba --quick --rounds 1"
    result = CliRunner().invoke(app, ["bench", "train", *arguments.split(), "--json", str(file)])
    assert result.exit_code == 0, result.output
    machine, measured = lines.read_lines([file])
    assert machine["limits"]["fma_gflops"]["1"] > 0
    assert machine["limits"]["read_gb_per_s"]["1"]["L1"] > 0
    assert (measured["peer"], measured["hidden"], measured["vocab"], measured["parity"]) == ("numba", 8, 7, "ok")


def test_the_peak_is_measured_by_a_product_of_the_microkernel() -> None:
    rng = np.random.default_rng(0)
    depth, W = limits.FACTOR_DEPTH, limits._W
    a, panels, c = (rng.standard_normal(size).astype(np.float32) for size in limits._SIZES)
    factor = a.reshape(limits.TILE_ROWS, depth).astype(np.float64)
    columns = np.concatenate(list(panels.reshape(2, depth, W)), axis=1)[:, : limits.WIDE * W // limits.VECTORS]
    expected = c.reshape(limits.TILE_ROWS, 2 * W).astype(np.float64)
    expected[:, : columns.shape[1]] += 3 * factor @ columns
    limits._run_core(a, panels, c, 3)
    np.testing.assert_allclose(c.reshape(expected.shape), expected, rtol=1e-4, atol=1e-4)
    assert 2 * factor.shape[0] * depth * columns.shape[1] == limits._FLOP


def test_unknown_peers_and_sets_are_refused() -> None:
    for suite in SUITES:
        command: Any = typer.main.get_command(app)
        shown = {parameter.name: parameter.help for parameter in command.commands["bench"].commands[suite].params}
        assert shown["peers"].endswith(f" {', '.join(peers_of(suite))}.")
        assert shown["workload"].endswith(f"One of {', '.join(workloads_of(suite))}.")
        assert {PEERS[name].maker(suite) is None for name in peers_of(suite)} == {False}
    assert {name for suite in SUITES for name in peers_of(suite)} == set(PEERS)
    assert {name for suite in SUITES for name in workloads_of(suite)} == set(WORKLOADS)
    result = CliRunner().invoke(app, ["bench", "generate", "--peers", "numba,torch-compile"])
    assert isinstance(result.exception, ConfigError)
    assert str(result.exception) == (
        "peers: torch-compile not measured by unrolled bench generate; choose from " + ", ".join(peers_of("generate"))
    )
    with pytest.raises(ConfigError, match="onnxruntime not measured by unrolled bench train; choose from numpy, "):
        list(measure(Workload("train", "rnn"), ["numpy", "onnxruntime"], LIMITS, 1, SHORT))
    for arguments in (["--peers", "jax"], ["--workload", "nothing"], ["--hidden", "a"], ["--workload", "generate"]):
        result = CliRunner().invoke(app, ["bench", "train", *arguments])
        assert isinstance(result.exception, ConfigError), arguments


def test_a_batch_of_texts_is_measured_in_a_process_of_its_own() -> None:
    work = Workload("generate", "gru", hidden=8, vocab=9, embedding=4)
    rates = measure_batch(BatchJob(work, "onnxruntime", rows=20, lanes=8, threads=1))
    assert set(rates) == {"full", "written", "read_too", "fixed", "alone_written", "alone"}
    assert all(np.isfinite(rate) and rate > 0 for rate in rates.values())
    assert rates["read_too"] > rates["written"]
    cells = batch_cells([rates, {**rates, "read_too": 3 * rates["read_too"]}])
    assert len(cells) == len(BATCH_COLUMNS)
    assert cells[BATCH_COLUMNS.index("spread")] == "100%"  # of the median, which is twice the smaller one


def test_the_overhead_of_one_text_is_the_time_beside_the_graph() -> None:
    work = Workload("generate", "gru", hidden=8, vocab=9, embedding=4)
    for cells in measure_overhead(work, tokens=20, rounds=1).values():
        assert len(cells) == len(OVERHEAD_COLUMNS)
        host, spread, graph = map(float, cells)
        assert host > 0
        assert graph > 0
        assert spread == 0  # of one round


def test_lanes_that_are_never_full_are_refused() -> None:
    result = CliRunner().invoke(app, ["bench", "batch", "--rows", "100", "--lanes", "101"])
    assert str(result.exception) == "rows: got 100, needs at least as many as lanes, which are 101"


def test_alarm_an_engine_that_fails_is_reported() -> None:
    job = BatchJob(Workload("generate", "gru", hidden=8, vocab=9), "abacus", rows=2, lanes=1, threads=1)
    with pytest.raises(ModelFileError, match=r"abacus: .*choose one of"):
        measure_batch(job)
