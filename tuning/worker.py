"""Trials in a process of their own: ``python -m unrolled.tuning.worker``, JSON lines in and out.

The first line in is the corpus. Then each ``{"options", "lanes", "rungs"}`` is a trial, answered by lines of ``kind``
"warning", "pulse" and "rung", each of the last waiting for ``{"more": true or false}``, and one of "end". When the input
ends, so does the process, in the middle of a step if need be: whoever asked is gone.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import sys
import threading
from dataclasses import asdict
from typing import IO, Any

from unrolled.engine.data.corpus import Corpus
from unrolled.engine.data.token_files import EncodedCorpus, read_encoded
from unrolled.engine.errors import ConfigError, DivergedError, UnrolledError, first_line
from unrolled.engine.storage.json_text import finite
from unrolled.tuning.trial import Datasets, PrunedError, run_trial

# How a trial ends, besides "complete" and "pruned"; what is none of these ends the study.
DIVERGED, REFUSED, FAILED, FATAL = "diverged", "refused", "failed", "fatal"


def pack_corpus(corpus: Corpus | EncodedCorpus, sources: list[str]) -> dict[str, Any]:
    """A corpus for the first line; a token file is mapped again by its name."""
    if isinstance(corpus, EncodedCorpus):
        return {"tokens": sources[0]}
    return {"name": corpus.name, "content": corpus.content}


def _unpack_corpus(values: dict[str, Any]) -> Corpus | EncodedCorpus:
    if "tokens" in values:
        return read_encoded(values["tokens"])
    content = values["content"]
    return Corpus(values["name"], content if isinstance(content, str) else tuple(content))


class _Channel:
    """Lines to and from the study; also the ``Listener`` of a trial."""

    def __init__(self, received: IO[bytes], sent: IO[bytes]) -> None:
        self._received, self._sent = received, sent
        self._lines: queue.Queue[dict[str, Any]] = queue.Queue()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        for line in self._received:
            self._lines.put(json.loads(line))
        os._exit(0)  # not when this trial is over, which nobody waits for

    def receive(self) -> dict[str, Any]:
        return self._lines.get()

    def send(self, **message: Any) -> None:
        self._sent.write((json.dumps(finite(message)) + "\n").encode())
        self._sent.flush()

    def pulse(self, done: float, step: int, loss: float) -> None:
        self.send(kind="pulse", done=done, step=step, loss=loss)

    def warn(self, message: str) -> None:
        self.send(kind="warning", message=message)

    def wants_more(self, rung: int, loss: float) -> bool:
        self.send(kind="rung", rung=rung, loss=loss)
        return bool(self.receive()["more"])


def _attempt(datasets: Datasets, options: dict[str, Any], rungs: bool, channel: _Channel) -> dict[str, Any]:
    """A trial, and how it ended."""
    try:
        return {"state": "complete", **asdict(run_trial(datasets, options, channel, rungs=rungs))}
    except PrunedError:
        return {"state": "pruned"}
    except DivergedError as error:
        return {"state": DIVERGED, "message": str(error)}
    except ConfigError as error:
        return {"state": REFUSED, "message": str(error)}
    except UnrolledError as error:  # of the corpus, or of what is not installed: no other trial would fare better
        return {"state": FATAL, "message": str(error)}
    except Exception as error:  # of memory, or of a library: the next trial may be smaller
        return {"state": FAILED, "message": f"{type(error).__name__}: {first_line(error)}"}


def serve(received: IO[bytes], sent: IO[bytes]) -> None:
    """Answer until the input ends."""
    channel = _Channel(received, sent)
    corpus = _unpack_corpus(channel.receive())
    datasets: dict[int | None, Datasets] = {}
    while True:
        job = channel.receive()
        data = datasets.setdefault(job["lanes"], Datasets(corpus, job["lanes"]))
        channel.send(kind="end", **_attempt(data, job["options"], job["rungs"], channel))


def main() -> None:
    """Serve on the process's own streams; what libraries print goes to standard error instead."""
    sent = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    with contextlib.suppress(BrokenPipeError):
        serve(sys.stdin.buffer, sent)


if __name__ == "__main__":
    main()
