"""Named errors of the package; all are ValueErrors, so one ``except`` catches them."""

from __future__ import annotations

import re
from collections.abc import Iterable


def first_line(error: BaseException) -> str:
    """Return the first line of another library's error, at most 200 characters."""
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]


def encodable(text: str) -> str:
    r"""Return ``text`` with \xNN for each byte of a file name that is not UTF-8 (Python stores it as a lone surrogate)."""
    if text.isascii():
        return text
    escaped = re.sub("[\udc80-\udcff]", lambda match: f"\\x{ord(match[0]) & 0xFF:02x}", text)
    return escaped.encode("utf-8", "backslashreplace").decode()


class SettingName(str):
    """The name of a setting as a part of a message; the command line shows the setting's flag instead."""

    __slots__ = ()


class UnrolledError(ValueError):
    """Bad input: the message names what came, what was needed and what to do next.

    File names in the message are made encodable, so it can always be printed and stored.

    Args:
        parts: the message in parts, which are joined; names of settings are ``SettingName``, everything else is plain text.
    """

    def __init__(self, *parts: object) -> None:
        super().__init__(*(part if type(part) is not str else encodable(part) for part in parts))

    def __str__(self) -> str:
        return "".join(map(str, self.parts))

    @property
    def parts(self) -> tuple[object, ...]:
        """Return the parts of the message, to be joined."""
        return self.args


def listed_settings(names: Iterable[str]) -> tuple[str, ...]:
    """Return the parts of a message that list settings, with commas between them."""
    parts = [part for name in names for part in (", ", SettingName(name))]
    return tuple(parts[1:])


class ConfigError(UnrolledError):
    """A model, training or generation setting is out of its range."""

    @property
    def setting(self) -> str | None:
        """Return the name of the first setting that the message names."""
        return next((str(part) for part in self.parts if isinstance(part, SettingName)), None)


class CorpusError(UnrolledError):
    """A corpus cannot be read or is too small."""


class PromptFileError(UnrolledError):
    """A file of prompts cannot be read, or its format is unknown."""


class JobError(UnrolledError):
    """A job cannot start, resume or write: its output belongs to another job, or the disk is full."""


class UnknownTokenError(UnrolledError):
    """Text contains a character or word that is not in the vocabulary."""


class NothingLeftError(UnrolledError):
    """Settings ban every possible next token in some ``rows``; the other rows can still be sampled."""

    def __init__(self, settings: tuple[str, ...], rows: tuple[int, ...]) -> None:
        super().__init__(settings, rows)  # exception arguments survive pickling to another process
        self.settings, self.rows = settings, rows

    @property
    def parts(self) -> tuple[object, ...]:
        """Return the parts of the message, to be joined."""
        shown = ", ".join(map(str, self.rows[:8])) + (" …" if len(self.rows) > 8 else "")
        return *listed_settings(self.settings), f": no token is left to come next in row {shown}; allow more"


class ShapeError(UnrolledError):
    """An array has the wrong shape or dtype at a public boundary."""


class ModelFileError(UnrolledError):
    """A model file is missing, damaged, foreign, or of a version that this release cannot read."""


class SaveError(UnrolledError, OSError):
    """A training run can no longer write its folder; its last save is intact."""


class DivergedError(UnrolledError):
    """The loss or the gradient became NaN or infinite during training, or the loss exploded."""


def divergence_error(step: int, what: str, norm: float, rate: float) -> DivergedError:
    """Return the error that ends a training run; its message suggests remedies.

    Args:
        step: number of the training step.
        what: the symptom, for instance "loss inf".
        norm: gradient norm of the step.
        rate: learning rate of the step.
    """
    return DivergedError(
        f"step {step}: {what}, gradient norm {norm:.4g}: the training has diverged; try a lower learning rate "
        f"(now {rate:.4g}), a longer warm-up or stronger clipping"
    )


class ProcessLostError(UnrolledError):
    """Another process of the group has ended or does not answer."""


class ForkError(UnrolledError, RuntimeError):
    """The compiled engine was called in a forked process, which cannot run its threads."""


class MissingDependencyError(UnrolledError, ImportError):
    """The request needs an optional dependency that is not installed."""
