"""One text on a model with the capability "bind": a token costs a few microseconds more than the model's own run.

The input and output arrays are bound to the session once, with two states that take turns, and drawing works in place.
"""

from __future__ import annotations

from math import isfinite

import numpy as np
from numpy import copyto, divide, exp, subtract
from numpy.typing import NDArray

from unrolled.engine.models.step_contract import BindingModel
from unrolled.engine.sampling.config import SamplingConfig
from unrolled.engine.sampling.philox import uniforms
from unrolled.engine.sampling.rules import choose
from unrolled.runtime.generation.requests.growing_text import GrowingText
from unrolled.runtime.generation.scheduler.slots import indices_of, next_draws_of, states_of
from unrolled.runtime.models.batch_invariance import min_rows

accumulate = np.add.accumulate


class _Chooser:
    """Choose the token of one row of logits (V,) with the bits of ``choose``; without filters it allocates nothing.

    The model's weights have replaced everything else in the cache after a run, so the number of NumPy calls and of their
    attribute look-ups matters, not the arithmetic: ``argmax`` instead of a maximum, ``copyto`` and a difference instead of
    one of mixed dtypes, and the functions that methods and ``cumsum`` call (together 5.5 µs, not 11).
    """

    def __init__(self, rules: SamplingConfig, V: int) -> None:
        self._rules, self._last = rules, V - 1
        self._filtered = 0 < rules.top_k < V or rules.top_p < 1
        self._weights, self._cdf = np.empty(V), np.empty(V)

    def __call__(self, logits: NDArray, u: float) -> int:
        rules, weights, cdf = self._rules, self._weights, self._cdf
        best = int(logits.argmax())
        largest = logits.item(best)
        if self._filtered or not isfinite(largest):
            return int(choose(logits[None], rules, np.array([u], np.float64))[0])
        if not rules.do_sample:
            return best
        copyto(weights, logits)
        if rules.temperature != 1.0:
            divide(weights, rules.temperature, weights)
            largest /= rules.temperature
        subtract(weights, largest, weights)
        exp(weights, weights)
        accumulate(weights, 0, None, cdf)
        index = int(cdf.searchsorted(u * cdf.item(self._last), "right"))
        return index if index <= self._last else int(np.flatnonzero(weights)[-1])


class SingleSlot:
    """A single slot, which plain rows occupy in turn.

    Args:
        chunk: the most tokens in a call of ``advance``.
    """

    def __init__(self, model: BindingModel, chunk: int) -> None:
        self.rows: list[GrowingText] = []
        self._model, self._eos, self._chunk = model, model.tokenizer.end_id, chunk
        self._bound = model.bind(min_rows(model))

    def replace(self, going: NDArray[np.bool_], rows: list[GrowingText]) -> None:
        """Replace the row."""
        if rows:
            self._bound.begin(states_of(self._model.config, rows))
            self._token = int(rows[0].unread[-1])  # is read next; the state contains the tokens before it
            self._choose = _Chooser(rows[0].rules, self._model.config.vocab_size)
        self.rows = rows

    def advance(self, slots: int, more: bool) -> bool:
        """Draw tokens, at most a chunk; return whether the row has ended."""
        row = self.rows[0]
        steps = min(self._chunk, row.left)
        u = [0.0] * steps
        if row.rules.do_sample:
            u = uniforms(row.rules.seed, indices_of([row]), next_draws_of([row]) + np.arange(steps)).tolist()
        choose_one, step, token, eos = self._choose, self._bound.step, self._token, self._eos
        hand_out_each, written = row.needs_each_token, list[int]()
        for value in u:
            token = choose_one(step(token), value)
            written.append(token)
            if hand_out_each:
                row.extend(written)
                written = []
                if row.reason is not None:
                    return True
            elif token == eos:
                break
        self._token = token
        if written:
            row.extend(written)
        return row.reason is not None
