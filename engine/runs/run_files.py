"""Names of the files in a run folder, and the checks before a run starts in one."""

from __future__ import annotations

import contextlib
from pathlib import Path

from unrolled.engine.errors import ConfigError
from unrolled.engine.runs.metrics_log import METRICS
from unrolled.engine.runs.resume_file import RESUME
from unrolled.engine.storage.checkpoint import BEST_CHECKPOINT, LAST_CHECKPOINT

LOSS_CURVES = "curve.png"
EVENT_FOLDER, EVENT_FILES = "tensorboard", "events.out.tfevents.*"
EXPORTS = ("model.onnx", "model.pt", "web/model.onnx")  # the default outputs of export


def find_run_files(path: Path) -> list[str]:
    """Return the names of a run's files that exist in a folder."""
    return [name for name in (BEST_CHECKPOINT, LAST_CHECKPOINT, METRICS, RESUME) if (path / name).exists()]


def check_free(path: Path, overwrite: bool) -> None:
    """Check that a run may be written to ``path``.

    Raises:
        ConfigError: it is a file, or holds a run that may not be replaced.
    """
    if path.exists() and not path.is_dir():
        raise ConfigError(f"{path}: is a file, a folder was expected")
    earlier = find_run_files(path)
    if earlier and not overwrite:
        raise ConfigError(
            f"{path}: holds a run already ({', '.join(earlier)}); name another folder, or say --overwrite"
        )


def check_start(path: Path, overwrite: bool, resume: bool) -> None:
    """Check that a run may start, or be resumed, in ``path``.

    Raises:
        ConfigError: it may not; the message gives the way out.
    """
    if overwrite and resume:
        raise ConfigError("--overwrite begins a new run and --resume goes on with one; give one of them")
    if not resume:
        return check_free(path, overwrite)
    check_free(path, overwrite=True)
    earlier = find_run_files(path)
    if earlier and RESUME not in earlier:
        raise ConfigError(f"{path}: holds a run ({', '.join(earlier)}) without {RESUME}, so it cannot be resumed")
    return None


def remove_earlier_run(path: Path, keep: str) -> None:
    """Remove an earlier run's files, so that none passes for the new run's; ``keep`` names a file that the new run wrote."""
    for name in {BEST_CHECKPOINT, LAST_CHECKPOINT, METRICS, RESUME, LOSS_CURVES, *EXPORTS} - {keep}:
        with contextlib.suppress(NotADirectoryError):  # a file may have the name of the web page's folder
            (path / name).unlink(missing_ok=True)
    remove_event_files(path)


def remove_event_files(path: Path) -> None:
    """Remove the event files of a run, and their folder if it is empty then."""
    for file in (path / EVENT_FOLDER).glob(EVENT_FILES):
        # On Windows an open TensorBoard prevents it; SessionLog.START of the next file then outdates the old events.
        with contextlib.suppress(OSError):
            file.unlink()
    with contextlib.suppress(OSError):
        (path / EVENT_FOLDER).rmdir()
