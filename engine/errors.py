"""The named errors of the package; all of them are ValueErrors, so one ``except`` catches them."""

from __future__ import annotations

import re


def first_line(error: BaseException) -> str:
    """A library's error in one line."""
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]


def encodable(text: str) -> str:
    r"""Return ``text`` with \xNN for each byte of a file's name that is not UTF-8, which Python keeps as a lone surrogate."""
    if text.isascii():
        return text
    escaped = re.sub("[\udc80-\udcff]", lambda match: f"\\x{ord(match[0]) & 0xFF:02x}", text)
    return escaped.encode("utf-8", "backslashreplace").decode()


class UnrolledError(ValueError):
    """Bad input: the message names what came, what was needed and what to do next.

    It can be printed and stored whatever the name of a file in it is.
    """

    def __init__(self, *args: object) -> None:
        super().__init__(*(encodable(value) if isinstance(value, str) else value for value in args))


class ConfigError(UnrolledError):
    """A model, training or generation setting is out of its range."""


class CorpusError(UnrolledError):
    """A corpus cannot be read, or there is too little of it."""


class PromptFileError(UnrolledError):
    """A file of prompts cannot be read, or says nothing of how."""


class JobError(UnrolledError):
    """A job cannot start, go on or write: its output is another's, or the disk is full."""


class UnknownTokenError(UnrolledError):
    """Text holds a character or word that the vocabulary has not."""


class NothingLeftError(UnrolledError):
    """Settings ban every token that could come next in some ``rows``; the others can be chosen without these."""

    def __init__(self, settings: tuple[str, ...], rows: tuple[int, ...]) -> None:
        super().__init__(settings, rows)  # as arguments, so that the error survives a process border
        self.settings, self.rows = settings, rows

    def __str__(self) -> str:
        shown = ", ".join(map(str, self.rows[:8])) + (" …" if len(self.rows) > 8 else "")
        return f"{', '.join(self.settings)}: no token is left to come next in row {shown}; allow more"


class ShapeError(UnrolledError):
    """An array has the wrong shape or dtype at a public boundary."""


class ModelFileError(UnrolledError):
    """A model file is missing, damaged, from elsewhere, or of a version that this release cannot read."""


class SaveError(UnrolledError, OSError):
    """A training cannot write its folder any more; its last save is intact."""


class DivergedError(UnrolledError):
    """The loss or the gradient became NaN or infinite while training, or the loss exploded."""


def divergence_error(step: int, what: str, norm: float, rate: float) -> DivergedError:
    """The error that ends a training: ``what`` happened, the step's gradient norm and learning rate, what to try."""
    return DivergedError(
        f"step {step}: {what}, gradient norm {norm:.4g}: the training has diverged; try a lower learning rate "
        f"(now {rate:.4g}), a longer warm-up or stronger clipping"
    )


class ProcessLostError(UnrolledError):
    """A process that trains together with this one has ended or does not answer."""


class ForkError(UnrolledError, RuntimeError):
    """The compiled engine was called in a process that cannot run its threads."""


class MissingDependencyError(UnrolledError, ImportError):
    """An optional dependency is needed for what was asked, and is not installed."""
