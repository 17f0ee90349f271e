"""Slots of a model that only computes time steps: tokens are drawn here, one for each row after each step.

Rows that read their prompts and rows that draw share the steps: the next token of the former is given, that of the latter
is chosen. So every step runs all slots, and prompts of all lengths need no calls of their own.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from unrolled.engine.errors import NothingLeftError
from unrolled.engine.models.step_contract import check_ids
from unrolled.engine.sampling.config import SamplingConfig
from unrolled.engine.sampling.philox import uniforms
from unrolled.engine.sampling.processors import History
from unrolled.engine.sampling.rules import choose, token_logprobs
from unrolled.runtime.generation.requests.generation import NOTHING_LEFT
from unrolled.runtime.generation.requests.growing_text import GrowingText
from unrolled.runtime.generation.scheduler.slots import (
    RulesOfRows,
    indices_of,
    next_draws_of,
    replace_columns,
    replace_rows,
    states_of,
    written_of,
)
from unrolled.runtime.models.batch_invariance import RowModel

DRAW_BLOCK = 16  # steps whose uniforms are computed together, and whose tokens are handed to the rows together
IDLE = 1 / 64  # share of idle slots from which on new rows take them: filling slots costs up to a third of a step


class StepSlots:
    """Slots that step together and draw by the rules of their rows."""

    def __init__(self, model: RowModel, eos: int | None) -> None:
        self.model, self._eos = model, -1 if eos is None else eos
        self._move = model.buffered_step()
        self.rows: list[GrowingText] = []
        self._state = np.empty(model.config.state_shape(0), np.float32)
        self._tokens = np.empty(0, np.int64)  # the token that each slot reads in the next step
        self._prompts = np.empty((0, 1), np.int64)
        self._unread = np.empty(0, np.int64)  # tokens before a row's first draw; less than 1: it draws
        self._length = np.empty(0, np.int64)  # the number of a row's unread tokens when it took its slot
        self._u = np.empty((DRAW_BLOCK, 0))
        self._drawn = np.empty((DRAW_BLOCK, 0), np.int64)
        self._phase = 0  # steps of this block that are done
        self._since = np.empty(0, np.int64)  # the first step of the block whose token a row does not have yet
        self._left = np.empty(0, np.int64)  # the most tokens that may still come
        self._ended = 0  # rows that have ended

    def replace(self, going: NDArray[np.bool_], rows: list[GrowingText]) -> None:
        """Keep the rows marked in ``going``, and add new ones, which read ``row.unread`` first."""
        n, unread = len(rows), np.array([len(row.unread) for row in rows], np.int64)
        u = np.zeros((DRAW_BLOCK, n))
        if rows:
            u[self._phase :] = self._uniforms(rows, unread, DRAW_BLOCK - self._phase)
        self._u = replace_columns(self._u, going, u, 1)
        self._state = replace_columns(self._state, going, states_of(self.model.config, rows), 2)
        self._drawn = replace_columns(self._drawn, going, np.zeros((DRAW_BLOCK, n), np.int64), 1)
        self._since = replace_columns(self._since, going, self._phase + unread - 1, 0)
        self._left = replace_columns(self._left, going, np.array([row.left for row in rows], np.int64), 0)
        self._unread = replace_columns(self._unread, going, unread, 0)
        self._length = replace_columns(self._length, going, unread, 0)
        for row in rows:
            check_ids(self.model.config, row.unread)
        prompts = self._padded(rows, int(unread.max(initial=1)))
        self._prompts = replace_columns(self._prompts, going, prompts, 0)
        self._tokens = replace_columns(self._tokens, going, prompts[:, 0], 0)
        self.rows = replace_rows(self.rows, going, rows)
        self._ended = 0
        if self.rows:
            self._rules = RulesOfRows(self.rows)
            self._needs_each_token = np.array([row.needs_each_token for row in self.rows], np.bool_)
            self._plain = all(row.config.plain for row in self.rows)

    def _padded(self, rows: list[GrowingText], longest: int) -> NDArray[np.int64]:
        """Return the unread tokens of rows, as wide as those of the other rows."""
        width = self._prompts.shape[1]
        if longest > width:
            self._prompts = np.pad(self._prompts, ((0, 0), (0, longest - width)))
        prompts = np.zeros((len(rows), max(longest, width)), np.int64)
        for place, row in enumerate(rows):
            prompts[place, : len(row.unread)] = row.unread
        return prompts

    def _uniforms(self, rows: list[GrowingText], unread: NDArray[np.int64], steps: int) -> NDArray[np.float64]:
        """Return the uniforms (steps, n) of the next steps of these rows."""
        u = np.zeros((steps, len(rows)))
        # the first draw is that after the last token of a prompt
        draws = next_draws_of(rows) + np.maximum(np.arange(steps)[:, None] - np.maximum(unread - 1, 0), 0)
        indices = indices_of(rows)
        for rules, some in RulesOfRows(rows).groups():
            if rules.do_sample:
                u[:, some] = uniforms(rules.seed, indices[some], draws[:, some])
        return u

    def _choose(self, logits: NDArray, some: NDArray[np.intp] | None) -> NDArray[np.int64]:
        """Return the next token of some of the rows, or of all; 0 where the settings leave none, which ends the row."""
        u = self._u[self._phase]
        if self._rules.are_one and self._plain:
            return (
                choose(logits, self._rules.first, u)
                if some is None
                else choose(logits[some], self._rules.first, u[some])
            )
        tokens = np.zeros(len(self.rows), np.int64)
        for rules, group in self._rules.groups():
            if len(group := group if some is None else np.intersect1d(group, some)):
                self._choose_by(rules, group, logits, tokens)
        if not self._plain:
            self._keep_logprobs(logits, tokens)
        return tokens if some is None else tokens[some]

    def _choose_by(
        self, rules: SamplingConfig, some: NDArray[np.intp], logits: NDArray, tokens: NDArray[np.int64]
    ) -> None:  # fmt: skip
        """Set the tokens of some rows by their rules, and end the rows that these leave no token."""
        rows = [self.rows[b] for b in some]
        history = None
        if rules.needs_history:
            history = History([row.history or [] for row in rows], written_of(rows))
        try:
            tokens[some] = choose(logits[some], rules, self._u[self._phase, some], history)
        except NothingLeftError as error:
            for place in error.rows:
                self._ended += rows[place].reason is None
                rows[place].reason = rows[place].reason or NOTHING_LEFT
            if len(rest := np.delete(some, error.rows)):
                self._choose_by(rules, rest, logits, tokens)

    def _keep_logprobs(self, logits: NDArray, tokens: NDArray[np.int64]) -> None:
        """Append log-probabilities to the rows that ask for them."""
        asking = np.array(
            [
                b
                for b, row in enumerate(self.rows)
                if row.config.logprobs and row.reason is None and self._unread[b] < 1
            ],
            np.intp,
        )
        for b, value in zip(asking, token_logprobs(logits[asking], tokens[asking]).tolist(), strict=True):
            self.rows[b].logprobs.append(value)

    def advance(self, slots: int, more: bool) -> bool:
        """Run one time step; return whether enough rows have ended."""
        logits, self._state = self._move(self._tokens, self._state)
        if self._phase == DRAW_BLOCK:
            self._u = self._uniforms(self.rows, self._unread, DRAW_BLOCK)
            self._phase = 0
            self._since = np.maximum(self._unread - 1, 0)
        self._unread -= 1
        draws = self._unread < 1
        if draws.all():
            self._tokens = self._choose(logits, None)
        else:
            place = np.minimum(self._length - self._unread, self._prompts.shape[1] - 1)
            self._tokens = self._prompts[np.arange(len(self.rows)), place]
            if len(some := np.flatnonzero(draws)):
                self._tokens[some] = self._choose(logits, some)
        self._drawn[self._phase] = self._tokens
        self._phase += 1
        self._left -= draws
        due = (self._tokens == self._eos) | (self._left == 0) | self._needs_each_token | (self._phase == DRAW_BLOCK)
        self._hand_out(np.flatnonzero(due & draws))
        enough = max(1, int(len(self.rows) * IDLE)) if more else 1
        return self._ended >= enough

    def _hand_out(self, due: NDArray[np.intp]) -> None:
        """Hand the rows ``due`` the tokens that they drew."""
        for b, begin in zip(due.tolist(), self._since[due].tolist(), strict=True):
            row = self.rows[b]
            if row.reason is None:
                row.extend(self._drawn[begin : self._phase, b].tolist())
                self._ended += row.reason is not None
        self._since[due] = self._phase
