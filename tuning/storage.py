"""Storage of a study: Optuna's own journal in a folder, intact after a kill at any time.

``study.log`` is a journal of ``optuna.storages.JournalStorage``, so that Optuna's tools open it. A trial that was unfinished
when its study was killed is marked as failed, has no outcome, and does not count.
"""

from __future__ import annotations

import contextlib
import os
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from unrolled.engine.errors import ConfigError, MissingDependencyError, ModelFileError
from unrolled.engine.runs.resume_checks import check_same_settings
from unrolled.engine.storage.locks import FolderLock
from unrolled.tuning.outcomes import DIVERGED, REFUSED

JOURNAL, BEST, STUDY_PICTURE = "study.log", "best.toml", "tuning.png"
JOURNAL_LOCK = ".lock"  # suffix of the journal's lock file, as in Optuna
STUDY_NAME = "unrolled"  # of the study in the journal
STUDY_SETTINGS, OUTCOME = "settings", "outcome"  # attributes of the study, and of each trial that ended


def import_optuna() -> Any:
    """Import Optuna and silence its log.

    Raises:
        MissingDependencyError: Optuna is not installed.
    """
    try:
        import optuna
    except ImportError as error:
        raise MissingDependencyError('tuning needs optuna: pip install "unrolled[tune]"') from error
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    return optuna


def check_folder(folder: Path, resume: bool, overwrite: bool = False) -> None:
    """Check that a study may start in ``folder``, or continue there.

    Raises:
        ConfigError: the folder is a file, or holds a study that is neither to be resumed nor to be replaced.
    """
    if overwrite and resume:
        raise ConfigError("--overwrite begins a new study and --resume goes on with one; give one of them")
    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"{folder}: is a file, a folder was expected")
    there = [name for name in (JOURNAL, BEST, STUDY_PICTURE) if (folder / name).exists()]
    if there and not overwrite and not (resume and JOURNAL in there):
        resumed = "go on with it by --resume, " if JOURNAL in there else ""
        raise ConfigError(
            f"{folder}: holds a study already ({', '.join(there)}); name another folder, {resumed}or say --overwrite"
        )


@contextlib.contextmanager
def open_study(folder: Path, settings: Mapping[str, Any], resume: bool, overwrite: bool = False) -> Iterator[Any]:
    """Open the Optuna study in ``folder``, or start one, and lock the folder against other processes.

    Args:
        folder: of the study.
        settings: everything on which the study depends, a JSON object of objects.
        resume: continue the study in the folder.
        overwrite: replace it.

    Raises:
        ConfigError: the study has other settings, or may not be resumed; the folder is in use, or cannot be written.
        ModelFileError: the journal is damaged.
    """
    optuna = import_optuna()
    check_folder(folder, resume, overwrite)
    made = not folder.exists()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = FolderLock(folder)
    except OSError as error:
        raise ConfigError(f"{folder}: cannot be written ({error.strerror})") from error
    try:
        journal = folder / JOURNAL
        for name in (JOURNAL + JOURNAL_LOCK, f".{JOURNAL}", f".{JOURNAL}{JOURNAL_LOCK}"):  # left by a killed process
            (folder / name).unlink(missing_ok=True)
        continues = journal.exists() and not overwrite
        study = _reopen(optuna, journal, settings) if continues else _start(optuna, folder, settings)
        yield study
    finally:
        lock.release()
        if made:
            with contextlib.suppress(OSError):  # the folder is not empty
                folder.rmdir()


def _storage(optuna: Any, path: Path) -> Any:
    from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock

    # not the default lock: it is a symbolic link, which few users of Windows may create
    return optuna.storages.JournalStorage(JournalFileBackend(str(path), JournalFileOpenLock(str(path))))


def _start(optuna: Any, folder: Path, settings: Mapping[str, Any]) -> Any:
    """Start a new study; the journal gets its name once it holds the settings."""
    draft, journal = folder / f".{JOURNAL}", folder / JOURNAL
    study = optuna.create_study(storage=_storage(optuna, draft), study_name=STUDY_NAME, direction="minimize")
    study.set_user_attr(STUDY_SETTINGS, settings)
    draft.replace(journal)
    for name in (BEST, STUDY_PICTURE):  # left by an earlier study, whose results would pass for this one's
        (folder / name).unlink(missing_ok=True)
    return optuna.load_study(storage=_storage(optuna, journal), study_name=STUDY_NAME)


def _reopen(optuna: Any, journal: Path, settings: Mapping[str, Any]) -> Any:
    _mend(journal)
    try:
        study = optuna.load_study(storage=_storage(optuna, journal), study_name=STUDY_NAME)
        before = study.user_attrs[STUDY_SETTINGS]
    except Exception as error:  # whatever Optuna raises for a file that it did not write
        raise ModelFileError(
            f"{journal}: damaged, or no study of unrolled ({type(error).__name__}: {error})"
        ) from error
    check_same_settings(before, settings, depends_on_limit=True, what="study")
    for trial in study.get_trials(deepcopy=False, states=(optuna.trial.TrialState.RUNNING,)):
        close_trial(optuna, study, trial.number, trial.user_attrs.get(OUTCOME))
    return study


def close_trial(optuna: Any, study: Any, number: int, outcome: Mapping[str, Any] | None) -> None:
    """Report the outcome of a trial to Optuna; a diverged or refused one is pruned, so that the sampler avoids its settings."""
    states = optuna.trial.TrialState
    if outcome is None or outcome["state"] not in ("complete", "pruned", DIVERGED, REFUSED):
        study.tell(number, state=states.FAIL)
    elif outcome["state"] == "complete":
        study.tell(number, outcome["loss"])
    else:
        study.tell(number, state=states.PRUNED)


def _mend(journal: Path) -> None:
    """Cut off an unfinished last line, left by a killed process."""
    content = journal.read_bytes()
    end = content.rfind(b"\n") + 1
    if end < len(content):
        os.truncate(journal, end)


def counted(study: Any) -> list[Any]:
    """Return all trials except those that were killed."""
    return [t for t in study.get_trials(deepcopy=False) if not t.state.is_finished() or OUTCOME in t.user_attrs]


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Ignore Optuna's warnings about experimental and deprecated features."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"optuna|unrolled\.tuning")
        yield
