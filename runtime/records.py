"""Lines of a job's results, and what of a row decides them."""

from __future__ import annotations

from typing import Any

from unrolled.engine.errors import NothingLeftError
from unrolled.engine.jsontext import parse_value, to_json
from unrolled.runtime.prompt_files import BadRow, Row
from unrolled.runtime.rows import Generation

Record = dict[str, Any]


def _head(row: Row, sample: int, several: int) -> Record:
    """Which text it is: ``sample`` is said where a row has ``several``."""
    return {"id": row.id, **({"sample": sample} if several > 1 else {})}


def text_record(row: Row, sample: int, several: int, generation: Generation, token_ids: bool) -> Record:
    """Of a text that was written to its end."""
    record = _head(row, sample, several) | {
        "prompt": generation.prompt,
        "text": generation.text,
        "finish_reason": generation.finish_reason,
        "tokens": len(generation.tokens),
    }
    if token_ids:
        record["token_ids"] = generation.tokens
    if generation.logprobs is not None:
        record["logprobs"] = generation.logprobs
    return record


def stuck_record(row: Row, sample: int, several: int, settings: tuple[str, ...]) -> Record:
    """Of a text that its settings leave no token to go on with."""
    error = NothingLeftError(settings, (row.index * several + sample,))
    return {**_head(row, sample, several), "line": row.line, "error": str(error)}


def error_record(row: Row, error: str | None) -> Record:
    """Of a row that cannot be served."""
    return {"id": row.id, "line": row.line, "error": error}


def row_bytes(row: Row) -> bytes:
    """All that decides what is written for a row, besides what is the same for all: to tell it from another by a digest."""
    if isinstance(row, BadRow):
        return to_line(error_record(row, row.error))
    return to_line({"id": row.id, "prompt": row.prompt, "settings": dict(sorted(row.overrides.items()))})


def to_line(record: Record) -> bytes:
    return (to_json(record) + "\n").encode()


def parse_line(line: bytes) -> Record:
    """What stands in a line; nothing where it is no record."""
    try:
        record = parse_value(line.decode())
    except ValueError:
        record = None
    return record if isinstance(record, dict) else {}
