"""Many texts at once: rows of any lengths stand side by side in slots, and where one ends the next takes its slot."""

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
from unrolled.runtime.generation.scheduler.flow_slots import MOST, FlowSlots
from unrolled.runtime.generation.scheduler.single_slot import SingleSlot
from unrolled.runtime.generation.scheduler.slots import Slots, read_ahead
from unrolled.runtime.generation.scheduler.step_slots import StepSlots
from unrolled.runtime.models.batch_invariance import RowModel

AHEAD = 16  # rows a lane that may be begun before the oldest one is over; they wait for it to be given back in order
FEW = 16  # with fewer lanes prompts are read before the rows get one, whole sequences in a call
LONG = 4096  # tokens of a prompt; with a longer one the same
ALIKE = 16  # tokens: where many prompts share so many, they are read ahead, too, what they share only once


class Scheduler:
    """Rows asked for one after the other, written in lanes, given back in order.

    Args:
        model: any StepModel.
        requests: read as lanes become free, a bounded number ahead of what is given back.
        lanes: the most rows that are written side by side; does not change what they say.
        chunk: the most tokens that a model draws by itself before its rows are looked at.
        watched: whether somebody looks at the rows between two steps.
    """

    def __init__(
        self,
        model: StepModel,
        requests: Iterable[Request],
        lanes: int,
        chunk: int = MOST,
        watched: bool = False,
    ) -> None:
        self._chunk, self._watched = chunk, watched
        check_whole("lanes", lanes, 1)
        self._model, self._most = model, lanes
        self._requests: Iterator[Request] | None = iter(requests)
        self._rows_model = RowModel(model)
        self._flows = "flow" in model.capabilities  # fills its slots with plain rows by itself
        self._writes = "write" in model.capabilities  # whole texts, after prompts that it reads itself
        self._slots: dict[
            bool, Slots
        ] = {}  # of plain rows, and of those with settings that only this package implements
        self._ready: deque[GrowingText] = deque()  # waiting for a lane
        self._begun: deque[GrowingText] = deque()  # in order, until they are given back
        self._look = True  # whether it is worth while to look for rows that are over

    def _ask(self) -> None:
        """Ask for as many rows as there are lanes."""
        room = min(self._most, self._most * AHEAD - len(self._begun))
        if self._requests is None or room <= 0:
            return
        asked = list(itertools.islice(self._requests, room))
        if len(asked) < room:
            self._requests = None
            if not self._begun and not self._slots:  # these are all
                self._most = max(len(asked), 1)
        rows = [GrowingText(self._model.tokenizer, request, self._watched) for request in asked]
        self._ready.extend(rows)
        self._begun.extend(rows)
        if ahead := [row for row in rows if not (self._writes and row.config.plain)]:
            starts = {(id(row.state), row.unread[:ALIKE].tobytes()) for row in ahead}
            long = max(len(row.unread) for row in ahead) > LONG
            if self._most < FEW or long or len(starts) <= 0.75 * len(ahead):
                read_ahead(self._rows_model, ahead)

    def _slots_of(self, plain: bool) -> Slots:
        """Return slots for rows that are plain, or not, by the model's capabilities."""
        if plain and self._flows:
            return FlowSlots(cast(FlowingModel, self._model), self._chunk)
        if plain and self._most == 1 and "bind" in self._model.capabilities:
            return SingleSlot(cast(BindingModel, self._model), self._chunk)
        return StepSlots(self._rows_model, self._model.tokenizer.eos_id)

    def _next(self, going: dict[bool, int]) -> list[GrowingText]:
        """Rows that there is room for, beside so many plain ones and others; as many wait in front of lanes that flow."""
        new: list[GrowingText] = []
        counts = {True: 0, False: 0, **going}
        while True:
            if not self._ready:
                self._ask()
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
        going = {
            kind: np.array([row.reason is None for row in lanes.rows], bool) for kind, lanes in self._slots.items()
        }
        new = self._next({kind: int(mask.sum()) for kind, mask in going.items()})
        plain = [row.config.plain for row in new]
        for kind in {*plain} - set(self._slots):
            self._slots[kind], going[kind] = self._slots_of(kind), np.empty(0, bool)
        for kind, lanes in self._slots.items():
            some = [row for row, its in zip(new, plain, strict=True) if its == kind]
            if some or not going[kind].all():
                lanes.replace(going[kind], some)

    def advance(self) -> bool:
        """Write some tokens more; False: all rows are over."""
        if self._look:
            self._fill()
        busy = [lanes for lanes in self._slots.values() if lanes.rows]
        others = self._slots.get(False)
        more = self._requests is not None or bool(self._ready)
        look = [
            lanes.advance(self._most - (len(others.rows) if others and lanes is not others else 0), more)
            for lanes in busy
        ]
        self._look = any(look)
        return bool(busy)

    @property
    def oldest(self) -> GrowingText:
        """The row whose result comes next; there is one after an ``advance`` that says so."""
        return self._begun[0]

    def results(self) -> Iterator[Generation]:
        """What is over, in the order of the requests."""
        while self._begun and self._begun[0].reason is not None:
            yield self._begun.popleft().result()


def write_rows(model: StepModel, requests: Iterable[Request], lanes: int = 256) -> Iterator[Generation]:
    """Write texts, many at a time.

    A row depends on its request alone: not on its neighbours, the number of lanes, or when its lane became free.

    Args:
        model: any StepModel.
        requests: any number; read as lanes become free, and a bounded number of them held.
        lanes: the most rows side by side.

    Yields:
        The generations in the order of the requests.

    Raises:
        ModelFileError: the model's logits are not finite.
    """
    scheduler = Scheduler(model, requests, lanes)
    while scheduler.advance():
        yield from scheduler.results()
    yield from scheduler.results()
