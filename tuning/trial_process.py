"""Trials in a process of their own, from both sides.

``python -m unrolled.tuning.trial_process`` is the worker process. Its first message is the corpus. Then each message of
``options``, ``lanes`` and ``rungs`` is a trial, answered by messages of ``kind`` "warning", "pulse" and "rung", each of the
last waiting for ``{"more": true or false}``, and one of "end".
"""

from __future__ import annotations

import queue
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from unrolled.engine.data.corpus import Corpus
from unrolled.engine.data.token_files import EncodedCorpus, read_encoded
from unrolled.engine.errors import ConfigError, DivergedError, UnrolledError, first_line
from unrolled.engine.processes.messages import Message
from unrolled.engine.processes.serving import ParentChannel, serve
from unrolled.engine.processes.worker import Delivery, WorkerProcess, python_module
from unrolled.tuning.outcomes import DIVERGED, FAILED, FATAL, REFUSED
from unrolled.tuning.trial import Datasets, PrunedError, run_trial


class TrialProcess(WorkerProcess):
    """A process that runs one trial after the other.

    Args:
        corpus: from ``pack_corpus``.
        threads: for the process; None: as many as this process would have.
        inbox: queue for its messages, together with those of other processes.
    """

    def __init__(self, corpus: Mapping[str, Any], threads: int | None, inbox: queue.Queue[Delivery]) -> None:
        super().__init__(python_module("unrolled.tuning.trial_process"), threads, inbox)
        self.send(corpus)


def pack_corpus(corpus: Corpus | EncodedCorpus, sources: list[str]) -> dict[str, Any]:
    """Return a corpus as the first message; a token file is mapped again by its name."""
    if isinstance(corpus, EncodedCorpus):
        return {"tokens": sources[0]}
    return {"name": corpus.name, "content": corpus.content}


def _unpack_corpus(values: dict[str, Any]) -> Corpus | EncodedCorpus:
    if "tokens" in values:
        return read_encoded(values["tokens"])
    content = values["content"]
    return Corpus(values["name"], content if isinstance(content, str) else tuple(content))


class TrialService:
    """Worker's side of the process, which runs trials and is their ``TrialListener``."""

    def __init__(self, corpus: Corpus | EncodedCorpus, channel: ParentChannel) -> None:
        self._corpus, self._channel = corpus, channel
        self._datasets: dict[int | None, Datasets] = {}  # by the lanes of validation batches

    def answer(self, job: Message) -> dict[str, Any]:
        """Run a trial and return how it ended."""
        data = self._datasets.setdefault(job["lanes"], Datasets(self._corpus, job["lanes"]))
        return {"kind": "end", **self._attempt(data, job["options"], job["rungs"])}

    def _attempt(self, datasets: Datasets, options: dict[str, Any], rungs: bool) -> dict[str, Any]:
        try:
            return {"state": "complete", **asdict(run_trial(datasets, options, self, rungs=rungs))}
        except PrunedError:
            return {"state": "pruned"}
        except DivergedError as error:
            return {"state": DIVERGED, "message": str(error)}
        except ConfigError as error:
            return {"state": REFUSED, "message": str(error)}
        except UnrolledError as error:  # of the corpus or a missing library: other trials would fail as well
            return {"state": FATAL, "message": str(error)}
        except Exception as error:  # of memory or a library: the next trial may be smaller
            return {"state": FAILED, "message": f"{type(error).__name__}: {first_line(error)}"}

    def pulse(self, done: float, step: int, loss: float) -> None:
        self._channel.send({"kind": "pulse", "done": done, "step": step, "loss": loss})

    def warn(self, message: str) -> None:
        self._channel.send({"kind": "warning", "message": message})

    def wants_more(self, rung: int, loss: float) -> bool:
        return bool(self._channel.ask({"kind": "rung", "rung": rung, "loss": loss})["more"])


def main() -> None:
    """Serve trials on the corpus of the first message."""
    channel = ParentChannel()
    corpus = _unpack_corpus(channel.receive())
    serve(TrialService(corpus, channel).answer, channel)


if __name__ == "__main__":
    main()
