"""The capability "flow" of a model whose graph writes whole texts."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from unrolled.engine.models.draw_settings import DrawSettings
from unrolled.engine.models.padding import pad_sequences
from unrolled.engine.models.step_contract import Draws, Flow, WritingModel

# Tokens of all rows in a call, so that few rows draw more each: trades call overhead against tokens wasted on ended rows.
TOKENS_PER_CALL = 2048
MIN_TOKENS_PER_ROW = 16  # in a call


def flow_by_writing(model: WritingModel, state: NDArray, flow: Flow, slots: int) -> None:
    """Advance the first ``slots`` rows by one call of ``write`` for each group of rows.

    Rows that read their prompts and rows in progress, which have one token to read, get separate calls, so that the latter
    are not padded. The rows of a call share their settings.
    """
    going = np.flatnonzero(flow.started)
    new = np.flatnonzero(~flow.started)[: max(slots - len(going), 0)]
    flow.started[new] = True
    most = max(TOKENS_PER_CALL // (len(going) + len(new)), MIN_TOKENS_PER_ROW)
    steps = min(most, flow.written.shape[1], int(flow.remaining[flow.started].max()))
    for part in (new, going):
        for rows, settings in _groups(part, flow.settings):
            first = flow.first_draw[rows].astype(np.int64)
            _write(model, state, flow, rows, Draws(steps, first, flow.indices[rows], settings))


def _groups(rows: NDArray[np.intp], settings: DrawSettings) -> Iterator[tuple[NDArray[np.intp], DrawSettings]]:
    """Yield rows of equal settings, with these."""
    groups: dict[DrawSettings, list[int]] = {}
    for e, values in zip(rows.tolist(), zip(*(column[rows].tolist() for column in settings), strict=True), strict=True):
        groups.setdefault(DrawSettings(*values), []).append(e)
    for values, members in groups.items():
        yield np.array(members, np.intp), values


def _write(model: WritingModel, state: NDArray, flow: Flow, rows: NDArray[np.intp], draws: Draws) -> None:
    """Advance rows by one call of ``write``; a row ends with its <eos> or its last token."""
    tokens, lengths = pad_sequences([flow.tokens[flow.position[e] : flow.end[e]] for e in rows])
    written, moved = model.write(tokens, lengths, np.ascontiguousarray(state[:, :, rows]), draws)
    state[:, :, rows] = moved
    n, eos = len(written), model.tokenizer.end_id
    ends = written == eos  # all False without an <eos>
    counts = np.where(ends.any(axis=0), ends.argmax(axis=0) + 1, n)
    counts = np.minimum(counts, flow.remaining[rows])
    flow.position[rows] = flow.end[rows]
    flow.written[rows, :n] = written.T
    flow.counts[rows] = counts
    flow.remaining[rows] -= counts
    flow.last_drawn[rows] = written[-1]  # written, but not read yet
