"""The worker's side of a worker process: answer messages until the parent ends."""

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
    """A channel of messages from and to the parent, over the standard streams that the process was started with.

    The channel takes the streams over: from now on standard input is empty for the rest of the process, and the output of
    libraries goes to standard error, so that it cannot mix with the messages. A thread reads the input, so the process ends as
    soon as the parent closes it or ends, even in the middle of a computation.
    """

    def __init__(self) -> None:
        self._source, self._sink = os.dup(0), os.fdopen(os.dup(1), "wb")
        os.dup2(2, 1)
        with open(os.devnull, "rb") as nothing:
            os.dup2(nothing.fileno(), 0)
        self._lines: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        parts: list[bytes] = []  # of the current, incomplete line
        while chunk := os.read(self._source, 1 << 20):  # unbuffered: a buffer's lock would be held at exit
            first, *others = chunk.split(b"\n")
            parts.append(first)
            for part in others:
                self._lines.put(b"".join(parts))
                parts = [part]
        _leave()

    def receive(self) -> Message:
        """Wait for the parent's next message, without using the processor, and return it."""
        return from_line(self._lines.get())

    def send(self, message: Mapping[str, Any]) -> None:
        """Send a message to the parent; exit if the parent no longer reads."""
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
    """Answer every message of the parent with the return value of ``answer``, or with the error that it raises.

    Args:
        answer: computes the answer to one message.
        channel: channel to the parent; None: a new one. A caller that also sends other messages passes its own.
    """
    channel = ParentChannel() if channel is None else channel
    while True:
        try:
            reply = answer(channel.receive())
        except Exception as error:  # the parent decides whether any error is fatal
            reply = error_message(error)
        channel.send(reply)
        del reply  # its arrays may be large, and the wait for the next message long


def _leave() -> NoReturn:
    """Kill the process group if this process leads one, then exit: no parent waits for an answer."""
    if sys.platform != "win32" and os.getpgrp() == os.getpid():
        os.killpg(os.getpid(), signal.SIGKILL)
    os._exit(1)
