"""Lines of a job's results, and the bytes of a row that its digest covers."""

from __future__ import annotations

from typing import Any

from unrolled.engine.errors import NothingLeftError
from unrolled.engine.storage.json_text import parse_value, to_json
from unrolled.runtime.generation.requests.generation import Generation
from unrolled.runtime.jobs.prompt_rows import BadRow, InputRow

ResultRecord = dict[str, Any]


def _head(row: InputRow, sample: int, several: int) -> ResultRecord:
    """Return the keys that identify a text; ``sample`` only if a row has ``several``."""
    return {"id": row.id, **({"sample": sample} if several > 1 else {})}


def text_record(row: InputRow, sample: int, several: int, generation: Generation, token_ids: bool) -> ResultRecord:
    """Return the record of a finished text."""
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


def stuck_record(row: InputRow, sample: int, several: int, settings: tuple[str, ...]) -> ResultRecord:
    """Return the error record of a text that cannot be continued because its settings ban every token."""
    error = NothingLeftError(settings, (row.index * several + sample,))
    return {**_head(row, sample, several), "line": row.line, "error": str(error), **row.kept}


def error_record(row: InputRow, error: str | None) -> ResultRecord:
    """Return the error record of a row that cannot be served."""
    return {"id": row.id, "line": row.line, "error": error, **row.kept}


def row_bytes(row: InputRow) -> bytes:
    """Return everything of a row that decides its results, for a digest; settings of the whole job are left out."""
    if isinstance(row, BadRow):
        return result_line(error_record(row, row.error))
    kept = {"kept": row.kept} if row.kept else {}
    return result_line({"id": row.id, "prompt": row.prompt, "settings": dict(sorted(row.overrides.items())), **kept})


def result_line(record: ResultRecord) -> bytes:
    return (to_json(record) + "\n").encode()


def same_result(one: bytes, other: bytes) -> bool:
    """Return whether two lines are equal apart from the text of an error, which may differ between releases."""
    if one == other:
        return True
    first, second = parse_line(one), parse_line(other)
    return "error" in first and "error" in second and first | {"error": ""} == second | {"error": ""}


def parse_line(line: bytes) -> ResultRecord:
    """Return the record of a line; an empty one if the line holds none."""
    try:
        record = parse_value(line.decode())
    except ValueError:
        record = None
    return record if isinstance(record, dict) else {}
