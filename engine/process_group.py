"""The processes that train one model together; here the usual case, a process alone.

All of them run the one training loop on the same batches and see the same results. What they cannot know alike, the time and
what was pressed or read, they ask of the group.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

SharedValue = TypeVar("SharedValue")


class Group:
    """This process alone. One of several is ``unrolled.export.torch.distributed.TorchGroup``."""

    rank, size = 0, 1

    @property
    def leads(self) -> bool:
        """Whether this is the one process that writes files and prints."""
        return self.rank == 0

    def largest(self, *values: float) -> tuple[float, ...]:
        """Of each of the ``values`` the largest of any process."""
        return values

    def shared(self, make: Callable[[], SharedValue]) -> SharedValue:
        """What ``make`` returns or raises in the leading process, in all of them; it is called there alone."""
        return make()

    def check_same(self, what: Any) -> None:
        """Check that all processes have the same JSON value.

        Raises:
            ConfigError: they do not.
        """


SINGLE_PROCESS = Group()
