"""The study's side of its workers: start them, talk to them, notice when one dies."""

from __future__ import annotations

import json
import os
import queue
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping
from typing import Any, NamedTuple

from unrolled.engine.cores import THREAD_VARIABLES, usable_cores
from unrolled.engine.errors import ConfigError
from unrolled.tuning.worker import FAILED


def _own_group() -> dict[str, Any]:
    """How to start a process that Ctrl-C does not reach: it goes to the study alone, which then decides."""
    if sys.platform == "win32":
        return {"creationflags": subprocess.CREATE_NEW_PROCESS_GROUP}
    return {"start_new_session": True}


class Message(NamedTuple):
    """What a worker said; a worker that ended has said that its trial failed."""

    worker: Worker
    values: dict[str, Any]


class Worker:
    """A process that runs one trial after the other.

    Args:
        corpus: what ``pack_corpus`` made.
        threads: of its own; None: as many as this process would have.
        inbox: where its messages go, those of all workers in the order in which they came.
    """

    def __init__(self, corpus: Mapping[str, Any], threads: int | None, inbox: queue.Queue[Message]) -> None:
        shares = {} if threads is None else dict.fromkeys(THREAD_VARIABLES, str(threads))
        self._errors = tempfile.TemporaryFile("w+", errors="replace")  # noqa: SIM115 - closed with the worker
        self._process = subprocess.Popen(
            [sys.executable, "-m", "unrolled.tuning.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            env={**os.environ, **shares, "PYTHONWARNINGS": "ignore"},
            **_own_group(),
        )
        self._inbox = inbox
        self.alive = True
        self.send(corpus)
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def send(self, message: Mapping[str, Any]) -> None:
        """A line to the worker; one that is gone says so itself, through the inbox."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write((json.dumps(message) + "\n").encode())
            self._process.stdin.flush()
        except OSError:
            self.alive = False

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._inbox.put(Message(self, json.loads(line)))
        self.alive = False
        self._inbox.put(Message(self, {"kind": "end", "state": FAILED, "message": self._last_words()}))

    def _last_words(self) -> str:
        code = self._process.wait()
        self._errors.seek(0)
        lines = self._errors.read().strip().splitlines()
        return f"the process ended with code {code}" + (f": {lines[-1]}" if lines and code > 0 else "")

    def stop(self) -> None:
        """End the process, whatever it does."""
        self._process.kill()
        self._process.wait()
        self._reader.join()
        for stream in (self._process.stdin, self._process.stdout):
            assert stream is not None
            try:
                stream.close()
            except OSError:  # what was not sent yet has no reader
                continue
        self._errors.close()


def threads_of(jobs: int) -> int | None:
    """Each of so many workers' share of the cores; None: one worker has what it finds.

    Raises:
        ConfigError: there are more workers than cores.
    """
    cores = usable_cores()
    if not 1 <= jobs <= cores:
        raise ConfigError(
            f"jobs: got {jobs}, needs 1 to {cores}, the cores that there are; more would wait for each other"
        )
    return None if jobs == 1 else cores // jobs
