"""Tests of measurements beside busy neighbours: the processes, a fair share, and the figures of a line."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from measurements import LIMITS, MACHINE, line
from typer.testing import CliRunner

from unrolled.bench import rounds, runner
from unrolled.bench.machine import neighbours
from unrolled.bench.machine.neighbours import BusyNeighbours
from unrolled.bench.peers.registry import PEERS, Peer
from unrolled.bench.peers.workloads import WORKLOADS, Workload
from unrolled.bench.results import comparison, tables
from unrolled.bench.rounds import TimedSetting, fair_share, fastest_settings
from unrolled.bench.runner import Effort, measure
from unrolled.cli.app import app
from unrolled.cli.verbs.bench import measure as verb
from unrolled.engine.processes.messages import pack_arrays
from unrolled.engine.processes.worker import WorkerError

on_linux = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="asks Linux about processes")


@pytest.mark.parametrize(
    ("cores", "threads", "count", "share"),
    [(2, 2, 1, 2 / 3), (2, 2, 2, 1 / 2), (2, 1, 1, 1), (2, 1, 2, 2 / 3), (4, 2, 1, 1), (2, 2, 0, 1), (2, 4, 2, 2 / 3)],
)
def test_a_fair_share_counted_by_hand(cores: int, threads: int, count: int, share: float) -> None:
    assert fair_share(cores, threads, count) == pytest.approx(share)


def seconds_used(process: int) -> float:
    """Return the processor time of a process."""
    fields = Path("/proc", str(process), "stat").read_text().rpartition(") ")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def runs(process: int) -> bool:
    """Return whether a process runs; one that has ended but that its parent has not waited for does not."""
    try:
        return ") Z " not in Path("/proc", str(process), "stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False


@on_linux
def test_neighbours_are_busy_inside_the_context_only() -> None:
    with BusyNeighbours(2) as beside:
        assert len(set(beside.pids)) == 2
        for _ in range(2):  # they start again
            with beside.spinning():
                before = list(map(seconds_used, beside.pids))
                until = time.monotonic() + 60  # they share the machine
                while min(seconds_used(pid) - was for pid, was in zip(beside.pids, before, strict=True)) < 0.1:
                    assert time.monotonic() < until, "they do not spin"
                    time.sleep(0.01)
            before = list(map(seconds_used, beside.pids))
            time.sleep(0.3)
            assert [seconds_used(pid) - was for pid, was in zip(beside.pids, before, strict=True)] == [0, 0]
    assert not any(map(runs, beside.pids))


@on_linux
def test_neighbours_have_the_usual_priority_and_share_the_session() -> None:
    with BusyNeighbours(1) as beside:
        (pid,) = beside.pids
        assert os.getpriority(os.PRIO_PROCESS, pid) == os.getpriority(os.PRIO_PROCESS, 0)
        assert os.getsid(pid) == os.getsid(0)  # Linux may divide processors between sessions
        assert os.getpgid(pid) != os.getpgid(0)  # Ctrl-C reaches the parent, which ends them


@on_linux
@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
def test_neighbours_end_with_an_error_while_they_spin(error: type[BaseException]) -> None:
    with pytest.raises(error), BusyNeighbours(2) as beside, beside.spinning():
        raise error
    assert not any(map(runs, beside.pids))


SPIN_LONG = """
import time
from unrolled.bench.machine.neighbours import BusyNeighbours
with BusyNeighbours(2) as beside, beside.spinning():
    print(*beside.pids, flush=True)
    time.sleep(300)
