"""Measuring: contestants in processes of their own, parity before timing, rounds interleaved A B A B."""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

import numpy as np

from unrolled.bench.machine.system import system_info
from unrolled.bench.peers import PEERS, REFERENCE, peers_of
from unrolled.bench.workloads import Workload
from unrolled.engine.cores import THREAD_VARIABLES
from unrolled.engine.errors import ConfigError, UnrolledError

# Relative to the largest entry of the reference's array; float32 sums in another order differ by some 1e-6.
PARITY = {"loss": 1e-5, "norm": 1e-4, "logits": 1e-4, "greedy": 0.0, "parameters": 2e-3}
# The same where products are of bfloat16's 8 bits. Adam moves a parameter by the sign of its gradient at first, and texts
# part at the first token whose rival is near, so these say little; the second step's loss says what the first one did.
ROUNDED_PARITY = {"loss": 1e-2, "norm": 5e-2, "logits": 5e-2, "greedy": float("inf"), "parameters": 0.1}
PAUSE = 0.05  # seconds between contestants: thread pools spin for a while after their last region


class WorkerError(UnrolledError):
    """A contestant failed, died or took too long."""


class Effort(NamedTuple):
    """How long is measured."""

    rounds: int = 7
    seconds: float = 0.3  # of a round
    patience: float = 300.0  # seconds for any one answer


QUICK = Effort(rounds=3, seconds=0.1, patience=120.0)


