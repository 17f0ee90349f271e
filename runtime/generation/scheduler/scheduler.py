"""Continuous batching: rows of any lengths run side by side in slots, and when one ends the next takes its slot."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Iterable, Iterator
from typing import cast

import numpy as np

from unrolled.engine.checks import check_whole
from unrolled.engine.models.step_contract import BindingModel, FlowingModel, StepModel
from unrolled.runtime.generation.requests.generation import Generation
from unrolled.runtime.generation.requests.growing_text import GrowingText
from unrolled.runtime.generation.requests.request import Request
from unrolled.runtime.generation.scheduler.flow_slots import MAX_CHUNK, FlowSlots
from unrolled.runtime.generation.scheduler.single_slot import SingleSlot
from unrolled.runtime.generation.scheduler.slots import Slots, read_ahead
from unrolled.runtime.generation.scheduler.step_slots import StepSlots
from unrolled.runtime.models.batch_invariance import RowModel

HELD_PER_SLOT = 16  # rows that are held at most: unfinished ones, and results that wait for the oldest row to end
FEW_SLOTS = 16  # with fewer slots, prompts are read before their rows get a slot, whole sequences in a call
LONG_PROMPT = 4096  # tokens; a longer prompt is read ahead, too, with those that were requested with it
COMMON_PREFIX = 16  # tokens; if many prompts share as many, all are read ahead, their common part only once


class Scheduler:
    """The rows of an iterator of requests, written in slots and returned in order.

    Rows of plain settings are written by the model itself if it has the capability "flow"; others always step by step.

    Args:
        model: any StepModel.
        requests: read as slots become free, a bounded number ahead of the results.
        slots: the most rows side by side; does not change their texts.
        chunk: the most tokens of a row in one call of the model.
        watched: whether a caller reads the rows between two calls of ``advance``.
    """

    def __init__(
        self,
        model: StepModel,
        requests: Iterable[Request],
        slots: int,
        chunk: int = MAX_CHUNK,
        watched: bool = False,
    ) -> None:
        check_whole("slots", slots, 1)
        self._model, self._most = model, slots
        self._chunk, self._watched = chunk, watched
        self._requests: Iterator[Request] | None = iter(requests)
        self._rows_model = RowModel(model)
        self._flows = "flow" in model.capabilities
        self._reads_prompts = "write" in model.capabilities  # its graph reads them in the call that writes
        # True: the slots of plain rows; False: of rows with settings that only this package implements.
        self._slots: dict[bool, Slots] = {}
        self._ready: deque[GrowingText] = deque()  # waiting for a slot
        self._held: deque[GrowingText] = deque()  # in order, until they are returned
        self._refill = True  # enough rows have ended to replace them

    def _take_requests(self) -> None:
        """Take as many requests as there are slots, and read their prompts ahead if that is faster."""
        room = min(self._most, self._most * HELD_PER_SLOT - len(self._held))
        if self._requests is None or room <= 0:
            return
        taken = list(itertools.islice(self._requests, room))
        if len(taken) < room:
            self._requests = None
            if not self._held and not self._slots:  # no row was taken before: these are all
                self._most = max(len(taken), 1)
        rows = [GrowingText(self._model.tokenizer, request, self._watched) for request in taken]
        self._ready.extend(rows)
        self._held.extend(rows)
        if ahead := [row for row in rows if not (self._reads_prompts and row.config.plain)]:
            starts = {(id(row.state), row.unread[:COMMON_PREFIX].tobytes()) for row in ahead}
            long = max(len(row.unread) for row in ahead) > LONG_PROMPT
            if self._most < FEW_SLOTS or long or len(starts) <= 0.75 * len(ahead):
                read_ahead(self._rows_model, ahead)

    def _make_slots(self, plain: bool) -> Slots:
        """Return slots for rows that are plain, or not, by the model's capabilities."""
        if plain and self._flows:
            return FlowSlots(cast(FlowingModel, self._model), self._chunk)
        if plain and self._most == 1 and "bind" in self._model.capabilities:
            return SingleSlot(cast(BindingModel, self._model), self._chunk)
        return StepSlots(self._rows_model, self._model.tokenizer.end_id)

    def _next(self, going: dict[bool, int]) -> list[GrowingText]:
        """Return new rows for the room that is left.

        A model with the capability "flow" gets twice as many plain rows as slots; half of them wait for a slot.

        Args:
            going: the number of unfinished rows that are plain (True), and of others (False).
        """
        new: list[GrowingText] = []
        counts = {True: 0, False: 0, **going}
        while True:
            if not self._ready:
                self._take_requests()
            if not self._ready:
                return new
            plain = self._ready[0].config.plain
            if plain and self._flows:
                full = counts[True] >= 2 * self._most
            else:
                full = min(counts[True], self._most) + counts[False] >= self._most
            if full:
                return new
            counts[plain] += 1
            new.append(self._ready.popleft())

    def _fill(self) -> None:
        """Replace the rows that have ended."""
        going = {
            plain: np.array([row.reason is None for row in slots.rows], bool) for plain, slots in self._slots.items()
        }
        new = self._next({plain: int(mask.sum()) for plain, mask in going.items()})
        plains = [row.config.plain for row in new]
        for plain in {*plains} - set(self._slots):
            self._slots[plain], going[plain] = self._make_slots(plain), np.empty(0, bool)
        for kind, slots in list(self._slots.items()):
            some = [row for row, plain in zip(new, plains, strict=True) if plain == kind]
            if not some and not going[kind].any():
                del self._slots[kind]  # cheaper than emptying them: 2% of the time of a single text
            elif some or not going[kind].all():
                slots.replace(going[kind], some)

    def advance(self) -> bool:
        """Write some more tokens; return False if all rows have ended."""
        if self._refill:
            self._fill()
        busy = [slots for slots in self._slots.values() if slots.rows]
        others = self._slots.get(False)
        more = self._requests is not None or bool(self._ready)
        ended = [
            slots.advance(self._most - (len(others.rows) if others and slots is not others else 0), more)
            for slots in busy
        ]
        self._refill = any(ended)
        return bool(busy)

    @property
    def oldest(self) -> GrowingText:
        """Return the row whose result comes next; only valid after an ``advance`` that returned True."""
        return self._held[0]

    def results(self) -> Iterator[Generation]:
        """Yield the texts that have ended, in the order of the requests."""
        while self._held and self._held[0].reason is not None:
            yield self._held.popleft().result()


def write_rows(model: StepModel, requests: Iterable[Request], slots: int = 256) -> Iterator[Generation]:
    """Write texts, many at a time.

    A row depends on its request alone: not on its neighbours, the number of slots, or when its slot became free.

    Args:
        model: any StepModel.
        requests: any number; read as slots become free, and a bounded number of them held.
        slots: the most rows side by side.

    Yields:
        The generations in the order of the requests.

    Raises:
        ModelFileError: the model's logits are not finite.
    """
    scheduler = Scheduler(model, requests, slots)
    while scheduler.advance():
        yield from scheduler.results()
    yield from scheduler.results()
