"""The interface of all kinds of slots, and the helpers that they share."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from unrolled.engine.models.language_model_config import LanguageModelConfig
from unrolled.engine.models.step_contract import zero_state
from unrolled.engine.sampling.config import SamplingConfig
from unrolled.runtime.generation.requests.growing_text import GrowingText
from unrolled.runtime.generation.requests.prompts import read_prompts
from unrolled.runtime.models.batch_invariance import RowModel


class Slots(Protocol):
    """Rows that are written side by side."""

    rows: list[GrowingText]

    def replace(self, going: NDArray[np.bool_], rows: list[GrowingText]) -> None:
        """Keep the rows marked in ``going``, and add new ones, which read ``row.unread`` first."""
        ...

    def advance(self, slots: int, more: bool) -> bool:
        """Draw some more tokens in every row; return whether enough rows have ended to replace them.

        Args:
            slots: the most rows side by side.
            more: whether rows wait for the slots of those that have ended.
        """
        ...


def replace_columns(kept: NDArray, going: NDArray[np.bool_], new: NDArray, axis: int) -> NDArray:
    """Return the slots of ``kept`` along ``axis`` marked in ``going``, and ``new`` ones, in the order of ``replace_rows``."""
    free, n = np.flatnonzero(~going), new.shape[axis]
    front: tuple[Any, ...] = (slice(None),) * axis
    if n == len(free):  # as many as have ended: they take these places, and no other slot is copied
        kept[(*front, free)] = new
        return kept
    return np.ascontiguousarray(np.concatenate([kept[(*front, going)], new], axis=axis))


def replace_rows(kept: list[GrowingText], going: NDArray[np.bool_], new: list[GrowingText]) -> list[GrowingText]:
    """Return the rows marked in ``going``, and new ones: in the places of ended rows if they are as many, else last."""
    if len(new) == len(kept) - int(going.sum()):
        waiting = iter(new)
        return [row if goes else next(waiting) for row, goes in zip(kept, going, strict=True)]
    return [*itertools.compress(kept, going), *new]


class RulesOfRows:
    """The rules by which the tokens of rows are chosen, and the rows that share them."""

    def __init__(self, rows: list[GrowingText]) -> None:
        self._each = [row.rules for row in rows]
        self.first = self._each[0]
        self.are_one = len(set(map(id, self._each))) == 1  # equal rules are one object

    def groups(self) -> Iterator[tuple[SamplingConfig, NDArray[np.intp]]]:
        """Yield each of the different rules with its rows."""
        places: dict[int, list[int]] = {}
        for place, rules in enumerate(self._each):
            places.setdefault(id(rules), []).append(place)
        for some in places.values():
            yield self._each[some[0]], np.array(some, np.intp)


def indices_of(rows: Sequence[GrowingText]) -> NDArray[np.uint64]:
    """Return the indices of the rows' requests."""
    return np.array([row.request.index for row in rows], np.uint64)


def written_of(rows: Sequence[GrowingText]) -> NDArray[np.int64]:
    """Return the number of tokens of each row."""
    return np.array([len(row.tokens) for row in rows], np.int64)


def next_draws_of(rows: Sequence[GrowingText]) -> NDArray[np.int64]:
    """Return the number of each row's next draw among those of its index."""
    return np.array([row.first_draw + len(row.tokens) for row in rows], np.int64)


def states_of(config: LanguageModelConfig, rows: Sequence[GrowingText]) -> NDArray:
    """Return the states (S, L, n, H) in which new rows start, and drop them from the rows."""
    if not rows:
        return np.empty(config.state_shape(0), np.float32)
    state = zero_state(config, len(rows))
    for place, row in enumerate(rows):
        if row.state is not None:
            state[:, :, place] = row.state
            row.state = None
    return state


def read_ahead(model: RowModel, rows: Sequence[GrowingText]) -> None:
    """Read all but the last token of each row's prompt, and change the rows' ``state`` and ``unread`` accordingly."""
    if not (some := [row for row in rows if len(row.unread) > 1]):
        return
    _, state = read_prompts(model, [row.unread[:-1] for row in some], [row.state for row in some])
    for place, row in enumerate(some):
        row.state, row.unread = state[:, :, place], row.unread[-1:]
