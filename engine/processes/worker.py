"""The parent's side of a worker process: start it, exchange messages, detect its death, and kill it with its children."""

from __future__ import annotations

import contextlib
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, NamedTuple, Self

from unrolled.engine.cores import THREAD_VARIABLES
from unrolled.engine.errors import UnrolledError
from unrolled.engine.processes.messages import Message, from_line, to_line


class WorkerError(UnrolledError):
    """A worker process failed, died, timed out, or answered with a line that is not a message."""


class WorkerFailedError(WorkerError):
    """A worker answered with an error.

    Args:
        type_name: class of the error, written as in a traceback.
        message: text of the error, one or more lines.
    """

    def __init__(self, type_name: str, message: str) -> None:
        super().__init__(f"{type_name.rpartition('.')[2]}: {(message or '-').splitlines()[0]}")
        self.text = f"{type_name}: {message}" if message else type_name

    @property
    def last_line(self) -> str:
        """Return the last line of the traceback that the error would have printed."""
        return self.text.strip().splitlines()[-1]


class WorkerDiedError(WorkerError):
    """A worker process ended.

    Args:
        code: exit code; negative: the signal that ended the process.
        last_line: last line of its standard error; "" if it wrote none.
    """

    def __init__(self, code: int, last_line: str) -> None:
        super().__init__(last_line or f"the process ended with code {code}")
        self.code, self.last_line = code, last_line


class Delivery(NamedTuple):
    """A message of a worker, or the error in its place; the last delivery of a worker is its ``WorkerDiedError``."""

    worker: WorkerProcess
    content: Message | WorkerError


def python_module(name: str) -> list[str]:
    """Return the command that runs a module of this package in this interpreter."""
    return [sys.executable, "-m", name]


class WorkerProcess:
    """A process that answers messages, started in a process group of its own.

    Ctrl-C in a terminal therefore reaches the parent only, which decides whether its workers continue. A worker that uses
    ``serving`` ends by itself if the parent is killed.

    Args:
        command: program and arguments.
        threads: threads for each thread pool of the libraries that the worker loads; None: as many as in this process.
        inbox: queue for its deliveries, shared by a parent that waits for several workers at once and does not call
            ``receive``; None: a queue of its own.
    """

    def __init__(
        self, command: Sequence[str], threads: int | None = None, inbox: queue.Queue[Delivery] | None = None
    ) -> None:
        shares = {} if threads is None else dict.fromkeys(THREAD_VARIABLES, str(threads))
        self._inbox: queue.Queue[Delivery] = queue.Queue() if inbox is None else inbox
        self._stopped = False
        with contextlib.ExitStack() as unstarted:
            self._stderr = unstarted.enter_context(tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace"))
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._stderr,
                env={**os.environ, **shares, "PYTHONWARNINGS": "ignore"},
                **_own_group(),
            )
            unstarted.pop_all()  # stop() closes it
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def alive(self) -> bool:
        """Return whether the process runs."""
        return self._process.poll() is None

    @property
    def pid(self) -> int:
        """Return the id of the process."""
        return self._process.pid

    def send(self, message: Mapping[str, Any]) -> None:
        """Send a message; if the worker has died, the next ``receive`` raises the error."""
        assert self._process.stdin is not None
        with contextlib.suppress(OSError):
            self._process.stdin.write(to_line(message))
            self._process.stdin.flush()

    def receive(self, timeout: float | None = None) -> Message:
        """Return the worker's next message.

        Args:
            timeout: seconds to wait; None: without a limit.

        Raises:
            WorkerError: the worker failed, died or timed out.
        """
        try:
            delivery = self._inbox.get(timeout=timeout)
        except queue.Empty:
            raise WorkerError(f"no answer in {timeout:.0f} s") from None
        if isinstance(delivery.content, WorkerDiedError):
            self._inbox.put(delivery)  # the next call raises it again
        if isinstance(delivery.content, WorkerError):
            raise delivery.content
        return delivery.content

    def ask(self, message: Mapping[str, Any], timeout: float | None = None) -> Message:
        """Send a message and return the answer; see ``receive``."""
        self.send(message)
        return self.receive(timeout)

    def stop(self) -> None:
        """Kill the process and all other processes of its group; a second call has no effect."""
        if self._stopped:
            return
        self._stopped = True
        if sys.platform == "win32":
            self._process.kill()
        else:
            with contextlib.suppress(ProcessLookupError, PermissionError):  # the group has ended
                os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self._reader.join()
        for stream in (self._process.stdin, self._process.stdout, self._stderr):
            assert stream is not None
            with contextlib.suppress(OSError):  # closing flushes unsent input, which has no reader
                stream.close()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.endswith(b"\n"):  # otherwise the process died while writing the line
                self._inbox.put(Delivery(self, _content(line)))
        code = self._process.wait()
        self._stderr.seek(0)
        lines = self._stderr.read().strip().splitlines()
        self._inbox.put(Delivery(self, WorkerDiedError(code, lines[-1] if lines else "")))


def _content(line: bytes) -> Message | WorkerError:
    try:
        message = from_line(line)
        if (error := message.get("error")) is None:
            return message
        return WorkerFailedError(error["type"], error["message"])
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        start = line.decode(errors="replace").rstrip("\n")[:80]
        return WorkerError(f"the process answered {start!r}, which is not a message ({error})")


def _own_group() -> dict[str, Any]:
    if sys.platform == "win32":
        return {"creationflags": subprocess.CREATE_NEW_PROCESS_GROUP}
    # not a session of its own: Linux may divide processors between sessions first, and between their threads only then
    return {"process_group": 0}
