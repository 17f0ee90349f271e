"""A run folder: best and last checkpoint, the resume file, and metrics.jsonl."""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

from unrolled.engine.errors import ConfigError, ModelFileError, SaveError
from unrolled.engine.runs.metrics_log import METRICS, read_metrics, sample_line, step_lines, validation_line
from unrolled.engine.runs.resume_checks import check_same_settings, match_recorded_settings, run_settings
from unrolled.engine.runs.resume_file import RESUME, ResumeState, load_resume_state, save_resume_state
from unrolled.engine.runs.run_files import check_start, find_run_files, remove_earlier_run
from unrolled.engine.storage.checkpoint import BEST_CHECKPOINT, LAST_CHECKPOINT, Checkpoint, save_checkpoint
from unrolled.engine.storage.description import Preprocessing
from unrolled.engine.storage.locks import FolderLock
from unrolled.engine.training.events import SampleEvent, StepEvent, ValidationEvent
from unrolled.engine.training.observers import TrainingObserver
from unrolled.engine.training.result import TrainingResult
from unrolled.engine.training.trainable import Trainable


class RunFolder(TrainingObserver):
    """Writer of a run's files while it trains, and reader of those of a run to resume.

    A save is complete when ``resume.safetensors`` has its name. The checkpoints and metrics.jsonl follow from it, and
    ``start`` repairs them if the process was killed before they were written.

    Args:
        path: the folder; created if it does not exist.
        preprocessing: rules for the model's inputs, written to the checkpoints.
        record: the checkpoints' training record except the result (corpus, settings).
        overwrite: whether an earlier run in the folder may be replaced, with its loss curves, TensorBoard events and
            exported files; they are removed after the first save of the new run.
        resume: whether to continue the run in the folder; without one, a new run starts.

    Raises:
        ConfigError: the folder holds a run already, or one that cannot be resumed, is in use by another process, or
            cannot be written.
        SaveError: during the run, the disk is full or the folder can no longer be written.
    """

    def __init__(
        self,
        path: str | Path,
        preprocessing: Preprocessing,
        record: dict[str, Any],
        overwrite: bool = False,
        resume: bool = False,
    ) -> None:
        self.path = Path(path)
        self.preprocessing, self.record = preprocessing, record
        check_start(self.path, overwrite, resume)
        self._created = not self.path.exists()
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self._lock = FolderLock(self.path)
        except OSError as error:
            kept = "; the run in it stays as it is" if find_run_files(self.path) else ""
            raise ConfigError(f"{self.path}: cannot be written ({error.strerror}){kept}") from error
        self._earlier = find_run_files(self.path)
        self._resume = resume and RESUME in self._earlier
        self._saved = False  # before the first save an earlier run is not touched
        self._saved_step = 0
        self._run = secrets.token_hex(8)
        self._metrics: IO[bytes] | None = None
        self._step_line: Callable[[StepEvent], str]  # from ``start`` on

    @property
    def _draft(self) -> Path:
        """Return the path of metrics.jsonl before the first save."""
        return self.path / f".{METRICS}.{self._run}"

    def start(self, trainable: Trainable, depends_on_limit: bool = False) -> TrainingResult | None:
        """Open the log; for a run to resume, restore ``trainable`` and return the result so far, else return None.

        Args:
            depends_on_limit: as in ``check_same_settings``.

        Raises:
            ConfigError: corpus or settings differ from those of the run.
            ModelFileError: a file is damaged.
            SaveError: an interrupted save cannot be repaired, because the folder cannot be written.
        """
        self._step_line = step_lines(trainable.spec.head)
        if not self._resume:
            self._remove_drafts()
            self._metrics = self._open(self._draft)
            return None
        state = load_resume_state(self.path / RESUME, trainable.spec.head)
        self.record = match_recorded_settings(self.record, state.settings)
        check_same_settings(state.settings, run_settings(self.record, trainable), depends_on_limit)
        trainable.load_training_state(state.arrays)
        self._run, self._saved, self._saved_step = state.run, True, state.result.steps
        with self._save_errors():
            self._repair(trainable, state)
        if state.result.last is not None and not state.result.validation_count:  # 0.1.0 did not count
            validations = read_metrics(self.path, "validation")
            state.result.validation_count = sum(values[trainable.spec.head.counts] for values in validations)
        return state.result

    def _repair(self, trainable: Trainable, state: ResumeState) -> None:
        """Bring log and checkpoints to the resume file's step: a kill may have separated the writes of a save."""
        if self._draft.exists():  # killed during its first save
            self._take_over()
        self._remove_drafts()
        metrics = self.path / METRICS
        if not metrics.exists() or metrics.stat().st_size < state.metrics_bytes:
            raise ModelFileError(f"{metrics}: missing or shorter than the run left it; put it back to go on")
        os.truncate(metrics, state.metrics_bytes)
        self._metrics = self._open(metrics)
        self._save_checkpoints(trainable, state.result)

    @contextlib.contextmanager
    def _save_errors(self) -> Iterator[None]:
        """Raise the system's errors in writing as SaveError."""
        try:
            yield
        except OSError as error:
            raise self._save_error(error) from error

    def _save_error(self, error: OSError) -> SaveError:
        """Return the error with the file's name and the last save; a failed flush of the log has no file name."""
        message = f"{error.filename or self.path / METRICS}: cannot be written ({error.strerror or error}); "
        if self._saved:
            message += (
                f"the last save, of step {self._saved_step:,}, is intact: once there is room, --resume goes on from it"
            )
        else:
            message += "nothing was saved yet" + ("; the earlier run is as it was" if self._earlier else "")
        return SaveError(message)

    def _open(self, path: Path) -> IO[bytes]:
        try:
            return open(path, "ab")
        except OSError as error:
            raise ConfigError(f"{self.path}: cannot be written ({error.strerror})") from error

    def _remove_drafts(self) -> None:
        """Remove the incomplete files of killed processes."""
        for pattern in (*(f".{name}.*.tmp" for name in (BEST_CHECKPOINT, LAST_CHECKPOINT, RESUME)), f".{METRICS}.*"):
            for path in self.path.glob(pattern):
                path.unlink()

    def _write(self, line: str) -> None:
        assert self._metrics is not None
        try:  # a context manager would take as long as writing the line
            self._metrics.write(line.encode())
        except OSError as error:
            raise self._save_error(error) from error

    def on_step(self, event: StepEvent) -> None:
        self._write(self._step_line(event))

    def on_validation(self, event: ValidationEvent, trainable: Trainable, result: TrainingResult) -> None:
        self._write(validation_line(event))

    def on_sample(self, event: SampleEvent) -> None:
        self._write(sample_line(event))

    def on_interval(self, trainable: Trainable, result: TrainingResult) -> None:
        with self._save_errors():
            self._save(trainable, result)

    def on_end(self, trainable: Trainable, result: TrainingResult) -> None:
        if result.steps == 0:
            return  # interrupted before the first step
        with self._save_errors():
            if result.between_steps:  # a forced stop within a step leaves the last save as it is
                self._save(trainable, result)
            if result.best is None and self._saved:  # without validation the last model is the best
                self._save_checkpoint(BEST_CHECKPOINT, trainable, result)

    def __enter__(self) -> RunFolder:
        return self

    def __exit__(self, *error: object) -> None:
        if self._metrics is not None:
            with contextlib.suppress(OSError):  # a full disk, already reported
                self._metrics.close()
            self._metrics = None
        if not self._saved:
            self._draft.unlink(missing_ok=True)
        self._lock.release()
        if not self._saved and self._created:
            with contextlib.suppress(OSError):
                self.path.rmdir()

    def _save(self, trainable: Trainable, result: TrainingResult) -> None:
        assert self._metrics is not None
        self._metrics.flush()
        os.fsync(self._metrics.fileno())
        settings, arrays = run_settings(self.record, trainable), trainable.training_state()
        state = ResumeState(self._run, settings, result, self._metrics.tell(), arrays)
        save_resume_state(self.path / RESUME, state, trainable.spec.head)
        self._saved_step = result.steps
        if not self._saved:
            self._saved = True
            self._metrics.close()  # Windows cannot rename an open file
            self._take_over()
            self._metrics = self._open(self.path / METRICS)
        self._save_checkpoints(trainable, result)

    def _take_over(self) -> None:
        """Replace an earlier run, after this run's first save."""
        if self._earlier:
            remove_earlier_run(self.path, RESUME)
        self._draft.replace(self.path / METRICS)

    def _save_checkpoints(self, trainable: Trainable, result: TrainingResult) -> None:
        if result.best is not None and result.best_step == result.steps:
            self._save_checkpoint(BEST_CHECKPOINT, trainable, result)
        self._save_checkpoint(LAST_CHECKPOINT, trainable, result)
        if result.best is None:  # a file of an earlier interruption, older than the last checkpoint now
            (self.path / BEST_CHECKPOINT).unlink(missing_ok=True)

    def _save_checkpoint(self, name: str, trainable: Trainable, result: TrainingResult) -> None:
        training = {**self.record, "result": result.to_dict(trainable.spec.head)}
        checkpoint = Checkpoint(trainable.spec, trainable.export_params(), self.preprocessing, training)
        save_checkpoint(self.path / name, checkpoint)
