"""Lines of a job's results, and what of a row decides them."""

from __future__ import annotations

from typing import Any

from unrolled.engine.errors import NothingLeftError
from unrolled.engine.storage.json_text import parse_value, to_json
from unrolled.runtime.generation.requests.rows import Generation
from unrolled.runtime.jobs.prompt_files import BadRow, Row

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
    return record | row.kept


def stuck_record(row: Row, sample: int, several: int, settings: tuple[str, ...]) -> Record:
    """Of a text that its settings leave no token to go on with."""
    error = NothingLeftError(settings, (row.index * several + sample,))
    return {**_head(row, sample, several), "line": row.line, "error": str(error), **row.kept}


def error_record(row: Row, error: str | None) -> Record:
    """Of a row that cannot be served."""
    return {"id": row.id, "line": row.line, "error": error, **row.kept}


def row_bytes(row: Row) -> bytes:
    """All that decides what is written for a row, besides what is the same for all: to tell it from another by a digest."""
    if isinstance(row, BadRow):
        return to_line(error_record(row, row.error))
    kept = {"kept": row.kept} if row.kept else {}
    return to_line({"id": row.id, "prompt": row.prompt, "settings": dict(sorted(row.overrides.items())), **kept})


def to_line(record: Record) -> bytes:
    return (to_json(record) + "\n").encode()


def same_result(one: bytes, other: bytes) -> bool:
    """Return whether two lines are the same but for the words of an error, which another release may choose otherwise."""
    if one == other:
        return True
    first, second = parse_line(one), parse_line(other)
    return "error" in first and "error" in second and first | {"error": ""} == second | {"error": ""}


def parse_line(line: bytes) -> Record:
    """What stands in a line; nothing where it is no record."""
    try:
        record = parse_value(line.decode())
    except ValueError:
        record = None
    return record if isinstance(record, dict) else {}
