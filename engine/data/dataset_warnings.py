"""Warnings about a data set: truncated records, and a validation part that is too small."""

from __future__ import annotations

import math

import numpy as np

from unrolled.engine.data.dataset import Dataset
from unrolled.engine.data.records import RecordBatches

FEW_TOKENS, FEW_RECORDS = 1_000, 20
LOSS_DEVIATION = 1.5  # nats, standard deviation of the loss per character; a trigram model of English plays has 1.56


def small_validation_warning(data: Dataset) -> str | None:
    """Return a warning with the standard error of the validation loss, None if the validation part is large enough."""
    validation = data.validation
    if validation is None:
        return None
    tokens, records = validation.tokens_per_epoch, None
    if isinstance(validation, RecordBatches):
        tokens, records = _count_distinct(validation)
    if tokens >= FEW_TOKENS and (records is None or records >= FEW_RECORDS):
        return None
    what = f"{tokens:,} tokens" + ("" if records is None else f" in {records:,} different records")
    return (
        f"validation on {what} says little: its loss has a standard error of about ±{LOSS_DEVIATION / math.sqrt(tokens):.2f}; "
        "which step was best is then partly chance. More text, or a larger part for it in the split, would help"
    )


def cut_records_warning(data: Dataset) -> str | None:
    """Return a warning with the number of truncated records, None if there are none."""
    parts = [part for part in (data.train, data.validation, data.test) if isinstance(part, RecordBatches)]
    if not parts:
        return None
    lengths = np.concatenate([np.diff(part.starts) - 1 for part in parts])
    limit, longest = parts[0].length, int(lengths.max())
    if longest <= limit:
        return None
    return (
        f"{int((lengths > limit).sum()):,} of {len(lengths):,} records are longer than {limit:,} tokens and lose their end, "
        f"so that a model does not learn where such a one stops; --length {longest} keeps all of them whole"
    )


def dataset_warnings(data: Dataset) -> list[str]:
    """Return all warnings about a data set."""
    return [message for message in (cut_records_warning(data), small_validation_warning(data)) if message]


def _count_distinct(batches: RecordBatches) -> tuple[int, int]:
    """Return the numbers of tokens and of distinct records; counting stops once both reach their thresholds."""
    seen: set[bytes] = set()
    tokens = 0
    for start, end, length in zip(batches.starts, batches.starts[1:], batches.lengths, strict=False):
        record = batches.ids[start:end].tobytes()
        if record not in seen:
            seen.add(record)
            tokens += int(length)
        if tokens >= FEW_TOKENS and len(seen) >= FEW_RECORDS:
            break
    return tokens, len(seen)
