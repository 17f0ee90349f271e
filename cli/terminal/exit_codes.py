"""Exit codes of the command, beside 0: done."""

from __future__ import annotations

from unrolled.engine.signals import INTERRUPTED

# The verb ran with a negative result: a file fails its checks, a benchmark is slower, no trial is complete.
CHECK_FAILED = 1
BAD_INPUT = 2  # bad usage or input; a one-line message explains it
SOME_ROWS_FAILED = 3  # a job is finished, and some of its rows are error records

__all__ = ["BAD_INPUT", "CHECK_FAILED", "INTERRUPTED", "SOME_ROWS_FAILED"]
