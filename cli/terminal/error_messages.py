"""Errors of the library as one-line messages in terms of the command line."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from typer.exceptions import TyperException

from unrolled.engine.errors import SettingName, UnrolledError

LARGE_TEXT = (
    "a large text is encoded once, in bounded memory, by unrolled encode, and train then reads the .tokens file"
)


def one_line_message(error: BaseException, flags: Mapping[str, str]) -> str:
    """Return an error's message in one line; ``flags`` are those of settings by the names that messages use."""
    if isinstance(error, TyperException):
        context: Any = getattr(error, "ctx", None)  # of usage errors, whose class is private
        hint = f" (see {context.command_path} --help)" if context is not None else ""
        text = error.format_message() + hint
    elif isinstance(error, MemoryError):
        text = f"not enough memory ({error}); make the model or the batch smaller; {LARGE_TEXT}"
    elif isinstance(error, OSError) and error.strerror:
        text = error.strerror if error.filename is None else f"{error.filename}: {error.strerror}"
    else:
        text = _with_flags(error, flags) if isinstance(error, UnrolledError) else str(error)
        text = text or type(error).__name__
    return " ".join(text.split("\n"))


def _with_flags(error: UnrolledError, flags: Mapping[str, str]) -> str:
    """Return an error's message with the flags of the settings that it names."""
    return "".join(flags.get(part, part) if isinstance(part, SettingName) else str(part) for part in error.parts)


def process_prefix() -> str:
    """Return the prefix of a message that names its process; empty for the first process, or a single one."""
    rank = os.environ.get("RANK", "0") if "WORLD_SIZE" in os.environ else "0"
    return "" if rank == "0" else f"process {rank}: "
