"""A run folder: best and last checkpoint, what resuming needs, and metrics.jsonl, one JSON object a line."""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import IO, Any

from unrolled.engine.errors import ConfigError, ModelFileError, SaveError
from unrolled.engine.runs.resume import (
    RESUME,
    ResumeState,
    as_recorded,
    check_same,
    load_resume_state,
    save_resume_state,
    settings_of,
)
from unrolled.engine.storage.checkpoint import BEST_CHECKPOINT, LAST_CHECKPOINT, Checkpoint, save_checkpoint
from unrolled.engine.storage.json_text import parse_json, to_json
from unrolled.engine.storage.locks import FolderLock
from unrolled.engine.tokenizers.contract import Tokenizer
from unrolled.engine.training.events import SampleEvent, StepEvent, ValidationEvent
from unrolled.engine.training.observers import TrainingObserver
from unrolled.engine.training.result import TrainingResult
from unrolled.engine.training.trainable import Trainable

METRICS = "metrics.jsonl"
PICTURE = "curve.png"
EVENTS, EVENT_FILES = "tensorboard", "events.out.tfevents.*"
EXPORTS = ("model.onnx", "model.pt", "web/model.onnx")  # where export writes unless told otherwise


def holds_run(path: Path) -> list[str]:
    """The files of a run that are in a folder."""
    return [name for name in (BEST_CHECKPOINT, LAST_CHECKPOINT, METRICS, RESUME) if (path / name).exists()]


def check_free(path: Path, overwrite: bool) -> None:
    """Check that a run may be written to ``path``.

    Raises:
        ConfigError: it is a file, or holds a run that may not be replaced.
    """
    if path.exists() and not path.is_dir():
        raise ConfigError(f"{path}: is a file, a folder was expected")
    earlier = holds_run(path)
    if earlier and not overwrite:
        raise ConfigError(
            f"{path}: holds a run already ({', '.join(earlier)}); name another folder, or say --overwrite"
        )


def check_start(path: Path, overwrite: bool, resume: bool) -> None:
    """Check that a run may begin in ``path``, or go on there.

    Raises:
        ConfigError: it may not; says how it may.
    """
    if overwrite and resume:
        raise ConfigError("--overwrite begins a new run and --resume goes on with one; give one of them")
    if not resume:
        return check_free(path, overwrite)
    check_free(path, overwrite=True)
    earlier = holds_run(path)
    if earlier and RESUME not in earlier:
        raise ConfigError(f"{path}: holds a run ({', '.join(earlier)}) without {RESUME}, so it cannot be resumed")
    return None


def drop_earlier(path: Path, keep: str) -> None:
    """Remove what an earlier run left beside the new one's ``keep``: it would pass for this run's, or be made of it."""
    for name in {BEST_CHECKPOINT, LAST_CHECKPOINT, METRICS, RESUME, PICTURE, *EXPORTS} - {keep}:
        with contextlib.suppress(NotADirectoryError):  # where a file has the name of the page's folder
            (path / name).unlink(missing_ok=True)
    drop_events(path)


def drop_events(path: Path) -> None:
    """Remove the event files of a run, and their folder if nothing else is in it."""
    for file in (path / EVENTS).glob(EVENT_FILES):
        # an open TensorBoard keeps it from going on Windows; the next file's SessionLog.START outdates what it says
        with contextlib.suppress(OSError):
            file.unlink()
    with contextlib.suppress(OSError):
        (path / EVENTS).rmdir()


