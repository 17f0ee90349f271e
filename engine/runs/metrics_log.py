"""The log of a run, metrics.jsonl: one JSON object per line.

There are three kinds of lines, here for a head that counts "tokens": ``{"event": "step", step, epoch, seconds, loss,
grad_norm, learning_rate, tokens, tokens_per_s, …}`` with the head's metrics that do not follow from others,
``{"event": "validation", step, epoch, seconds, …, best}`` with all of its metrics and their count, and ``{"event": "sample",
step, text}``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from unrolled.engine.errors import ModelFileError
from unrolled.engine.models.heads.head import Head, logged_metrics
from unrolled.engine.storage.json_text import parse_json, to_json
from unrolled.engine.training.events import SampleEvent, StepEvent, ValidationEvent

METRICS = "metrics.jsonl"


def step_lines(head: Head) -> Callable[[StepEvent], str]:
    """Return the function that formats the line of a training step, whose numbers the loop has checked to be finite.

    There is a line for every training step. Formatted by hand it takes half the time that the encoder of ``json`` takes,
    most of both for the digits of seven numbers.
    """
    count, logged = head.counts, [(f', "{metric.name}": ', metric.name) for metric in logged_metrics(head)]

    def line(event: StepEvent) -> str:
        others, metrics = "", event.metrics
        for key, name in logged:
            others += f"{key}{float(getattr(metrics, name))!r}"
        return (
            f'{{"event": "step", "step": {event.step}, "epoch": {float(event.epoch)!r}, '
            f'"seconds": {float(event.seconds)!r}, "loss": {float(event.loss)!r}, "grad_norm": {float(event.grad_norm)!r}, '
            f'"learning_rate": {float(event.learning_rate)!r}, "{count}": {event.count}, '
            f'"{count}_per_s": {float(event.count_per_s)!r}{others}}}\n'
        )

    return line


def validation_line(event: ValidationEvent) -> str:
    """Return the line of a validation."""
    position = {"step": event.step, "epoch": event.epoch, "seconds": event.seconds}
    return _line({"event": "validation", **position, **event.metrics.to_dict(), "best": event.best})


def sample_line(event: SampleEvent) -> str:
    """Return the line of a text that the model wrote."""
    return _line({"event": "sample", **asdict(event)})


def _line(values: dict[str, Any]) -> str:
    return to_json(values, ascii=True) + "\n"


def read_metrics(path: str | Path, event: str) -> Iterator[dict[str, Any]]:
    """Yield the lines of one kind ("step", "validation" or "sample") in the metrics.jsonl of a run folder.

    The log of a run that is in progress, or was killed, may end in the middle of a line, which is left out.

    Raises:
        ModelFileError: the file cannot be read, or a line is no JSON object.
    """
    file = Path(path) / METRICS
    try:
        lines = file.read_bytes().split(b"\n")[:-1]
    except OSError as error:
        raise ModelFileError(f"{file}: cannot be read ({error.strerror})") from error
    for line in filter(None, lines):
        values = parse_json(line.decode(errors="replace"), f"{file}: a line")
        if values.get("event") == event:
            yield values
