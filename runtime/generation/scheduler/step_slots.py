"""Slots of a model that makes steps and nothing else: tokens are drawn here, one a row at a time.

A row that still reads its prompt stands beside those that draw: its next token is given, theirs are chosen. So every step
is made with all slots, and prompts of all lengths need no calls of their own.
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
    Rules,
    draws_of,
    indices_of,
    replace_columns,
    replace_rows,
    states_of,
    written_of,
)
from unrolled.runtime.models.batch_invariance import RowModel

BLOCK = 16  # steps whose uniforms are made at once, and whose tokens are handed to the rows at once
IDLE = 1 / 64  # of the slots may be idle before others take them: filling slots costs as much as a third of a step


class StepSlots:
    """See the module."""

    def __init__(self, model: RowModel, eos: int | None) -> None:
        self.model, self._eos = model, -1 if eos is None else eos
        self._move = model.buffered_step()
        self.rows: list[GrowingText] = []
        self._state = np.empty(model.config.state_shape(0), np.float32)
        self._tokens = np.empty(0, np.int64)  # what each slot reads in the next step
        self._prompts = np.empty((0, 1), np.int64)
        self._unread = np.empty(0, np.int64)  # tokens that stand before a row's first draw; less than 1: it draws
        self._length = np.empty(0, np.int64)  # of what it reads
        self._u = np.empty((BLOCK, 0))
        self._drawn = np.empty((BLOCK, 0), np.int64)
        self._phase = 0  # steps of this block that are over
        self._since = np.empty(0, np.int64)  # the step of the block from which on a row's tokens are not handed to it
        self._left = np.empty(0, np.int64)  # the most tokens still to come
        self._over = 0  # rows that are over

    def replace(self, going: NDArray[np.bool_], rows: list[GrowingText]) -> None:
        n, unread = len(rows), np.array([len(row.unread) for row in rows], np.int64)
        u = np.zeros((BLOCK, n))
        if rows:
            u[self._phase :] = self._uniforms(rows, unread, BLOCK - self._phase)
        self._u = replace_columns(self._u, going, u, 1)
        self._state = replace_columns(self._state, going, states_of(self.model.config, rows), 2)
        self._drawn = replace_columns(self._drawn, going, np.zeros((BLOCK, n), np.int64), 1)
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
        self._over = 0
        if self.rows:
            self._rules = Rules(self.rows)
            self._needs_each_token = np.array([row.needs_each_token for row in self.rows], np.bool_)
            self._plain = all(row.config.plain for row in self.rows)

    def _padded(self, rows: list[GrowingText], longest: int) -> NDArray[np.int64]:
        """What rows read, as wide as that of the others."""
        width = self._prompts.shape[1]
        if longest > width:
            self._prompts = np.pad(self._prompts, ((0, 0), (0, longest - width)))
        prompts = np.zeros((len(rows), max(longest, width)), np.int64)
        for place, row in enumerate(rows):
            prompts[place, : len(row.unread)] = row.unread
        return prompts

    def _uniforms(self, rows: list[GrowingText], unread: NDArray[np.int64], steps: int) -> NDArray[np.float64]:
        """Of the next steps of these rows, (steps, n)."""
        u = np.zeros((steps, len(rows)))
        # no draw before the last token of a prompt is read
        draws = draws_of(rows) + np.maximum(np.arange(steps)[:, None] - np.maximum(unread - 1, 0), 0)
        indices = indices_of(rows)
        for rules, some in Rules(rows).groups():
            if rules.do_sample:
                u[:, some] = uniforms(rules.seed, indices[some], draws[:, some])
        return u

    def _choose(self, logits: NDArray, some: NDArray[np.intp] | None) -> NDArray[np.int64]:
        """The next token of some of the rows, or of all; 0 where the settings leave none, and the row is over."""
        u = self._u[self._phase]
        if self._rules.one and self._plain:
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
        rows = [self.rows[b] for b in some]
        history = None
        if rules.needs_history:
            history = History([row.history or [] for row in rows], written_of(rows))
        try:
            tokens[some] = choose(logits[some], rules, self._u[self._phase, some], history)
        except NothingLeftError as error:
            for place in error.rows:
                self._over += rows[place].reason is None
                rows[place].reason = rows[place].reason or NOTHING_LEFT
            if len(rest := np.delete(some, error.rows)):
                self._choose_by(rules, rest, logits, tokens)

    def _keep_logprobs(self, logits: NDArray, tokens: NDArray[np.int64]) -> None:
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
        logits, self._state = self._move(self._tokens, self._state)
        if self._phase == BLOCK:
            self._u = self._uniforms(self.rows, self._unread, BLOCK)
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
        told = (self._tokens == self._eos) | (self._left == 0) | self._needs_each_token | (self._phase == BLOCK)
        self._tell(np.flatnonzero(told & draws))
        enough = max(1, int(len(self.rows) * IDLE)) if more else 1
        return self._over >= enough

    def _tell(self, told: NDArray[np.intp]) -> None:
        """Hand rows what they drew."""
        for b, begin in zip(told.tolist(), self._since[told].tolist(), strict=True):
            row = self.rows[b]
            if row.reason is None:
                row.extend(self._drawn[begin : self._phase, b].tolist())
                self._over += row.reason is not None
        self._since[told] = self._phase
