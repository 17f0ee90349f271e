"""The worker's side of a worker process, which answers messages until its parent is gone."""

from __future__ import annotations

import os
import queue
import signal
import sys
import threading
from collections.abc import Callable, Mapping
from typing import Any, NoReturn

from unrolled.engine.processes.messages import Message, error_message, from_line, to_line


class ParentChannel:
    """Messages from and to the parent, over the standard streams that the process was started with.

    The channel takes the streams over: afterwards standard input is empty, and the output of libraries goes to standard error,
    not between the messages. A thread reads the input, so that the process ends as soon as the parent closes it or is gone,
    even in the middle of a computation.
    """

    def __init__(self) -> None:
        self._source, self._sink = os.dup(0), os.fdopen(os.dup(1), "wb")
        os.dup2(2, 1)
        with open(os.devnull, "rb") as nothing:
            os.dup2(nothing.fileno(), 0)
        self._lines: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        parts: list[bytes] = []  # of the line that has not ended
        while chunk := os.read(self._source, 1 << 20):  # not through a buffer, whose lock would be held at the end
            first, *others = chunk.split(b"\n")
            parts.append(first)
            for part in others:
                self._lines.put(b"".join(parts))
                parts = [part]
        _leave()

    def receive(self) -> Message:
        """Return the parent's next message; wait for it without using the processor."""
        return from_line(self._lines.get())

    def send(self, message: Mapping[str, Any]) -> None:
        """Send a message to the parent; end the process if the parent is gone."""
        try:
            self._sink.write(to_line(message))
            self._sink.flush()
        except BrokenPipeError:
            _leave()

    def ask(self, message: Mapping[str, Any]) -> Message:
        """Send a message to the parent and return its answer."""
        self.send(message)
        return self.receive()


def serve(answer: Callable[[Message], Mapping[str, Any]], channel: ParentChannel | None = None) -> NoReturn:
    """Answer every message of the parent with what ``answer`` returns for it, or with the error that it raises.

    Args:
        answer: called with one message after the other.
        channel: the channel of a caller that sends other messages as well; None: a new one.
    """
    channel = ParentChannel() if channel is None else channel
    while True:
        try:
            reply = answer(channel.receive())
        except Exception as error:  # of any kind: the parent decides what to do about it
            reply = error_message(error)
        channel.send(reply)
        del reply  # frees its arrays before the next message


def _leave() -> NoReturn:
    """End this process, and the process group that it leads: their results have no reader."""
    if sys.platform != "win32" and os.getpgrp() == os.getpid():
        os.killpg(os.getpid(), signal.SIGKILL)
    os._exit(1)
