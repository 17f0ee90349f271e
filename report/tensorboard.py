"""Event files for TensorBoard, made from metrics.jsonl: ``tensorboard --logdir runs`` shows the runs side by side.

Events are made only from lines that a save has secured, and the file is rewritten from the first line when a run is resumed.
So no step appears twice, nor one that was discarded because the run returned to its last save.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from unrolled.engine.data.readers.file_names import printable_name
from unrolled.engine.errors import ConfigError, MissingDependencyError
from unrolled.engine.models.heads.head import Head
from unrolled.engine.runs.metrics_log import METRICS
from unrolled.engine.runs.run_files import EVENT_FOLDER, remove_event_files
from unrolled.engine.storage.json_text import parse_json
from unrolled.engine.storage.surrogates import find_surrogate
from unrolled.engine.training.observers import TrainingObserver
from unrolled.engine.training.result import TrainingResult
from unrolled.engine.training.trainable import Trainable

SAMPLE = "sample"


def scalars_of(head: Head, line: Mapping[str, Any]) -> dict[str, float | None]:
    """Return the values of a line of a step or a validation by TensorBoard's tags.

    The part of a tag before the slash is the group on TensorBoard's page.
    """
    part = {"step": "training", "validation": "validation"}[line["event"]]
    metrics = head.metrics_from_dict(line)
    values: dict[str, float | None] = {
        f"{metric.name}/{part}": metric.of(metrics) for metric in head.metrics if not metric.detail
    }
    if line["event"] == "step":
        speed = f"{head.counts}_per_s"
        values |= {
            "learning_rate": line.get("learning_rate"), "gradient_norm": line.get("grad_norm"), speed: line.get(speed)
        }  # fmt: skip
    return values


class EventFiles(TrainingObserver):
    """Update the event file of a run at each save.

    Args:
        run: the run folder; the file is written to its folder ``tensorboard``, and earlier ones there are removed.

    Raises:
        MissingDependencyError: tensorboard is not installed.
        ConfigError: tensorboard cannot open the folder.
    """

    def __init__(self, run: str | Path) -> None:
        try:
            from tensorboard.summary.writer.event_file_writer import EventFileWriter
        except ImportError as error:
            raise MissingDependencyError(
                'tensorboard: event files need it: pip install "unrolled[tensorboard]"'
            ) from error
        if find_surrogate(str(run)) is not None:
            raise ConfigError(
                f"tensorboard: opens no folder whose name is not UTF-8, as {printable_name(run)}; name another one"
            )
        self._make = EventFileWriter
        self.run = Path(run)
        self._writer: Any = None
        self._read = 0  # bytes of metrics.jsonl that the event file contains
        self._began = 0.0  # time of the first step in the event file

    def on_interval(self, trainable: Trainable, result: TrainingResult) -> None:
        self.update(trainable.spec.head)

    def on_end(self, trainable: Trainable, result: TrainingResult) -> None:
        self.update(trainable.spec.head)
        self.close()

    def update(self, head: Head) -> None:
        """Add events for the new lines of metrics.jsonl, with the metrics of the model's head."""
        metrics = self.run / METRICS
        if not metrics.exists():
            return
        with open(metrics, "rb") as file:
            file.seek(self._read)
            data = file.read()
        data = data[: data.rfind(b"\n") + 1]
        self._read += len(data)
        lines = [parse_json(line, f"{metrics}: a line") for line in data.decode().split("\n")[:-1]]
        if self._writer is None:
            self._start(lines)
        for line in lines:
            for event in events_of(head, line, self._began):
                self._writer.add_event(event)
        self._writer.flush()

    def close(self) -> None:
        """Close the event file; the next update starts a new one."""
        if self._writer is not None:
            self._writer.close()
            self._writer, self._read = None, 0

    def _start(self, lines: list[dict[str, Any]]) -> None:
        from tensorboard.compat.proto.event_pb2 import Event, SessionLog

        remove_event_files(self.run)
        self._began = time.time() - max((line.get("seconds", 0.0) for line in lines), default=0.0)
        self._writer = self._make(str(self.run / EVENT_FOLDER))
        # This event makes a running TensorBoard discard the events that it read from the previous file.
        session = SessionLog(status=SessionLog.START)
        self._writer.add_event(Event(wall_time=self._began, step=0, session_log=session))


def events_of(head: Head, line: dict[str, Any], began: float) -> Iterator[Any]:
    """Yield the events of one line of metrics.jsonl, at time ``began`` plus the line's seconds."""
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.compat.proto.summary_pb2 import Summary

    step, when = line["step"], began + line.get("seconds", 0.0)
    if line["event"] == "sample":
        yield Event(wall_time=when, step=step, summary=Summary(value=[_text_summary(line["text"])]))
        return
    scalars = [
        Summary.Value(tag=tag, simple_value=value) for tag, value in scalars_of(head, line).items() if value is not None
    ]
    yield Event(wall_time=when, step=step, summary=Summary(value=scalars))


def _text_summary(text: str) -> Any:
    """Return a text for TensorBoard's page of texts, indented so that Markdown leaves it as it is."""
    from tensorboard.compat.proto.summary_pb2 import Summary, SummaryMetadata
    from tensorboard.compat.proto.tensor_pb2 import TensorProto
    from tensorboard.compat.proto.types_pb2 import DT_STRING

    code = "    " + text.replace("\n", "\n    ")
    tensor = TensorProto(dtype=DT_STRING, string_val=[code.encode(errors="replace")])
    tensor.tensor_shape.dim.add(size=1)
    metadata = SummaryMetadata(plugin_data=SummaryMetadata.PluginData(plugin_name="text"))
    return Summary.Value(tag=SAMPLE, tensor=tensor, metadata=metadata)