class Worker:
    """A contestant's process."""

    def __init__(self, job: dict[str, Any], patience: float) -> None:
        threads = {name: str(job["threads"]) for name in THREAD_VARIABLES}
        self.patience = patience
        self._errors = tempfile.TemporaryFile("w+")  # noqa: SIM115 - closed with the worker
        self._process = subprocess.Popen(
            [sys.executable, "-m", "unrolled.bench.contestant_process"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            env={**os.environ, **threads, "PYTHONWARNINGS": "ignore"},
        )
        self._ask(json.dumps(job))

    def __enter__(self) -> Worker:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.kill()
        self._process.communicate()
        self._errors.close()

    def _ask(self, line: str) -> None:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(line + "\n")
            self._process.stdin.flush()
        except BrokenPipeError as error:
            raise WorkerError(self._last_words()) from error

    def answer(self) -> dict[str, Any]:
        """The next line of the worker.

        Raises:
            WorkerError: it says that it failed, is gone, or says nothing in time.
        """
        assert self._process.stdout is not None
        if os.name == "posix" and not select.select([self._process.stdout], [], [], self.patience)[0]:
            raise WorkerError(f"no answer in {self.patience:.0f} s")
        line = self._process.stdout.readline()
        if not line:
            raise WorkerError(self._last_words())
        answer = json.loads(line)
        if "error" in answer:
            raise WorkerError(answer["error"])
        return answer

    def measure(self) -> dict[str, Any]:
        """One round."""
        self._ask("go")
        return self.answer()

    def _last_words(self) -> str:
        code = self._process.wait()
        self._errors.seek(0)
        lines = self._errors.read().strip().splitlines()
        return lines[-1] if lines else f"the process ended with code {code}"


def compare_arrays(
    got: dict[str, np.ndarray], reference: dict[str, np.ndarray], allowed: Mapping[str, float] = PARITY
) -> str:
    """ "ok", or what differs from the reference and by how much."""
    if missing := sorted(set(reference) - set(got)):
        return f"{', '.join(missing)} missing"
    for name, expected in reference.items():
        value, kind = got[name], name.split()[0]
        if value.shape != expected.shape:
            return f"{name} has shape {value.shape}, the reference's is {expected.shape}"
        error = np.abs(value.astype(np.float64) - expected).max()
        limit = allowed.get(kind, allowed["parameters"]) * max(float(np.abs(expected).max()), 1e-30)
        if not error <= limit:  # NaN fails
            return f"{name} differs by {error:.1e}, allowed is {limit:.1e}"
    return "ok"


class Row(NamedTuple):
    """One setting of a peer while it is measured."""

    peer: str
    setting: str
    worker: Worker
    first: dict[str, Any]  # what it answered before the rounds
    rounds: list[dict[str, Any]]


Failures = dict[str, dict[str, str]]  # peer -> setting -> why


def machine_line(threads: int) -> dict[str, Any]:
    """The first line of a file: what was measured on, and its limits."""
    with Worker({"peer": "limits", "threads": threads}, 300) as worker:
        limits = worker.answer()
    when = datetime.now(UTC).isoformat(timespec="seconds")
    return {"suite": "machine", "date": when, "threads": threads, **system_info(), "limits": limits}


def check_peers(peers: Sequence[str], suite: str) -> None:
    """Check that all are known and take part in the suite; ConfigError names those that do."""
    there = peers_of(suite)
    for names, why in ((PEERS, "not known"), (there, f"not measured by unrolled bench {suite}")):
        if absent := [name for name in peers if name not in names]:
            raise ConfigError(f"peers: {', '.join(absent)} {why}; choose from {', '.join(there)}")


def _reference(work: Workload, folder: Path, threads: int, patience: float) -> dict[str, np.ndarray]:
    output = folder / "reference.npz"
    job = {"peer": REFERENCE, "workload": work.to_dict(), "setting": {}, "threads": threads, "seconds": 0}
    with Worker({**job, "output": str(output)}, patience) as worker:
        worker.answer()
    with np.load(output) as arrays:
        return {name: arrays[name] for name in arrays.files}


def measure(
    work: Workload,
    peers: Sequence[str],
    limits: dict[str, Any],
    threads: int,
    effort: Effort,
    say: Callable[[str], None] = lambda text: None,
) -> Iterator[dict[str, Any]]:
    """Measure the peers on one workload and yield a line for each, once all rounds are over.

    Every line has the workload's fields, ``threads``, ``peer`` and ``parity``: "ok", or "failed: …" or "left out: …". If
    settings of the peer failed the parity check or died, ``failed_settings`` says which ones and why, also where another
    one passed. A peer that was measured has besides, of the fastest of the settings that passed:

    - ``setting``, ``rounds``: its name; rounds counted.
    - ``median_s``, ``spread_s``: seconds of a step or text, and the distance of the quartiles.
    - ``tokens_per_s``, ``gflops``, ``peak_fraction``: speed, as the workload counts it; share of the FMA peak.
    - ``bandwidth_fraction``: of one stream: weights read a second, as a share of what one core can read.
    - ``first_call_s``: set-up, compilation and the first step or text.
    - ``peak_rss_mb``: the most memory of the process until two steps or texts were made.
    - ``step_rss_mb``: what of it set-up and the two added to a process that has imported the peer's library; neither
      counts the parity check.
    - ``ratio_to_torch``: where torch was measured: its time over this one's, the median of the rounds' ratios.

    Raises:
        ConfigError: a peer is not known, or does not take part in the workload's suite.
    """
    check_peers(peers, work.suite)
    base = {**work.to_dict(), "threads": threads}
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        say(f"{work.title}: reference")
        reference = _reference(work, folder, threads, effort.patience)
        rows: list[Row] = []
        failures: Failures = {}
        for name in peers:
            peer = PEERS[name]
            if not peer.available:
                yield {**base, "peer": name, "parity": f"left out: {peer.needs} is not installed"}
                continue
            for label, setting in peer.settings_of(work.suite).items():
                say(f"{work.title}: {name}, {label}")
                output = folder / f"{len(rows)}.npz"
                job = {"peer": name, "setting": setting, "threads": threads, "workload": work.to_dict()}
                try:
                    worker = stack.enter_context(
                        Worker({**job, "seconds": effort.seconds, "output": str(output)}, effort.patience)
                    )
                    first = worker.answer()
                    with np.load(output) as arrays:
                        allowed = ROUNDED_PARITY if peer.rounded else PARITY
                        verdict = compare_arrays({n: arrays[n] for n in arrays.files}, reference, allowed)
                except WorkerError as error:
                    verdict = str(error)
                if verdict == "ok":
                    rows.append(Row(name, label, worker, first, []))
                else:
                    failures.setdefault(name, {})[label] = verdict
        _run_rounds(rows, effort, failures, lambda n: say(f"{work.title}: round {n + 1} of {effort.rounds}"))
        yield from _lines(base, work, rows, failures, limits, threads)


def _run_rounds(rows: list[Row], effort: Effort, failures: Failures, say: Callable[[int], None]) -> None:
    """Rounds of all, one after the other; a setting far slower than its peer's best leaves after the second."""
    for n in range(effort.rounds + 1):  # the first is not counted: caches and thread pools wake up
        say(n)
        for row in list(rows):
            time.sleep(PAUSE)
            try:
                answer = row.worker.measure()
            except WorkerError as error:
                failures.setdefault(row.peer, {})[row.setting] = str(error)
                rows.remove(row)
                continue
            if n > 0:
                row.rounds.append(answer)
        if n == 1:
            best = {row.peer: min(_median(r) for r in rows if r.peer == row.peer) for row in rows}
            rows[:] = [row for row in rows if _median(row) <= 1.3 * best[row.peer]]


def _median(row: Row) -> float:
    return float(np.median([answer["seconds"] for answer in row.rounds]))


def _lines(
    base: dict[str, Any],
    work: Workload,
    rows: Sequence[Row],
    failures: Failures,
    limits: dict[str, Any],
    threads: int,
) -> Iterator[dict[str, Any]]:
    best: dict[str, Row] = {}
    for row in rows:
        if row.peer not in best or _median(row) < _median(best[row.peer]):
            best[row.peer] = row
    for name, settings in failures.items():
        if name not in best:
            parity = f"failed: {next(iter(settings.values()))}"
            yield {**base, "peer": name, "parity": parity, "failed_settings": settings}
    torch = best.get("torch")
    for name, row in best.items():
        seconds = [answer["seconds"] for answer in row.rounds]
        median = float(np.median(seconds))
        low, high = np.percentile(seconds, [25, 75])
        gflops = work.flops / median / 1e9
        line = {
            **base,
            "peer": name,
            "setting": row.setting,
            "median_s": median,
            "spread_s": float(high - low),
            "rounds": len(seconds),
            "tokens_per_s": work.tokens / median,
            "gflops": gflops,
            "peak_fraction": gflops / limits["fma_gflops"][str(threads)],
            **row.first,
            "parity": "ok",
        }
        if name in failures:
            line["failed_settings"] = failures[name]
        if work.suite == "generate" and work.batch == 1:
            line["bandwidth_fraction"] = work.weight_bytes / median * work.length / 1e9 / _bandwidth(work, limits)
        if torch is not None:
            # round by round, so that what slows the machine down for a while slows both
            pairs = zip(torch.rounds, row.rounds, strict=True)
            line["ratio_to_torch"] = float(np.median([one["seconds"] / other["seconds"] for one, other in pairs]))
        yield line


def _bandwidth(work: Workload, limits: dict[str, Any]) -> float:
    """GB/s of one core from the smallest place that holds the weights: one stream reads all of them at every step."""
    bandwidth = limits["read_gb_per_s"]["1"]
    for name, size in sorted(limits["caches"].items(), key=lambda item: item[1]):
        if work.weight_bytes <= size:
            return float(bandwidth[name])
    return float(bandwidth["memory"])