class RunFolder(TrainingObserver):
    """Writes a run as it goes, and reads it where it is to go on.

    metrics.jsonl holds three kinds of lines: ``{"event": "step", step, epoch, seconds, loss, grad_norm, learning_rate,
    tokens, tokens_per_s, accuracy}``, ``{"event": "validation", step, epoch, seconds, loss, perplexity, bits_per_token,
    accuracy, tokens, best}`` and ``{"event": "sample", step, text}``.

    A save is done when ``resume.safetensors`` has its name; the checkpoints and metrics.jsonl follow from it, and
    ``start`` puts them right where a kill came between.

    Args:
        path: the folder; made if it is not there.
        tokenizer: goes into the checkpoints.
        record: what the checkpoints' training record holds besides the result (corpus, settings).
        overwrite: whether an earlier run in the folder may be replaced, with its picture and exported files; that is
            done when the first save of the new one is there.
        resume: whether to go on with the run in the folder; begins one where there is none.

    Raises:
        ConfigError: the folder holds a run already, or one that cannot be resumed, is in use by another process, or
            cannot be written.
        SaveError: while the run goes, the disk is full or the folder cannot be written any more.
    """

    def __init__(
        self,
        path: str | Path,
        tokenizer: Tokenizer,
        record: dict[str, Any],
        overwrite: bool = False,
        resume: bool = False,
    ) -> None:
        self.path = Path(path)
        self.tokenizer, self.record = tokenizer, record
        check_start(self.path, overwrite, resume)
        self._made = not self.path.exists()
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self._lock = FolderLock(self.path)
        except OSError as error:
            kept = "; the run in it stays as it is" if holds_run(self.path) else ""
            raise ConfigError(f"{self.path}: cannot be written ({error.strerror}){kept}") from error
        self._earlier = holds_run(self.path)
        self._resume = resume and RESUME in self._earlier
        self._saved = False  # until the first save an earlier run stays as it is
        self._step = 0  # of the last save
        self._run = secrets.token_hex(8)
        self._metrics: IO[bytes] | None = None

    @property
    def _draft(self) -> Path:
        """metrics.jsonl before the first save."""
        return self.path / f".{METRICS}.{self._run}"

    def start(self, trainable: Trainable, follows_limit: bool = False) -> TrainingResult | None:
        """The result so far of the run that is to go on, ``trainable`` put back to where it was; None: a new run.

        Args:
            follows_limit: as of ``check_same``.

        Raises:
            ConfigError: corpus or settings are not those that the run began with.
            ModelFileError: a file is damaged.
            SaveError: what a kill left cannot be put right, for the folder cannot be written.
        """
        if not self._resume:
            self._sweep()
            self._metrics = self._open(self._draft)
            return None
        state = load_resume_state(self.path / RESUME)
        self.record = as_recorded(self.record, state.settings)
        check_same(state.settings, settings_of(self.record, trainable), follows_limit)
        trainable.load_training_state(state.arrays)
        self._run, self._saved, self._step = state.run, True, state.result.steps
        with self._writing():
            self._put_right(trainable, state)
        if state.result.last is not None and not state.result.validation_tokens:  # 0.1.0 did not count them
            validations = read_metrics(self.path, "validation")
            state.result.validation_tokens = sum(values["tokens"] for values in validations)
        return state.result

    def _put_right(self, trainable: Trainable, state: ResumeState) -> None:
        if self._draft.exists():  # killed in its first save
            self._take_over()
        self._sweep()
        metrics = self.path / METRICS
        if not metrics.exists() or metrics.stat().st_size < state.metrics_bytes:
            raise ModelFileError(f"{metrics}: missing or shorter than the run left it; put it back to go on")
        os.truncate(metrics, state.metrics_bytes)
        self._metrics = self._open(metrics)
        self._save_checkpoints(trainable, state.result)

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        """What the system says when it cannot write, as a SaveError."""
        try:
            yield
        except OSError as error:
            raise self._told(error) from error

    def _told(self, error: OSError) -> SaveError:
        # the system names no file where it flushes lines; all others do
        message = f"{error.filename or self.path / METRICS}: cannot be written ({error.strerror or error}); "
        if self._saved:
            message += f"the last save, of step {self._step:,}, is intact: once there is room, --resume goes on from it"
        else:
            message += "nothing was saved yet" + ("; the earlier run is as it was" if self._earlier else "")
        return SaveError(message)

    def _open(self, path: Path) -> IO[bytes]:
        try:
            return open(path, "ab")
        except OSError as error:
            raise ConfigError(f"{self.path}: cannot be written ({error.strerror})") from error

    def _sweep(self) -> None:
        """Remove what killed processes left half written."""
        for pattern in (*(f".{name}.*.tmp" for name in (BEST_CHECKPOINT, LAST_CHECKPOINT, RESUME)), f".{METRICS}.*"):
            for path in self.path.glob(pattern):
                path.unlink()

    def _write(self, values: dict[str, Any]) -> None:
        assert self._metrics is not None
        with self._writing():
            self._metrics.write((to_json(values, ascii=True) + "\n").encode())

    def on_step(self, event: StepEvent) -> None:
        assert self._metrics is not None
        try:  # no context manager, which would take as long as the line itself
            self._metrics.write(step_line(event).encode())
        except OSError as error:
            raise self._told(error) from error

    def on_validation(self, event: ValidationEvent, trainable: Trainable, result: TrainingResult) -> None:
        position = {"step": event.step, "epoch": event.epoch, "seconds": event.seconds}
        self._write({"event": "validation", **position, **event.metrics.to_dict(), "best": event.best})

    def on_sample(self, event: SampleEvent) -> None:
        self._write({"event": "sample", **asdict(event)})

    def on_interval(self, trainable: Trainable, result: TrainingResult) -> None:
        with self._writing():
            self._save(trainable, result)

    def on_end(self, trainable: Trainable, result: TrainingResult) -> None:
        if result.steps == 0:
            return  # interrupted before anything was learned
        with self._writing():
            if (
                result.between_steps
            ):  # not stopped by force in the middle of a step, of which the last save knows nothing
                self._save(trainable, result)
            if result.best is None and self._saved:  # without validation the last is the best there is
                self._save_checkpoint(BEST_CHECKPOINT, trainable, result)

    def __enter__(self) -> RunFolder:
        return self

    def __exit__(self, *error: object) -> None:
        if self._metrics is not None:
            with contextlib.suppress(OSError):  # of a full disk, which was reported
                self._metrics.close()
            self._metrics = None
        if not self._saved:
            self._draft.unlink(missing_ok=True)
        self._lock.release()
        if not self._saved and self._made:
            with contextlib.suppress(OSError):
                self.path.rmdir()

    def _save(self, trainable: Trainable, result: TrainingResult) -> None:
        assert self._metrics is not None
        self._metrics.flush()
        os.fsync(self._metrics.fileno())
        settings, arrays = settings_of(self.record, trainable), trainable.training_state()
        save_resume_state(
            self.path / RESUME, ResumeState(self._run, settings, result, self._metrics.tell(), arrays)
        )  # fmt: skip
        self._step = result.steps
        if not self._saved:
            self._saved = True
            self._metrics.close()  # Windows renames no open file
            self._take_over()
            self._metrics = self._open(self.path / METRICS)
        self._save_checkpoints(trainable, result)

    def _take_over(self) -> None:
        """Take the place of an earlier run, once this one's first save is there."""
        if self._earlier:
            drop_earlier(self.path, RESUME)
        self._draft.replace(self.path / METRICS)

    def _save_checkpoints(self, trainable: Trainable, result: TrainingResult) -> None:
        if result.best is not None and result.best_step == result.steps:
            self._save_checkpoint(BEST_CHECKPOINT, trainable, result)
        self._save_checkpoint(LAST_CHECKPOINT, trainable, result)
        if result.best is None:  # of an earlier interruption, and older than the last now
            (self.path / BEST_CHECKPOINT).unlink(missing_ok=True)

    def _save_checkpoint(self, name: str, trainable: Trainable, result: TrainingResult) -> None:
        training = {**self.record, "result": result.to_dict()}
        save_checkpoint(
            self.path / name, Checkpoint(trainable.config, trainable.export_params(), self.tokenizer, training)
        )  # fmt: skip


def step_line(event: StepEvent) -> str:
    """The line of a step, all of whose numbers are finite: the loop checked it.

    It comes at every step, and written out it takes 3.5 µs where the encoder of ``json`` takes 5.9, most of both for the
    digits of seven numbers.
    """
    return (
        f'{{"event": "step", "step": {event.step}, "epoch": {float(event.epoch)!r}, "seconds": {float(event.seconds)!r}, '
        f'"loss": {float(event.loss)!r}, "grad_norm": {float(event.grad_norm)!r}, '
        f'"learning_rate": {float(event.learning_rate)!r}, "tokens": {event.tokens}, '
        f'"tokens_per_s": {float(event.tokens_per_s)!r}, "accuracy": {float(event.accuracy)!r}}}\n'
    )


def read_metrics(path: str | Path, event: str) -> Iterator[dict[str, Any]]:
    """The lines of one kind ("step", "validation" or "sample") of a run folder's metrics.jsonl.

    A run that is at work, or was killed, may have ended inside a line; that one is left out.
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
