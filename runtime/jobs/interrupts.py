"""Ctrl-C and SIGTERM that wait where a write must not be cut in two."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupts:
    """A context in which both signals raise KeyboardInterrupt, though never inside ``held``.

    Only the main thread can receive signals; in another one nothing changes. A signal that is ignored stays so.
    """

    def __init__(self) -> None:
        self._before: dict[signal.Signals, Any] = {}
        self._holding = self._asked = False

    def __enter__(self) -> Interrupts:
        if threading.current_thread() is threading.main_thread():
            for number in SIGNALS:
                if signal.getsignal(number) not in (signal.SIG_IGN, None):
                    self._before[number] = signal.signal(number, self._receive)
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        self._asked = True
        if not self._holding:
            raise KeyboardInterrupt

    @contextmanager
    def held(self) -> Iterator[None]:
        """What came meanwhile is raised at the end; of several, one in the other, at that of the outermost."""
        before, self._holding = self._holding, True
        try:
            yield
        finally:
            self._holding = before
        if self._asked and not before:
            raise KeyboardInterrupt
