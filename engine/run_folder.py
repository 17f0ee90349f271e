"""A run folder: best and last checkpoint, and metrics.jsonl, one JSON object a line."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import IO, Any

from unrolled.engine.checkpoint import BEST, LAST, Checkpoint, save_checkpoint
from unrolled.engine.errors import ConfigError, ModelFileError
from unrolled.engine.jsontext import parse_json, to_json
from unrolled.engine.text import Tokenizer
from unrolled.engine.trainable import Trainable
from unrolled.engine.training import Observer, StepEvent, TrainingResult, ValidationEvent

METRICS = "metrics.jsonl"
PICTURE = "curve.png"
EXPORTS = ("model.onnx", "model.pt", "web/model.onnx")  # where export writes unless told otherwise


def holds_run(path: Path) -> list[str]:
    """The files of a run that are in a folder."""
    return [name for name in (BEST, LAST, METRICS) if (path / name).exists()]


def check_free(path: Path, overwrite: bool, option: str = "--overwrite") -> None:
    """Check that a run may be written to ``path``; ``option`` says how to allow it.

    Raises:
        ConfigError: it is a file, or holds a run that may not be replaced.
    """
    if path.exists() and not path.is_dir():
        raise ConfigError(f"{path}: is a file, a folder was expected")
    earlier = holds_run(path)
    if earlier and not overwrite:
        raise ConfigError(f"{path}: holds a run already ({', '.join(earlier)}); name another folder, or say {option}")


def drop_earlier(path: Path, keep: str) -> None:
    """Remove what an earlier run left beside the new one's ``keep``: it would pass for this run's, or be made of it."""
    for name in {BEST, LAST, METRICS, PICTURE, *EXPORTS} - {keep}:
        with contextlib.suppress(NotADirectoryError):  # where a file has the name of the page's folder
            (path / name).unlink(missing_ok=True)


class RunFolder(Observer):
    """Writes a run as it goes.

    metrics.jsonl holds two kinds of lines: ``{"event": "step", step, epoch, seconds, loss, grad_norm, learning_rate,
    tokens, tokens_per_s}`` and ``{"event": "validation", step, epoch, seconds, loss, perplexity, bits_per_token,
    accuracy, tokens, best}``.

    Args:
        path: the folder; made if it is not there.
        tokenizer: goes into the checkpoints.
        record: what the checkpoints' training record holds besides the result (corpus, settings).
        overwrite: whether an earlier run in the folder may be replaced, with its picture and exported files; that is
            done when the first checkpoint of the new one is there.

    Raises:
        ConfigError: the folder holds a run already, or cannot be written.
    """

    def __init__(self, path: str | Path, tokenizer: Tokenizer, record: dict[str, Any], overwrite: bool = False) -> None:
        self.path = Path(path)
        self.tokenizer, self.record = tokenizer, record
        check_free(self.path, overwrite)
        self._made, self._earlier = not self.path.exists(), holds_run(self.path)
        self._saved = False  # until the first checkpoint an earlier run stays as it is
        self._draft = self.path / f".{METRICS}.new"
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self._metrics: IO[str] | None = open(self._draft, "w", encoding="utf-8")  # noqa: SIM115 - open for the run
        except OSError as error:
            raise ConfigError(f"{self.path}: cannot be written ({error.strerror})") from error

    def _write(self, values: dict[str, Any]) -> None:
        assert self._metrics is not None
        self._metrics.write(to_json(values) + "\n")

    def on_step(self, event: StepEvent) -> None:
        values = asdict(event)
        del values["done"]
        self._write({"event": "step", **values})

    def on_validation(self, event: ValidationEvent, trainable: Trainable, result: TrainingResult) -> None:
        position = {"step": event.step, "epoch": event.epoch, "seconds": event.seconds}
        self._write({"event": "validation", **position, **event.metrics.to_dict(), "best": event.best})
        if self._metrics is not None:
            self._metrics.flush()
        if event.best:
            self._save(BEST, trainable, result)

    def on_interval(self, trainable: Trainable, result: TrainingResult) -> None:
        self._save(LAST, trainable, result)

    def on_end(self, trainable: Trainable, result: TrainingResult) -> None:
        if result.steps == 0:
            return  # interrupted before anything was learned
        self._save(LAST, trainable, result)
        if result.best is None:  # without validation the last is the best there is
            self._save(BEST, trainable, result)

    def __enter__(self) -> RunFolder:
        return self

    def __exit__(self, *error: object) -> None:
        if self._metrics is not None:
            self._metrics.close()
            self._metrics = None
        if not self._saved:
            self._draft.unlink(missing_ok=True)
            if self._made:
                with contextlib.suppress(OSError):
                    self.path.rmdir()

    def _save(self, name: str, trainable: Trainable, result: TrainingResult) -> None:
        training = {**self.record, "result": result.to_dict()}
        checkpoint = Checkpoint(trainable.config, trainable.export_params(), self.tokenizer, training)
        if self._saved:
            save_checkpoint(self.path / name, checkpoint)
            return
        draft = self.path / f".{name}.new"
        try:
            save_checkpoint(draft, checkpoint)
            draft.replace(self.path / name)
            self._replace_earlier(name)
        finally:
            draft.unlink(missing_ok=True)
        self._saved = True

    def _replace_earlier(self, first: str) -> None:
        """Take the place of an earlier run once this one's ``first`` checkpoint is there."""
        if self._earlier:
            drop_earlier(self.path, first)
        assert self._metrics is not None
        self._metrics.close()
        if self._draft.exists():
            self._draft.replace(self.path / METRICS)
        self._metrics = open(self.path / METRICS, "a", encoding="utf-8")  # noqa: SIM115 - open as long as the run


def read_metrics(path: str | Path, event: str) -> Iterator[dict[str, Any]]:
    """The lines of one kind ("step" or "validation") of a run folder's metrics.jsonl."""
    file = Path(path) / METRICS
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise ModelFileError(f"{file}: cannot be read ({error.strerror})") from error
    for line in lines:
        values = parse_json(line, f"{file}: a line")
        if values.get("event") == event:
            yield values
