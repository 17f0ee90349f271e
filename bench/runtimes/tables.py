"""The Markdown table of findings, and the errors below it."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

from unrolled.bench.runtimes.cases import STORED
from unrolled.bench.runtimes.findings import Finding
from unrolled.export.artifact.forms import FORMS

FAR = 1000.0  # times the smallest difference: a cell this far off computes something else, and is named


def table_of(found: Sequence[Finding]) -> list[list[str]]:
    """Return the rows of the table, its head first: runtime, form, and the result of each storage."""
    rows = [["runtime", "form", *STORED]]
    for title in dict.fromkeys(finding.runtime for finding in found):
        of = [finding for finding in found if finding.runtime == title]
        if not of[0].form:  # not installed
            rows.append([title, "skipped", *[""] * len(STORED)])
            continue
        for form in FORMS:
            cells = [_cell([one for one in of if (one.form, one.storage) == (form, storage)]) for storage in STORED]
            name, comma, setting = title.partition(",")
            rows.append([f"{name} {of[0].version}{comma}{setting}", form, *cells])
    return rows


def _cell(found: list[Finding]) -> str:
    """Return the worst figures over all cells, and by name the cells that failed or are far off."""
    ran = [one for one in found if not one.error]
    logits = {one.cell: one.logits for one in ran if one.logits is not None}
    far = {cell: value for cell, value in logits.items() if value > FAR * min(logits.values())}
    parts = []
    if near := [value for cell, value in logits.items() if cell not in far]:
        parts.append(f"{np.max(near):.0e}")
    if tokens := [one.tokens for one in ran if one.tokens is not None]:
        parts.append("equal" if min(tokens) == 1 else f"{min(tokens):.0%} equal")
    parts += [f"{cell} {value:.0e}" for cell, value in far.items()]
    failed = [one.cell for one in found if one.error]
    if failed:
        parts.append("fails" if not ran else f"fails: {', '.join(failed)}")
    return ", ".join(parts)


def errors_of(found: Sequence[Finding]) -> list[str]:
    """Return the errors of files that did not run, each kind once, with the files that it concerns."""
    kinds: dict[str, tuple[str, list[str]]] = {}
    for one in found:
        if one.error:
            text = re.split("stack backtrace", " ".join(one.error.split()), flags=re.IGNORECASE)[0].strip()
            kind = f"{one.runtime}: {re.sub('[0-9]+', '0', text)}"
            kinds.setdefault(kind, (f"{one.runtime}: {text[:240]}", []))[1].append(
                f"{one.cell} {one.form} {one.storage}"
            )
    lines = []
    for text, files in kinds.values():
        more = f" and {len(files) - 1} more" if files[1:] else ""
        lines.append(f"{text} ({files[0]}{more})" if files[0] else text)
    return lines
