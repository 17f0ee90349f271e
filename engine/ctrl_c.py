"""Ctrl-C that waits until nothing is left half done."""

from __future__ import annotations

import signal
import threading
from typing import Any


class CtrlC:
    """Ctrl-C and SIGTERM as a request that a loop looks at between two steps, so that nothing is left half done.

    A second one interrupts at once. Outside the main thread, where Python allows no handler, nothing changes, and a Ctrl-C that
    is ignored, as in a script's background, stays so.
    """

    pressed = False

    def __enter__(self) -> CtrlC:
        self._before: dict[signal.Signals, Any] = {}
        if threading.current_thread() is threading.main_thread():
            if signal.getsignal(signal.SIGINT) not in (signal.SIG_IGN, None):
                self._before[signal.SIGINT] = signal.signal(signal.SIGINT, self._press)
            if signal.getsignal(signal.SIGTERM) == signal.SIG_DFL:
                self._before[signal.SIGTERM] = signal.signal(signal.SIGTERM, self._press)
        return self

    def _press(self, number: int, frame: object) -> None:
        if self.pressed:
            raise KeyboardInterrupt
        self.pressed = True

    def __exit__(self, *error: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
