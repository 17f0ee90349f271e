"""Tests of the choice of the number of threads: it is told times that a machine might show, and reads no clock."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from unrolled.engine.kernels.threads.thread_choice import ThreadChoice, counts_of

Times = Callable[[int], float]  # seconds of a run on a number of threads


def constant(**seconds: float) -> Times:
    """Return a machine whose runs take ``t1`` seconds on one thread, ``t2`` on two, …"""
    return lambda threads: seconds[f"t{threads}"]


class Machine:
    """A choice and the time that passes while it is used."""

    def __init__(self, *counts: int) -> None:
        self.choice, self.seconds = ThreadChoice(list(counts)), 0.0
        self.used: list[tuple[float, int, float]] = []  # time, threads and seconds of each run

    def run(self, times: Times, seconds: float) -> None:
        """Run for some time."""
        until = self.seconds + seconds
        while self.seconds < until:
            threads = self.choice.threads
            taken = times(threads)
            self.used.append((self.seconds, threads, taken))
            self.choice.tell(taken)
            self.seconds += taken

    def share(self, threads: int, first: float, last: float) -> float:
        """Return the share of the time between two times that runs on a number of threads took."""
        chosen = [(count, taken) for at, count, taken in self.used if first <= at < last]
        return sum(taken for count, taken in chosen if count == threads) / sum(taken for _, taken in chosen)

    def changes(self, first: float, last: float) -> int:
        counts = [count for at, count, _ in self.used if first <= at < last]
        return int(np.count_nonzero(np.diff(counts)))


IDLE = constant(t2=0.002, t1=0.004)
BUSY = constant(t2=0.008, t1=0.004)  # two threads wait for each other


def test_numbers_of_threads_that_are_worth_trying() -> None:
    assert counts_of(1) == [1]
    assert counts_of(2) == [2, 1]
    assert counts_of(3) == [3, 2, 1]
    assert counts_of(8) == [8, 4, 3, 2, 1]
    assert counts_of(16) == [16, 8, 6, 4, 3, 2, 1]


def test_an_idle_machine_keeps_all_threads() -> None:
    machine = Machine(2, 1)
    machine.run(IDLE, 10)
    assert machine.share(2, 0, 0.02) == 1
    assert machine.share(1, 0, 10) < 0.002  # the one trial at the start
    assert machine.changes(1, 10) == 0


def test_a_busy_machine_is_noticed_within_a_fifth_of_a_second_and_an_idle_one_within_half() -> None:
    machine = Machine(2, 1)
    machine.run(IDLE, 2)
    machine.run(BUSY, 3)
    machine.run(IDLE, 3)
    assert machine.share(1, 2.2, 5) > 0.85  # the rest are trials of two threads
    assert machine.share(2, 5.5, 8) == 1
    assert machine.changes(5.5, 8) == 0


def test_steps_that_take_long_are_tried_less_often() -> None:
    machine = Machine(2, 1)
    machine.run(constant(t2=0.2, t1=0.4), 10)
    assert machine.share(1, 1, 10) == 0
    machine.run(constant(t2=0.8, t1=0.4), 20)
    assert machine.share(1, 13, 30) > 0.75
    machine.run(constant(t2=0.2, t1=0.4), 20)
    assert machine.share(2, 35, 50) == 1


def test_one_thread_is_kept_where_it_is_faster_on_an_idle_machine() -> None:
    machine = Machine(2, 1)
    machine.run(constant(t2=0.0004, t1=0.0003), 5)
    assert machine.share(1, 0.1, 5) > 0.88


def test_numbers_that_are_equally_fast_do_not_alternate() -> None:
    machine = Machine(2, 1)
    machine.run(constant(t2=0.001, t1=0.00102), 10)
    assert machine.share(2, 0.1, 10) == 1
    machine = Machine(2, 1)
    machine.run(constant(t2=0.001, t1=0.00098), 10)
    assert machine.share(2, 0.1, 10) == 1


def test_a_processor_that_gets_slower_for_good_costs_few_trials() -> None:
    machine = Machine(2, 1)
    machine.run(IDLE, 2)
    machine.run(constant(t2=0.0024, t1=0.0048), 20)
    assert machine.share(1, 2, 22) < 0.01
    assert machine.changes(8, 22) == 0  # the fastest period was long ago


def test_fewer_threads_are_hardly_tried_where_they_took_longer() -> None:
    machine = Machine(2, 1)
    machine.run(IDLE, 2)
    machine.run(constant(t2=0.003, t1=0.004), 20)
    assert machine.share(1, 2, 22) < 0.005
    machine.run(constant(t2=0.0045, t1=0.004), 2)  # now they pay
    assert machine.share(1, 22.5, 24) > 0.85


def test_the_first_short_run_of_a_trial_in_which_threads_wake_up_does_not_count() -> None:
    machine, before = Machine(2, 1), [2]

    def times(threads: int) -> float:
        wakes = threads == 2 and before[0] == 1
        before[0] = threads
        return 0.0019 if wakes else 0.00036 if threads == 2 else 0.0004

    machine.run(constant(t2=0.0008, t1=0.0004), 1)
    assert machine.share(1, 0.1, 1) > 0.85
    machine.run(times, 1)
    assert machine.share(2, 1.5, 2) == 1


@pytest.mark.parametrize("seed", range(5))
def test_runs_that_are_slow_now_and_then_cost_less_than_a_hundredth(seed: int) -> None:
    rng = np.random.default_rng(seed)

    def times(threads: int) -> float:
        late = 0.003 * rng.random() if rng.random() < 0.01 else 0.0
        return 0.002 * 2 / threads * rng.uniform(0.98, 1.05) + late

    machine = Machine(2, 1)
    machine.run(times, 20)
    assert machine.share(1, 0.1, 20) < 0.01


@pytest.mark.parametrize("seed", range(5))
def test_time_slices_of_other_processes_do_not_confuse_it(seed: int) -> None:
    """Two threads lose whole time slices of 3 ms, and one of two cores is always free for a thread alone."""
    rng = np.random.default_rng(seed)

    def times(threads: int) -> float:
        if threads == 1:
            return 0.004 * rng.uniform(0.98, 1.05)
        return 0.002 + sum(rng.exponential(0.003) for _ in range(rng.poisson(1.5)))

    machine = Machine(2, 1)
    machine.run(times, 20)
    assert machine.share(1, 1, 20) > 0.8
    work = sum(1 for at, _, _ in machine.used if at >= 1) * 0.004 / 19
    assert work > 0.93  # as fast as one thread all the time, but for some percent


def test_with_many_cores_it_goes_down_as_far_as_it_pays() -> None:
    counts = counts_of(8)
    idle = {f"t{n}": 0.008 / n for n in counts}
    machine = Machine(*counts)
    machine.run(constant(**idle), 2)
    assert machine.share(8, 0.1, 2) == 1
    machine.run(constant(**{**idle, "t8": 0.005}), 2)
    assert machine.share(4, 2.2, 4) > 0.85
    machine.run(constant(**{**idle, "t8": 0.02, "t4": 0.01}), 2)
    assert machine.share(3, 5, 6) > 0.8
    machine.run(constant(**idle), 3)
    assert machine.share(8, 8, 9) == 1


def test_alarm_a_choice_that_never_changes_is_found() -> None:
    machine = Machine(2)
    machine.run(constant(t2=0.008), 3)
    assert machine.share(2, 0, 3) == 1
    with pytest.raises(ZeroDivisionError):
        machine.share(2, 5, 6)
