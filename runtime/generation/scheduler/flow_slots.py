"""Slots of a model with the capability "flow", which reads prompts, draws and refills its slots, many tokens in a call."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from unrolled.engine.models.draw_settings import DrawSettings
from unrolled.engine.models.step_contract import Flow, FlowingModel
from unrolled.runtime.generation.requests.growing_text import GrowingText
from unrolled.runtime.generation.scheduler.slots import indices_of, next_draws_of, states_of

MIN_CHUNK = 16  # the fewest tokens a row in a call
MAX_CHUNK = 128  # the most tokens a row in a call
CALL_TOKENS = 1 << 14  # tokens of all slots in a call: its overhead is then a percent or two
BUSY = 0.75  # with a smaller share of busy slots a call returns early for more rows


class FlowSlots:
    """The model's own slots, and the rows that wait for one.

    Args:
        chunk: the most tokens a row in a call.
    """

    def __init__(self, model: FlowingModel, chunk: int) -> None:
        self._model, self._chunk = model, chunk
        self.rows: list[GrowingText] = []  # those that have a slot first; ``_started`` marks them
        self._unread: list[NDArray[np.int64]] = []
        self._state = np.empty(model.config.state_shape(0), np.float32)
        self._started = np.empty(0, np.bool_)
        self._indices, self._draws = np.empty(0, np.uint64), np.empty(0, np.uint64)
        self._settings = DrawSettings.stack([])
        self._remaining = np.empty(0, np.int64)

    def replace(self, going: NDArray[np.bool_], rows: list[GrowingText]) -> None:
        """Keep the unfinished rows, those with a slot first, and add new ones after them."""
        order = np.flatnonzero(going)
        order = np.concatenate([order[self._started[order]], order[~self._started[order]]])
        self._state = np.concatenate([self._state[:, :, order], states_of(self._model.config, rows)], axis=2)
        self._started = np.concatenate([self._started[order], np.zeros(len(rows), np.bool_)])
        self._indices = np.concatenate([self._indices[order], indices_of(rows)])
        self._draws = np.concatenate([self._draws[order], next_draws_of(rows).astype(np.uint64)])
        self._remaining = np.concatenate([self._remaining[order], np.array([row.left for row in rows], np.int64)])
        new = DrawSettings.stack([row.rules.draw_settings for row in rows])
        self._settings = DrawSettings.concatenate([self._settings.take(order), new])
        self._unread = [*(self._unread[i] for i in order.tolist()), *(row.unread for row in rows)]
        self.rows = [*(self.rows[i] for i in order.tolist()), *rows]

    def advance(self, slots: int, more: bool) -> bool:
        """Draw tokens in one call of the model; return whether a row has ended."""
        if slots < 1:  # rows that are not plain occupy all of them
            return False
        # The model cannot see some ends, such as a stop text, and draws on: shorter calls waste fewer tokens.
        unseen_ends = any(row.needs_each_token for row in self.rows)
        tokens = self._model.min_call_tokens if unseen_ends else CALL_TOKENS
        steps = min(max(tokens // min(slots, len(self.rows)), MIN_CHUNK), self._chunk)
        flow = Flow.of(
            self._unread, steps, remaining=self._remaining, first_draw=self._draws, indices=self._indices,
            settings=self._settings, started=self._started,
        )  # fmt: skip
        self._model.flow(self._state, flow, slots, BUSY if more else 0.0)
        self._draws += flow.counts.astype(np.uint64)
        return self._hand_out(flow)

    def _hand_out(self, flow: Flow) -> bool:
        """Give rows their new tokens, keep the tokens that they read next, and return whether a row has ended."""
        ended = False
        rows = np.flatnonzero(self._started)
        columns = (rows, flow.position[rows], flow.end[rows], flow.counts[rows])
        for e, position, end, count in zip(*(column.tolist() for column in columns), strict=True):
            self._unread[e] = flow.tokens[position:end] if position < end else flow.last_drawn[e : e + 1]
            if count:
                row = self.rows[e]
                row.extend(flow.written[e, :count].tolist())
                ended |= row.reason is not None
        return ended
