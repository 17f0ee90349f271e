"""Measuring of one workload: every contestant in a process of its own, parity before timing, rounds interleaved A B A B."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from typing import Any, NamedTuple

from numpy.typing import NDArray

from unrolled.bench.machine.neighbours import BusyNeighbours
from unrolled.bench.parity_gate import PARITY, ROUNDED_PARITY, compare_arrays
from unrolled.bench.peers.contestant_process import ContestantProcess
from unrolled.bench.peers.registry import PEERS, REFERENCE_PEER, Peer, check_peers
from unrolled.bench.peers.workloads import Workload
from unrolled.bench.rounds import Failures, TimedSetting, fastest_settings, measured_lines
from unrolled.engine.processes.messages import unpack_arrays
from unrolled.engine.processes.worker import WorkerError

PAUSE = 0.05  # seconds between contestants: thread pools spin for a while after their last region
# times the median of its peer's fastest setting, alone and beside busy neighbours, whose rounds differ more: a slower one
# leaves after the first counted round
SLOW_SETTING, SLOW_BESIDE = 1.3, 2.0
SETTLE = 1.0  # seconds that a peer gets to adapt when neighbours start or stop, before a round is counted


class Effort(NamedTuple):
    """Number and length of the rounds of a workload."""

    rounds: int = 7
    seconds: float = 0.3  # of a round
    patience: float = 300.0  # seconds to wait for any one answer


QUICK = Effort(rounds=3, seconds=0.1, patience=120.0)


class Contest(NamedTuple):
    """Settings that all contestants of one workload share."""

    work: Workload
    threads: int
    effort: Effort
    neighbours: BusyNeighbours
    say: Callable[[str], None]  # shows progress
    stack: ExitStack  # ends the processes


def measure(
    work: Workload,
    peers: Sequence[str],
    limits: Mapping[str, Any],
    threads: int,
    effort: Effort,
    say: Callable[[str], None] = lambda text: None,
    busy: int = 0,
) -> Iterator[dict[str, Any]]:
    """Measure the peers on one workload and yield a line for each after the last round.

    Every line has the workload's fields, ``threads``, ``busy``, ``peer`` and ``parity``: "ok", or "failed: …" or "left out:
    …". If settings of the peer failed the parity check or died, ``failed_settings`` maps them to the reasons, also where
    another setting passed. A peer that was measured has besides, for the fastest of the settings that passed:

    - ``setting``, ``rounds``: its name; rounds counted.
    - ``median_s``, ``spread_s``: seconds of a step, text or call, and the distance of the quartiles.
    - ``tokens_per_s``, ``gflops``, ``peak_fraction``: speed, as the workload counts it; share of the FMA peak. Of calls also
      ``calls_per_s``.
    - ``bandwidth_fraction``: of one stream: weights read a second, as a share of what one core can read.
    - ``first_call_s``: set-up, compilation and the first step or text.
    - ``peak_rss_mb``: peak memory of the process up to the end of two steps or texts.
    - ``step_rss_mb``: the part of it that set-up and these two added to a process that has imported the peer's library;
      neither counts the parity check.
    - ``ratio_to_torch``: where torch was measured: its time over this one's, the median of the rounds' ratios.

    With ``busy`` neighbours each round is measured twice, without and beside them. The figures above are those without them,
    and the line has besides, for the setting that is fastest beside them: ``busy_setting``, ``busy_median_s``,
    ``busy_spread_s``, ``busy_tokens_per_s``, ``busy_ratio_to_torch``, and ``share_of_fair``: the speed beside them, divided by
    ``fair_share`` of the speed without. Set-up, compilation and the parity check are over before the first neighbour is busy.
    A peer that adapts to neighbours gets ``SETTLE`` seconds for that before each round.

    Raises:
        ConfigError: a peer is not known, or does not take part in the workload's task.
        WorkerError: the reference or a neighbour failed.
    """
    check_peers(peers, work.task)
    base = {**work.to_dict(), "threads": threads, "busy": busy}
    with ExitStack() as stack:
        contest = Contest(work, threads, effort, stack.enter_context(BusyNeighbours(busy)), say, stack)
        reference = _reference(contest)
        entered: list[tuple[TimedSetting, ContestantProcess]] = []
        failures: Failures = {}
        for name in peers:
            if PEERS[name].available:
                entered += _enter(contest, name, PEERS[name], reference, failures)
            else:
                yield {**base, "peer": name, "parity": f"left out: {PEERS[name].needs} is not installed"}
        yield from measured_lines(base, work, _run_rounds(contest, entered, failures), failures, limits)


def _reference(contest: Contest) -> dict[str, NDArray]:
    """Return the arrays of the reference."""
    work = contest.work
    contest.say(f"{work.title}: reference")
    job = {"peer": REFERENCE_PEER, "setting": {}, "threads": contest.threads, "workload": work.to_dict(), "seconds": 0}
    with ContestantProcess(job, contest.effort.patience) as process:
        return unpack_arrays(process.answer()["arrays"])


def _enter(
    contest: Contest, name: str, peer: Peer, reference: Mapping[str, NDArray], failures: Failures
) -> Iterator[tuple[TimedSetting, ContestantProcess]]:
    """Start each setting of a peer and yield those that pass the parity gate; note the others in ``failures``."""
    work = contest.work
    allowed = ROUNDED_PARITY if peer.rounded else PARITY
    for label, setting in peer.settings_of(work, contest.threads, contest.neighbours.count).items():
        contest.say(f"{work.title}: {name}, {label}")
        job = {"peer": name, "setting": setting, "threads": setting["threads"], "workload": work.to_dict()}
        process = ContestantProcess({**job, "seconds": contest.effort.seconds}, contest.effort.patience)
        contest.stack.callback(process.stop)
        try:
            first = process.answer()
            verdict = compare_arrays(unpack_arrays(first.pop("arrays")), reference, allowed)
        except WorkerError as error:
            verdict = str(error)
        if verdict == "ok":
            yield TimedSetting(name, label, setting["threads"], first, [], []), process
        else:
            process.stop()
            failures.setdefault(name, {})[label] = verdict


def _run_rounds(
    contest: Contest, entered: list[tuple[TimedSetting, ContestantProcess]], failures: Failures
) -> list[TimedSetting]:
    """Time all settings in turn, round by round, and return those that stayed to the end.

    A setting far slower than its peer's fastest one leaves after the second round, unless it is fast beside busy neighbours;
    one that fails goes to ``failures``.
    """
    neighbours = contest.neighbours
    rounds = contest.effort.rounds
    for n in range(rounds + 1):  # the first is not counted: caches and thread pools wake up
        contest.say(f"{contest.work.title}: round {n + 1} of {rounds}")
        for one, seconds in _round(contest, entered, failures):
            if n > 0:
                one.rounds.append(seconds)
        if neighbours.count > 0:
            contest.say(f"{contest.work.title}: round {n + 1} of {rounds}, beside {neighbours.count}")
            with neighbours.spinning():
                for one, seconds in _round(contest, entered, failures):
                    if n > 0:
                        one.busy_rounds.append(seconds)
        if n == 1:
            entered = _without_slow(entered, neighbours.count > 0)
    return [timed for timed, _ in entered]


def _round(
    contest: Contest, entered: list[tuple[TimedSetting, ContestantProcess]], failures: Failures
) -> Iterator[tuple[TimedSetting, float]]:
    """Yield the seconds of each setting; remove those that fail from ``entered``."""
    for one in list(entered):
        timed, process = one
        time.sleep(PAUSE)
        try:
            answer = process.measure(SETTLE if PEERS[timed.peer].adapts and contest.neighbours.count else 0.0)
        except WorkerError as error:
            failures.setdefault(timed.peer, {})[timed.setting] = str(error)
            entered.remove(one)
        else:
            yield timed, answer["seconds"]


def _without_slow(
    entered: list[tuple[TimedSetting, ContestantProcess]], busy: bool
) -> list[tuple[TimedSetting, ContestantProcess]]:
    """Return the settings that may be the fastest of their peer; the processes of the others sleep until the end."""
    settings = [timed for timed, _ in entered]
    alone, beside = fastest_settings(settings), fastest_settings(settings, busy=True) if busy else {}

    def stays(one: TimedSetting) -> bool:
        fast = one.median <= SLOW_SETTING * alone[one.peer].median
        return fast or (busy and one.busy_median <= SLOW_BESIDE * beside[one.peer].busy_median)

    return [one for one in entered if stays(one[0])]
