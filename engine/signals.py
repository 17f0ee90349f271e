"""Ctrl-C and SIGTERM: of a whole command, and of a loop that leaves nothing half done."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from typing import Any, NoReturn

INTERRUPTED = 130  # exit code
SIGNALS = (signal.SIGINT, signal.SIGTERM)
MOST = 2  # interruptions that are raised; the next one ends the process at once


class Interruption:
    """The signal handler of a command: it ends with one line and ``INTERRUPTED``, wherever it was.

    During the first imports the process leaves at once: there is nothing to put right, and some libraries make another
    error of a KeyboardInterrupt. With ``raises`` it is raised, so that files and other processes are put right.
    """

    def __init__(self) -> None:
        self.received = 0
        self.raises = False

    def install(self) -> None:
        """Receive the signals of this process, but for those that are ignored, as in a script's background."""
        for number in SIGNALS:
            if signal.getsignal(number) not in (signal.SIG_IGN, None):
                signal.signal(number, self)
        self._unraisable, sys.unraisablehook = sys.unraisablehook, self._lost

    def ignore(self) -> None:
        """Ignore the signals from now on: the work is done, and an interpreter that ends would show a traceback."""
        for number in SIGNALS:
            signal.signal(number, signal.SIG_IGN)

    def __call__(self, number: int, frame: object) -> None:
        self.received += 1
        if not self.raises or self.received > MOST:
            self._leave()
        raise KeyboardInterrupt

    def _lost(self, unraisable: Any) -> None:
        """Leave where Python drops the KeyboardInterrupt: in a destructor, or a callback from C."""
        if issubclass(unraisable.exc_type, KeyboardInterrupt):
            self._leave()
        self._unraisable(unraisable)

    def _leave(self) -> NoReturn:
        self.say()
        os._exit(INTERRUPTED)

    def say(self) -> None:
        """Print the line; of several processes that train together the first does."""
        if "WORLD_SIZE" not in os.environ or os.environ.get("RANK", "0") == "0":
            with contextlib.suppress(OSError):  # standard error may be closed
                os.write(2, b"interrupted\n")


class CtrlC:
    """Ctrl-C and SIGTERM as a request that a loop polls between two steps, so that nothing is left half done.

    A second one interrupts at once. Outside the main thread, where Python allows no handler, nothing changes; a Ctrl-C
    that is ignored, as in a script's background, stays so, and so does a SIGTERM for which the program has a handler.
    """

    pressed = False

    def __enter__(self) -> CtrlC:
        self._before: dict[signal.Signals, Any] = {}
        if threading.current_thread() is threading.main_thread():
            if signal.getsignal(signal.SIGINT) not in (signal.SIG_IGN, None):
                self._before[signal.SIGINT] = signal.signal(signal.SIGINT, self._press)
            before = signal.getsignal(signal.SIGTERM)
            if before == signal.SIG_DFL or isinstance(before, Interruption):
                self._before[signal.SIGTERM] = signal.signal(signal.SIGTERM, self._press)
        return self

    def _press(self, number: int, frame: object) -> None:
        if self.pressed:
            raise KeyboardInterrupt
        self.pressed = True

    def __exit__(self, *error: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
