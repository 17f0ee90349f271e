"""Handlers of Ctrl-C (SIGINT) and SIGTERM: for a whole command, for a loop with a safe point, and around writes.

Importing this module installs nothing. ``Interruption`` is installed by the command's entry point; the two guards are context
managers that put the previous handlers back.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Iterator
from types import FrameType
from typing import Any, NoReturn, Self

INTERRUPTED = 130  # exit code
SIGNALS = (signal.SIGINT, signal.SIGTERM)
MOST_RAISED = 2  # interruptions that are raised; the next one ends the process at once


def _is_ignored(handler: Any) -> bool:
    """Return whether a signal is ignored, as in a script's background, or handled outside Python."""
    return handler in (signal.SIG_IGN, None)


class Interruption:
    """Signal handler of a whole command, which ends with one line and exit code ``INTERRUPTED``.

    While ``raises`` is false, during the first imports, the process exits at once: there is nothing to clean up, and some
    libraries turn a KeyboardInterrupt into another error. Afterwards the handler raises KeyboardInterrupt, so that files and
    other processes are cleaned up.
    """

    def __init__(self) -> None:
        self.received = 0
        self.raises = False

    def install(self) -> None:
        """Handle the signals of this process, except those that are ignored."""
        for number in SIGNALS:
            if not _is_ignored(signal.getsignal(number)):
                signal.signal(number, self)
        self._unraisable, sys.unraisablehook = sys.unraisablehook, self._lost

    def ignore(self) -> None:
        """Ignore the signals from now on: after the work, a signal during the interpreter's shutdown would show a traceback."""
        for number in SIGNALS:
            signal.signal(number, signal.SIG_IGN)

    def __call__(self, number: int, frame: object) -> None:
        self.received += 1
        if not self.raises or self.received > MOST_RAISED:
            self._leave()
        raise KeyboardInterrupt

    def _lost(self, unraisable: Any) -> None:
        """Exit if Python drops the KeyboardInterrupt, as it does in a destructor and in a callback from C."""
        if issubclass(unraisable.exc_type, KeyboardInterrupt):
            self._leave()
        self._unraisable(unraisable)

    def _leave(self) -> NoReturn:
        self.say()
        os._exit(INTERRUPTED)

    def say(self) -> None:
        """Print the line; in training by several processes, only rank 0 prints it."""
        if "WORLD_SIZE" not in os.environ or os.environ.get("RANK", "0") == "0":
            with contextlib.suppress(OSError):  # standard error may be closed
                os.write(2, b"interrupted\n")


class _SignalGuard:
    """Context manager that handles the signals of this process and then restores their handlers.

    Outside the main thread, where Python allows no handler, nothing changes; a signal that is ignored stays ignored.
    """

    def __enter__(self) -> Self:
        self._previous: dict[signal.Signals, Any] = {}
        if threading.current_thread() is threading.main_thread():
            for number in SIGNALS:
                handler = signal.getsignal(number)
                if not _is_ignored(handler) and self._replaces(number, handler):
                    self._previous[number] = signal.signal(number, self._receive)
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _replaces(self, number: signal.Signals, handler: Any) -> bool:
        """Return whether the guard replaces ``handler``."""
        return True

    def _receive(self, number: int, frame: FrameType | None) -> None:
        raise NotImplementedError


class StopRequest(_SignalGuard):
    """Guard of a loop that polls ``received`` between two steps, so that no step is left half done.

    The second signal raises KeyboardInterrupt at once. A program's own SIGTERM handler is kept.
    """

    received = False

    def _replaces(self, number: signal.Signals, handler: Any) -> bool:
        return number == signal.SIGINT or handler == signal.SIG_DFL or isinstance(handler, Interruption)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if self.received:
            raise KeyboardInterrupt
        self.received = True


class DeferredInterrupt(_SignalGuard):
    """Guard in which every signal raises KeyboardInterrupt, but never inside ``deferred``, which protects a write."""

    def __init__(self) -> None:
        self._deferring = self._received = False

    def _receive(self, number: int, frame: FrameType | None) -> None:
        self._received = True
        if not self._deferring:
            raise KeyboardInterrupt

    @contextlib.contextmanager
    def deferred(self) -> Iterator[None]:
        """Defer KeyboardInterrupt to the end of the block; in nested blocks, to the end of the outermost one."""
        outer, self._deferring = self._deferring, True
        try:
            yield
        finally:
            self._deferring = outer
        if self._received and not outer:
            raise KeyboardInterrupt