"""


@on_linux
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_neighbours_end_with_their_parent(tmp_path: Path, number: signal.Signals) -> None:
    parent = subprocess.Popen(
        [sys.executable, "-c", SPIN_LONG], cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    assert parent.stdout is not None
    try:
        pids = list(map(int, parent.stdout.readline().split()))
        assert len(pids) == 2
        assert all(map(runs, pids))
        parent.send_signal(number)
        until = time.monotonic() + 60
        while any(map(runs, pids)):
            assert time.monotonic() < until, "they spin on"
            time.sleep(0.05)
    finally:
        parent.kill()
        parent.communicate()


@on_linux
def test_alarm_a_neighbour_that_died_ends_the_measurement() -> None:
    with (
        BusyNeighbours(1) as beside,
        pytest.raises(WorkerError),
        beside.spinning(),
    ):
        os.kill(beside.pids[0], signal.SIGKILL)


def test_no_neighbours_are_no_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(neighbours, "WorkerProcess", None)
    with BusyNeighbours(0) as beside, beside.spinning():
        assert beside.pids == []


class MadeUp:
    """Worker that answers with the ``times`` of its setting by turns: alone, then beside neighbours."""

    times: ClassVar[dict[str, Any]] = {
        "numba": ([0.5, 0.5, 0.5], [1.0, 1.0, 2.0]),
        "2 threads, x": ([1.0, 1.2, 1.0], [6.0, 7.0, 8.0]),
        "1 thread, x": ([1.9, 1.9, 1.9], [2.0, 2.0, 2.2]),
    }
    spins = False
    seen: dict[str, list[bool]]
    settles: dict[str, float]

    def __init__(self, job: dict[str, Any], patience: float) -> None:
        one = f"{job['threads']} thread{'s' * (job['threads'] > 1)}, x"
        self.label = job["peer"] if job["peer"] != "torch" else one
        self.given = {busy: iter([9.0, *self.times.get(self.label, ([], []))[busy]]) for busy in (False, True)}

    def __enter__(self) -> MadeUp:
        return self

    def __exit__(self, *error: object) -> None: ...

    def stop(self) -> None: ...

    def answer(self) -> dict[str, Any]:
        return {"first_call_s": 4.0, "arrays": pack_arrays({"logits": np.ones(3)})}

    def measure(self, settle: float) -> dict[str, Any]:
        MadeUp.seen.setdefault(self.label, []).append(MadeUp.spins)
        MadeUp.settles[self.label] = settle
        return {"seconds": next(self.given[MadeUp.spins])}


class Watched(BusyNeighbours):
    """Neighbours that are no processes."""

    def __init__(self, count: int) -> None:
        super().__init__(0)
        self.count = count

    def spinning(self) -> Any:
        class Context:
            def __enter__(self) -> None:
                MadeUp.spins = True

            def __exit__(self, *error: object) -> None:
                MadeUp.spins = False

        return Context()


@pytest.fixture
def made_up(monkeypatch: pytest.MonkeyPatch) -> None:
    some = PEERS["numpy"].train
    monkeypatch.setitem(PEERS, "numba", Peer("", "numpy", train=some, adapts=True))
    monkeypatch.setitem(PEERS, "torch", Peer("", "numpy", train=some, settings={"train": {"x": {}}}))
    monkeypatch.setattr(runner, "ContestantProcess", MadeUp)
    monkeypatch.setattr(runner, "BusyNeighbours", Watched)
    monkeypatch.setattr(runner, "PAUSE", 0)
    monkeypatch.setattr(rounds, "usable_cores", lambda: 2)
    MadeUp.seen, MadeUp.settles = {}, {}


WORK = WORKLOADS["busy"][-1]


@pytest.mark.usefixtures("made_up")
def test_a_line_has_the_figures_alone_and_beside_neighbours() -> None:
    numba, torch = measure(WORK, ["numba", "torch"], LIMITS, 2, Effort(rounds=3), busy=1)
    assert (numba["busy"], torch["busy"]) == (1, 1)
    # alone two threads are best, beside a neighbour one
    assert (torch["setting"], torch["busy_setting"]) == ("2 threads, x", "1 thread, x")
    assert (torch["median_s"], torch["busy_median_s"]) == (1.0, 2.0)
    assert torch["share_of_fair"] == pytest.approx(1.0 / 2.0 / (2 / 3))
    assert (torch["busy_ratio_to_torch"], torch["ratio_to_torch"]) == (1, 1)
    assert (numba["median_s"], numba["busy_median_s"], numba["setting"]) == (0.5, 1.0, "default")
    assert numba["busy_spread_s"] == pytest.approx(0.5)
    assert numba["share_of_fair"] == pytest.approx(0.5 / (2 / 3))
    assert numba["busy_tokens_per_s"] == pytest.approx(WORK.tokens / 1.0)
    assert numba["busy_ratio_to_torch"] == pytest.approx(2.0)  # median of 2 / 1, 2 / 1, 2.2 / 2
    assert numba["ratio_to_torch"] == pytest.approx(2.0)  # median of 1 / .5, 1.2 / .5, 1 / .5
    # one thread is far slower alone, and stays for what it does beside neighbours
    assert MadeUp.seen == dict.fromkeys(MadeUp.times, [False, True] * 4)
    assert MadeUp.settles == {"numba": 1.0, "2 threads, x": 0.0, "1 thread, x": 0.0}  # one adapts


@pytest.mark.usefixtures("made_up")
def test_without_neighbours_there_is_one_measurement_a_round() -> None:
    lines = list(measure(WORK, ["numba", "torch"], LIMITS, 2, Effort(rounds=3)))
    assert [one["busy"] for one in lines] == [0, 0]
    assert not any(key.startswith(("busy_", "share_of_fair")) for one in lines for key in one)
    assert MadeUp.seen == {"numba": [False] * 4, "2 threads, x": [False] * 4}
    assert set(MadeUp.settles.values()) == {0.0}


def test_the_fastest_setting_beside_neighbours_may_be_another() -> None:
    one, two = TimedSetting("a", "one", 1, {}, [2.0], [2.0]), TimedSetting("a", "two", 2, {}, [1.0], [3.0])
    assert fastest_settings([one, two]) == {"a": two}
    assert fastest_settings([one, two], busy=True) == {"a": one}


@on_linux
def test_a_small_run_beside_a_neighbour() -> None:
    work = Workload("train", "gru", 1, 16, 3, 5, 11, 8)
    (numpy,) = measure(work, ["numpy"], LIMITS, 1, Effort(rounds=2, seconds=0.05, patience=120), busy=1)
    assert numpy["parity"] == "ok"
    assert numpy["busy_tokens_per_s"] == pytest.approx(15 / numpy["busy_median_s"])
    assert 0 < numpy["share_of_fair"] < 10


def busy_line(peer: str, median: float, beside: float, **values: Any) -> dict[str, Any]:
    figures = {"busy_median_s": beside, "busy_spread_s": 0.0, "busy_tokens_per_s": 2048 / beside}
    return line(peer, median, busy=1, **figures, share_of_fair=0.75, **values)


def test_tables_and_summary_show_both_measurements() -> None:
    rows = [
        busy_line("numba", 0.01, 0.02, busy_ratio_to_torch=2.5),
        busy_line("torch", 0.04, 0.05, busy_ratio_to_torch=1),
    ]
    shown = {figure.title: tables.by_workload(rows, figure)[1] for figure in tables.FIGURES}
    name = "lstm 1×128 B32 busy 1"
    assert shown["thousand tokens/s beside busy neighbours"] == [[name, "102", "41"]]
    assert shown["speed beside busy neighbours, % of a fair share"] == [[name, "75%", "75%"]]
    assert shown["times as fast as torch, both beside busy neighbours"] == [[name, "2.50", "1.00"]]
    text = tables.markdown([MACHINE, *rows, line("numba", 0.01)])
    assert "| lstm 1×128 B32 busy 1 | numba | 10 |" in text
    assert "| 102,400 | 75% | 2.50 |" in text
    assert "| lstm 1×128 B32 | numba | 10 |" in text
    assert "at its best setting beside busy neighbours: geometric mean 2.50" in text
    assert "numba reaches 75% to 75% of the speed that a fair share" in text


def test_comparisons_hold_both_measurements() -> None:
    old, new = [busy_line("numba", 0.010, 0.020)], [busy_line("numba", 0.010, 0.030)]
    changes, lost = comparison.compare(old, new)
    assert not lost
    assert [(change.name, round(change.ratio, 2), change.slower) for change in changes] == [
        ("train, lstm 1×128 B32 busy 1, 2 threads: numba", 1.5, True),
        ("train, lstm 1×128 B32, 2 threads: numba", 1.0, False),
    ]
    assert comparison.compare(old, [line("numba", 0.010)]).lost == {
        "train, lstm 1×128 B32 busy 1, 2 threads: numba": "missing"
    }


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ("--workload busy", 1),
        ("--workload busy --busy 2", 2),
        ("--quick --busy 3", 3),
        ("--quick", 0),
    ],
)
def test_the_command_passes_the_number_of_neighbours(
    monkeypatch: pytest.MonkeyPatch, arguments: str, expected: int
) -> None:
    given: list[int] = []
    monkeypatch.setattr(verb, "machine_line", lambda threads: MACHINE)

    def measured(*arguments: Any) -> Any:
        given.append(arguments[-1])
        yield busy_line("numba", 0.01, 0.02)

    monkeypatch.setattr(verb, "measure", measured)
    done = CliRunner().invoke(app, ["bench", "train", *arguments.split()])
    assert done.exit_code == 0, done.output
    assert set(given) == {expected}
