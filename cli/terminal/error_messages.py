"""Errors of the library as one-line messages in terms of the command line."""

from __future__ import annotations

import os
from typing import Any

from typer.exceptions import TyperException

from unrolled.engine.errors import SettingName, UnrolledError

LARGE_TEXT = (
    "a large text is encoded once, in bounded memory, by unrolled encode, and train then reads the .tokens file"
)

# Flag of each setting that messages of the library name.
OPTION_NAMES = {
    "embedding_size": "--embed",
    "hidden_size": "--hidden",
    "num_layers": "--layers",
    "tie_weights": "--tie",
    "batch_size": "--batch",
    "learning_rate": "--lr",
    "clip_norm": "--clip",
    "clip_value": "--clip-value",
    "init_scale": "--init-scale",
    "label_smoothing": "--label-smoothing",
    "forget_bias": "--forget-bias",
    "decay_after": "--decay-after",
    "decay_patience": "--decay-patience",
    "input_dropout": "--input-dropout",
    "output_dropout": "--output-dropout",
    "num_return_sequences": "--number",
    "max_new_tokens": "--max-new-tokens",
    "validate_every": "--validate-every",
    "weight_decay": "--weight-decay",
    "vocab_size": "--vocab-size",
    "top_k": "--top-k",
    "top_p": "--top-p",
    "min_p": "--min-p",
    "typical_p": "--typical-p",
    "repetition_penalty": "--repetition-penalty",
    "no_repeat_ngram_size": "--no-repeat-ngram-size",
    "bad_words": "--bad-word",
    "suppress_tokens": "--suppress-token",
    "sequence_bias": "--bias",
    "min_new_tokens": "--min-new-tokens",
    "forced_prefix": "--forced-prefix",
    "num_beams": "--num-beams",
    "length_penalty": "--length-penalty",
    "early_stopping": "--early-stopping",
    "max_prompt_tokens": "--max-prompt-tokens",
    "state_dict_key": "--state-dict",
}


def one_line_message(error: BaseException) -> str:
    """Return an error's message in one line, with flags for names of settings."""
    if isinstance(error, TyperException):
        context: Any = getattr(error, "ctx", None)  # of usage errors, whose class is private
        hint = f" (see {context.command_path} --help)" if context is not None else ""
        text = error.format_message() + hint
    elif isinstance(error, MemoryError):
        text = f"not enough memory ({error}); make the model or the batch smaller; {LARGE_TEXT}"
    elif isinstance(error, OSError) and error.strerror:
        text = error.strerror if error.filename is None else f"{error.filename}: {error.strerror}"
    else:
        text = _with_flags(error) if isinstance(error, UnrolledError) else str(error)
        text = text or type(error).__name__
    return " ".join(text.split("\n"))


def _with_flags(error: UnrolledError) -> str:
    """Return an error's message with the flags of the settings that it names."""
    parts = [OPTION_NAMES.get(part, part) if isinstance(part, SettingName) else str(part) for part in error.parts]
    return "".join(parts)


def process_prefix() -> str:
    """Return the prefix of a message that names its process; empty for the first process, or a single one."""
    rank = os.environ.get("RANK", "0") if "WORLD_SIZE" in os.environ else "0"
    return "" if rank == "0" else f"process {rank}: "
