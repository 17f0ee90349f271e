"""The group of processes that train one model together, and its usual case: a single process.

All processes run the same training loop on the same batches and compute the same results. Values that may differ between
them (clock, Ctrl-C, file reads) are agreed through the group.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

SharedValue = TypeVar("SharedValue")


class Group:
    """A group of one process; ``unrolled.export.torch.distributed.TorchGroup`` joins several."""

    rank, size = 0, 1

    @property
    def leads(self) -> bool:
        """Return whether this process has rank 0, the only one that writes files and prints."""
        return self.rank == 0

    def largest(self, *values: float) -> tuple[float, ...]:
        """Return the maximum of each value over all processes (an all-reduce)."""
        return values

    def shared(self, make: Callable[[], SharedValue]) -> SharedValue:
        """Call ``make`` in the process of rank 0 only, and return or raise the outcome in every process (a broadcast)."""
        return make()

    def check_same(self, what: Any) -> None:
        """Check that all processes have the same JSON value.

        Raises:
            ConfigError: the values differ.
        """


SINGLE_PROCESS = Group()
