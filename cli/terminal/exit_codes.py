"""Exit codes of the command, beside 0: done."""

from __future__ import annotations

from unrolled.engine.signals import INTERRUPTED

# The verb ran, and its answer is no: a file is not what it says, something is slower, nothing could be tried.
FAILED = 1
BAD_INPUT = 2  # bad usage or input; one line says what
SOME_ROWS_FAILED = 3  # a job is done, and some of its rows are error records

__all__ = ["BAD_INPUT", "FAILED", "INTERRUPTED", "SOME_ROWS_FAILED"]
