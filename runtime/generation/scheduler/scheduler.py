"""Many texts at once: rows of any lengths stand side by side in lanes, and where one is over the next takes its lane."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from unrolled.engine.models.step_contract import StepModel
from unrolled.engine.sampling.rules import check_whole
from unrolled.runtime.generation.requests.rows import Generation, Request, Row
from unrolled.runtime.generation.scheduler.drawing_slots import MOST, DecodeLanes, FlowLanes, WholeLanes
from unrolled.runtime.generation.scheduler.single_slot import OneLane
from unrolled.runtime.generation.scheduler.slots import Lanes, read_ahead
from unrolled.runtime.generation.scheduler.step_slots import StepLanes
from unrolled.runtime.models.batch_invariance import RowModel

AHEAD = 16  # rows a lane that may be begun before the oldest one is over; they wait for it to be given back in order
FEW = 16  # with fewer lanes prompts are read before the rows get one, whole sequences in a call
LONG = 4096  # tokens of a prompt; with a longer one the same
ALIKE = 16  # tokens: where many prompts share so many, they are read ahead, too, what they share only once


class Writer:
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
        self._most_tokens, self._watched = chunk, watched
        check_whole("lanes", lanes, 1)
        self._model, self._lanes_most = model, lanes
        self._requests: Iterator[Request] | None = iter(requests)
        self._rows_model = RowModel(model)
        self._writes = hasattr(model, "write")  # whole texts, behind prompts that it reads itself
        self._lanes: dict[bool, Lanes] = {}  # of plain rows, and of those with settings that only this package knows
        self._ready: deque[Row] = deque()  # waiting for a lane
        self._begun: deque[Row] = deque()  # in order, until they are given back
        self._look = True  # whether it is worth while to look for rows that are over

    @property
    def _flows(self) -> bool:
        """Whether the model fills its lanes with plain rows by itself."""
        return self._lanes_most >= FEW and hasattr(self._model, "flow")

    def _ask(self) -> None:
        """Ask for as many rows as there are lanes."""
        room = min(self._lanes_most, self._lanes_most * AHEAD - len(self._begun))
        if self._requests is None or room <= 0:
            return
        asked = list(itertools.islice(self._requests, room))
        if len(asked) < room:
            self._requests = None
            if not self._begun and not self._lanes:  # these are all
                self._lanes_most = max(len(asked), 1)
        rows = [Row(self._model.tokenizer, request, self._watched) for request in asked]
        self._ready.extend(rows)
        self._begun.extend(rows)
        if ahead := [row for row in rows if not (self._writes and row.config.plain)]:
            starts = {(id(row.state), row.unread[:ALIKE].tobytes()) for row in ahead}
            long = max(len(row.unread) for row in ahead) > LONG
            if self._lanes_most < FEW or long or len(starts) <= 0.75 * len(ahead):
                read_ahead(self._rows_model, ahead)

    def _lanes_of(self, plain: bool) -> Lanes:
        model: Any = self._model
        if plain and self._writes:
            return WholeLanes(model, self._most_tokens)
        if plain and self._flows:
            return FlowLanes(model)
        if plain and hasattr(model, "decode"):
            return DecodeLanes(model, self._most_tokens)
        if plain and self._lanes_most == 1 and getattr(model, "form", None) == "step":
            return OneLane(model, self._most_tokens)
        return StepLanes(self._rows_model, self._model.tokenizer.eos_id)

    def _next(self, going: dict[bool, int]) -> list[Row]:
        """Rows that there is room for, beside so many plain ones and others; as many wait in front of lanes that flow."""
        new: list[Row] = []
        counts = {True: 0, False: 0, **going}
        while True:
            if not self._ready:
                self._ask()
            if not self._ready:
                return new
            plain = self._ready[0].config.plain
            if plain and self._flows:
                full = counts[True] >= 2 * self._lanes_most
            else:
                full = min(counts[True], self._lanes_most) + counts[False] >= self._lanes_most
            if full:
                return new
            counts[plain] += 1
            new.append(self._ready.popleft())

    def _fill(self) -> None:
        going = {
            kind: np.array([row.reason is None for row in lanes.rows], bool) for kind, lanes in self._lanes.items()
        }
        new = self._next({kind: int(mask.sum()) for kind, mask in going.items()})
        plain = [row.config.plain for row in new]
        for kind in {*plain} - set(self._lanes):
            self._lanes[kind], going[kind] = self._lanes_of(kind), np.empty(0, bool)
        for kind, lanes in self._lanes.items():
            some = [row for row, its in zip(new, plain, strict=True) if its == kind]
            if some or not going[kind].all():
                lanes.replace(going[kind], some)

    def advance(self) -> bool:
        """Write some tokens more; False: all rows are over."""
        if self._look:
            self._fill()
        busy = [lanes for lanes in self._lanes.values() if lanes.rows]
        others = self._lanes.get(False)
        more = self._requests is not None or bool(self._ready)
        look = [
            lanes.advance(self._lanes_most - (len(others.rows) if others and lanes is not others else 0), more)
            for lanes in busy
        ]
        self._look = any(look)
        return bool(busy)

    @property
    def oldest(self) -> Row:
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
    writer = Writer(model, requests, lanes)
    while writer.advance():
        yield from writer.results()
    yield from writer.results()
