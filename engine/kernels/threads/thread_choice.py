"""Choice of the number of threads by the times of runs, for machines whose cores other processes use too.

Threads that share a computation wait for each other, so a thread that another process keeps from its core stops all of them.
Beside one busy process on two cores, a training step of an LSTM of 256 units, B = 32, takes two to three times as long as
alone on two threads; on one thread, which has a core for itself and waits for nobody, 1.7 times. Results do not depend on the
number of threads, so it may change from one run to the next.

``ThreadChoice`` is told how long each run took and returns the number of threads for the next one. It reads no clock itself.
"""

from __future__ import annotations

import math

PERIOD = 0.02  # seconds of runs whose mean counts: some time slices of a system's scheduler
TRIAL = 0.01  # seconds of runs on fewer threads, and the least on more
# Share of the pause before it that a trial of more threads takes: a thread that wakes up may first wait for the time slice of
# another process, or for a core of its own.
SHARE = 1 / 10
# Seconds between two trials: FIRST, and twice as many after each that did not pay, up to a longest pause. Of fewer threads that
# one is longer, because on an idle machine a trial of them costs as much time as it takes. A trial takes at least one run, so
# there are also FIRST_RUNS between two, and twice as many each time.
FIRST, FIRST_RUNS = 0.04, 1
LONGEST_MORE, LONGEST_FEWER = 8, 16  # times these
UNDISTURBED = 0.5  # seconds on as many threads, or on all without a slow period, after which the pauses are short again
SLOW = 1.2  # times the fastest period on as many threads: two such periods show that others may be using the cores
BETTER = 0.95  # times the present time of a run: another number of threads that is faster than that is taken
DOUBTED = 0.9  # times the last time on fewer threads, whenever it was too long for a trial: others may have caused it
FORGOTTEN = 1.002  # times the fastest period, for each later one: a processor that gets warm stays slower


def counts_of(parts: int) -> list[int]:
    """Return the numbers of threads that are worth trying for a computation in ``parts`` equal parts, the largest first.

    Others finish no sooner than the next smaller one: of 8 parts 5 threads have 2 in turn, as 4 threads have.
    """
    return sorted({math.ceil(parts / turns) for turns in range(1, parts + 1)}, reverse=True)


class _Mean:
    """Mean of the seconds of runs that follow each other."""

    def __init__(self) -> None:
        self.seconds, self.runs = 0.0, 0

    def add(self, seconds: float) -> None:
        self.seconds += seconds
        self.runs += 1

    @property
    def value(self) -> float:
        return self.seconds / self.runs


class _Pause:
    """Time since the last trial in one direction, to more threads or to fewer, and the time until the next."""

    def __init__(self, longest: int) -> None:
        self._factor, self._longest = 1, longest
        self._passed = _Mean()

    def add(self, seconds: float) -> None:
        self._passed.add(seconds)

    @property
    def over(self) -> bool:
        """Return whether a trial is due."""
        return self._passed.seconds >= FIRST * self._factor and self._passed.runs >= FIRST_RUNS * self._factor

    @property
    def trial(self) -> float:
        """Return the seconds of the trial after this pause."""
        return max(TRIAL, SHARE * FIRST * self._factor)

    def restart(self, paid: bool) -> None:
        """Begin the next pause: as short as the first after a trial that paid, else twice as long as the last one."""
        self._factor = 1 if paid else min(2 * self._factor, self._longest)
        self._passed = _Mean()


class ThreadChoice:
    """The number of threads for runs of one computation, each of which does the same work.

    Fewer threads are tried when runs take longer than they did on as many, and once at the start; more are tried from time to
    time. A trial is some runs, after which the faster number stays. Trials that do not pay become rare: a machine that is idle
    for long spends no time on them, and one that is busy for long a tenth, in which it is somewhat slower.

    Args:
        counts: numbers of threads, the largest first.
    """

    def __init__(self, counts: list[int]) -> None:
        self._counts, self._level = counts, 0
        self._trial: int | None = None  # the level that is being tried
        self._wakes = False  # whether its first run is next
        self._period, self._now = _Mean(), math.inf  # runs of this period; seconds of a run in the last one
        self._fastest = [math.inf] * len(counts)  # seconds of a run in the fastest period of each level
        self._last = [0.0] * len(counts)  # seconds of a run when each level was last used; 0: it never was
        self._fewer, self._more = _Pause(LONGEST_FEWER), _Pause(LONGEST_MORE)
        self._slow = 0  # slow periods that followed each other
        self._undisturbed = 0.0  # seconds without one, on all threads
        self._kept = 0.0  # seconds on the present level

    @property
    def threads(self) -> int:
        """Return the number of threads for the next run."""
        return self._counts[self._level if self._trial is None else self._trial]

    def tell(self, seconds: float) -> None:
        """Take note of the seconds of a run on ``threads`` threads."""
        if self._trial is not None:
            self._tell_of_trial(self._trial, seconds)
            return
        self._period.add(seconds)
        self._kept += seconds
        self._fewer.add(seconds)
        self._more.add(seconds)
        if self._period.seconds >= PERIOD:
            self._end_period()

    def _tell_of_trial(self, tried: int, seconds: float) -> None:
        """Take note of a run of a trial; of short ones the first does not count, in which threads wake up."""
        if self._wakes and seconds < TRIAL:
            self._wakes = False
            return
        self._wakes = False
        self._period.add(seconds)
        if self._period.seconds >= (TRIAL if tried > self._level else self._more.trial):
            self._end_trial(tried)

    def _end_period(self) -> None:
        """Decide whether another number of threads is tried now."""
        length, self._now = self._period.seconds, self._period.value
        self._period = _Mean()
        before = self._fastest[self._level]
        self._fastest[self._level], self._last[self._level] = min(before * FORGOTTEN, self._now), self._now
        self._slow = self._slow + 1 if self._now > SLOW * before else 0
        self._undisturbed = 0.0 if self._slow or self._level > 0 else self._undisturbed + length
        if self._undisturbed >= UNDISTURBED:  # the machine is idle again
            self._fewer.restart(paid=True)
            self._more.restart(paid=True)
        if self._tries_fewer():
            self._trial, self._wakes = self._level + 1, True
        elif self._level > 0 and self._more.over:
            self._trial, self._wakes = self._level - 1, True

    def _tries_fewer(self) -> bool:
        """Return whether to try fewer threads: for the first time, or because runs are slow and it may be faster."""
        fewer = self._level + 1
        if fewer == len(self._counts):
            return False
        if self._last[fewer] > 0 and (self._slow < 2 or not self._fewer.over):
            return False
        if self._now > self._last[fewer]:
            return True
        self._last[fewer] *= DOUBTED
        self._fewer.restart(paid=False)
        return False

    def _end_trial(self, tried: int) -> None:
        """Take the faster of two levels."""
        found = self._period.value
        self._trial, self._period, self._slow = None, _Mean(), 0
        paid, to_fewer = found < BETTER * self._now, tried > self._level
        self._fastest[tried], self._last[tried] = min(self._fastest[tried], found), found
        if to_fewer:
            self._fewer.restart(paid)
        if paid and to_fewer:  # on a busy machine more threads are faster for a moment now and then
            self._more.restart(self._kept >= UNDISTURBED)
        elif not to_fewer and not paid:
            self._more.restart(paid)
        if paid:
            self._level, self._now, self._kept = tried, found, 0.0
