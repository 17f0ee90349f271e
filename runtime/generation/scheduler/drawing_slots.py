"""Lanes of models that draw by themselves, many tokens at a time."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from unrolled.engine.models.step_contract import (
    SETTING_DTYPES,
    DecodingModel,
    Draws,
    Flow,
    FlowingModel,
    WritingModel,
    pad_prompts,
)
from unrolled.engine.sampling.rules import PLAIN, SamplingConfig
from unrolled.runtime.generation.requests.rows import Row
from unrolled.runtime.generation.scheduler.slots import (
    Rules,
    draws_of,
    indices_of,
    replace_columns,
    replace_rows,
    states_of,
)

CHUNK = 16  # tokens that a model draws by itself before its rows are looked at
TOKENS = 2048  # of all lanes: few lanes draw more each, where a look costs as much as what ended rows draw for nothing
MOST = 128  # at a time, whatever the number of lanes
FLOW_TOKENS = 1 << 14  # of all lanes where the model fills them itself, and a look costs a percent or two
BUSY = 0.75  # of the lanes, with less it comes back for more rows


def _steps(lanes: int, chunk: int) -> int:
    return min(max(TOKENS // max(lanes, 1), CHUNK), chunk)


class DecodeLanes:
    """The model draws and steps, many tokens at a time; for a few lanes.

    Args:
        chunk: the most tokens that it draws before its rows are looked at.
    """

    def __init__(self, model: DecodingModel, chunk: int) -> None:
        self.model, self._chunk = model, chunk
        self.rows: list[Row] = []
        self._logits = np.empty((0, model.config.vocab_size), np.float32)
        self._state = np.empty(model.config.state_shape(0), np.float32)

    def replace(self, going: NDArray[np.bool_], rows: list[Row]) -> None:
        logits, state = self._logits[:0], states_of(self.model.config, rows)
        if rows:  # of what they read, all but the last token is in the state
            logits, state = self.model.read(np.array([[row.unread[-1] for row in rows]], np.int64), state)
        self.rows = replace_rows(self.rows, going, rows)
        self._logits = replace_columns(self._logits, going, logits, 0)
        self._state = replace_columns(self._state, going, state, 2)
        if self.rows:
            rules = Rules(self.rows)
            self._columns = [rules.column(name) for name in PLAIN]
            self._indices = indices_of(self.rows)

    def advance(self, lanes: int, more: bool) -> bool:
        steps = min(_steps(len(self.rows), self._chunk), max(row.left for row in self.rows))
        draws = Draws(steps, draws_of(self.rows), self._indices, *self._columns)
        tokens, self._logits, self._state = self.model.decode(self._logits, self._state, draws)
        for row, written in zip(self.rows, tokens.T.tolist(), strict=True):
            row.extend(written)
        return any(row.reason is not None for row in self.rows)


class FlowLanes:
    """The model reads prompts, draws, and fills its lanes from the rows that wait in front of them."""

    def __init__(self, model: FlowingModel) -> None:
        self.model = model
        self.rows: list[Row] = []  # those that have a lane first, where ``_going`` says so
        self._unread: list[NDArray[np.int64]] = []
        self._state = np.empty(model.config.state_shape(0), np.float32)
        self._going = np.empty(0, np.bool_)
        self._indices, self._draws = np.empty(0, np.uint64), np.empty(0, np.uint64)
        self._columns = [np.empty(0, SETTING_DTYPES[name]) for name in PLAIN]
        self._left = np.empty(0, np.int64)

    def replace(self, going: NDArray[np.bool_], rows: list[Row]) -> None:
        order = np.flatnonzero(going)
        order = np.concatenate([order[self._going[order]], order[~self._going[order]]])
        n = len(rows)

        def grown(kept: NDArray, new: Any) -> NDArray:
            return np.concatenate([kept[order], np.asarray(new, kept.dtype)])

        self._state = np.concatenate([self._state[:, :, order], states_of(self.model.config, rows)], axis=2)
        self._going = grown(self._going, np.zeros(n))
        self._indices, self._draws = grown(self._indices, indices_of(rows)), grown(self._draws, draws_of(rows))
        self._left = grown(self._left, [row.left for row in rows])
        if rows:
            rules = Rules(rows)
            new = [rules.column(name) for name in PLAIN]
        else:
            new = [column[:0] for column in self._columns]
        self._columns = [grown(kept, more) for kept, more in zip(self._columns, new, strict=True)]
        self._unread = [*(self._unread[i] for i in order.tolist()), *(row.unread for row in rows)]
        self.rows = [*(self.rows[i] for i in order.tolist()), *rows]

    def advance(self, lanes: int, more: bool) -> bool:
        if lanes < 1:  # all are taken by rows of another kind
            return False
        steps = max(FLOW_TOKENS // min(lanes, len(self.rows)), CHUNK)
        if any(row.looks for row in self.rows):
            steps = CHUNK  # what such a row draws behind its end is for nothing
        flow = Flow.of(
            self._unread, min(steps, MOST), left=self._left, first_draw=self._draws, indices=self._indices,
            settings=self._columns, going=self._going,
        )  # fmt: skip
        self.model.flow(self._state, flow, lanes, BUSY if more else 0.0)
        self._draws += flow.counts.astype(np.uint64)
        return self._tell(flow)

    def _tell(self, flow: Flow) -> bool:
        """Hand rows what was written, and keep what they read next; whether one is over."""
        over = False
        moved = np.flatnonzero(self._going)
        for e, at, end, count in zip(
            moved.tolist(), flow.at[moved].tolist(), flow.end[moved].tolist(), flow.counts[moved].tolist(), strict=True
        ):
            self._unread[e] = flow.tokens[at:end] if at < end else flow.drawn[e : e + 1]
            if count:
                row = self.rows[e]
                row.extend(flow.written[e, :count].tolist())
                over |= row.reason is not None
        return over


class WholeLanes:
    """The model reads prompts, draws and steps. What is read next stands in front of each row: its prompt, later a token."""

    def __init__(self, model: WritingModel, chunk: int) -> None:
        self.model, self._chunk = model, chunk
        self.rows: list[Row] = []
        self._next: list[NDArray[np.int64]] = []
        self._state = np.empty(model.config.state_shape(0), np.float32)

    def replace(self, going: NDArray[np.bool_], rows: list[Row]) -> None:
        state = states_of(self.model.config, rows)
        nexts = dict(zip(map(id, self.rows), self._next, strict=True))
        self.rows = replace_rows(self.rows, going, rows)
        self._next = [nexts.get(id(row), row.unread) for row in self.rows]
        self._state = replace_columns(self._state, going, state, 2)

    def advance(self, lanes: int, more: bool) -> bool:
        steps = min(_steps(len(self.rows), self._chunk), max(row.left for row in self.rows))
        for rules, some in Rules(self.rows).groups():
            # rows that read a prompt apart from those that go on: nothing is padded for those
            reading = np.array([not self.rows[b].tokens for b in some], np.bool_)
            for part in (some[reading], some[~reading]):
                if len(part):
                    self._write(part, rules, steps)
        return any(row.reason is not None for row in self.rows)

    def _write(self, part: NDArray[np.intp], rules: SamplingConfig, steps: int) -> None:
        rows = [self.rows[b] for b in part]
        draws = Draws(steps, draws_of(rows), indices_of(rows), *(getattr(rules, name) for name in PLAIN))
        tokens, lengths = pad_prompts([self._next[b] for b in part])
        written, moved = self.model.write(tokens, lengths, np.ascontiguousarray(self._state[:, :, part]), draws)
        self._state[:, :, part] = moved
        for b, row, column in zip(part, rows, written.T, strict=True):
            self._next[b] = column[-1:]  # written, but not read yet
            row.extend(column.tolist())
