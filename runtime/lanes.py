"""Many texts at once: rows of any lengths stand side by side in lanes, and where one is over the next takes its lane."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Iterable, Iterator
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from unrolled.engine.contract import DecodingModel, Draws, StepModel, WritingModel, pad_prompts, zero_state
from unrolled.engine.errors import NothingLeftError
from unrolled.runtime.filters import History
from unrolled.runtime.one_lane import OneLane
from unrolled.runtime.philox import uniforms
from unrolled.runtime.prompts import read_prompts
from unrolled.runtime.rows import NOTHING_LEFT, Generation, Request, Row
from unrolled.runtime.rowwise import RowModel
from unrolled.runtime.sampling import PLAIN, SamplingConfig, check_whole, choose, token_logprobs

CHUNK = 16  # tokens that a model draws by itself before its rows are looked at
TOKENS = 2048  # of all lanes: few lanes draw more each, where a look costs as much as what ended rows draw for nothing
MOST = 128  # at a time, whatever the number of lanes
AHEAD = 16  # rows a lane that may be begun before the oldest one is over; they wait for it to be given back in order


class Lanes(Protocol):
    """Rows that are written side by side."""

    rows: list[Row]

    def advance(self, chunk: int) -> bool:
        """Write 1 … ``chunk`` tokens more in every row; whether one of them is over now."""
        ...

    def replace(self, going: NDArray[np.bool_], rows: list[Row], read: Any) -> None:
        """Keep the rows that go on, and put new ones beside them; ``read`` is what their prompts were read to."""
        ...


def _replace(kept: NDArray, going: NDArray[np.bool_], new: NDArray, axis: int) -> NDArray:
    """The lanes of ``kept`` along ``axis`` that go on, with ``new`` ones; the same order as ``_replace_rows``."""
    free, n = np.flatnonzero(~going), new.shape[axis]
    front: tuple[Any, ...] = (slice(None),) * axis
    if n == len(free):  # as many as were over: in their places, nothing else moves
        kept[(*front, free)] = new
        return kept
    return np.ascontiguousarray(np.concatenate([kept[(*front, going)], new], axis=axis))


def _replace_rows(kept: list[Row], going: NDArray[np.bool_], new: list[Row]) -> list[Row]:
    if len(new) == len(kept) - int(going.sum()):
        waiting = iter(new)
        return [row if goes else next(waiting) for row, goes in zip(kept, going, strict=True)]
    return [*itertools.compress(kept, going), *new]


class _Rules:
    """By which rules the tokens of rows are chosen, and which rows share them."""

    def __init__(self, rows: list[Row]) -> None:
        self.each = [row.rules for row in rows]
        self.first = self.each[0]
        self.one = all(rules is self.first for rules in self.each)  # equal ones are one object

    def groups(self) -> Iterator[tuple[SamplingConfig, NDArray[np.intp]]]:
        """Each of the different rules with its rows."""
        places: dict[int, list[int]] = {}
        for place, rules in enumerate(self.each):
            places.setdefault(id(rules), []).append(place)
        for some in places.values():
            yield self.each[some[0]], np.array(some)

    def column(self, name: str) -> Any:
        """One setting: a value where all rows share it, else an array (B,)."""
        return getattr(self.first, name) if self.one else np.array([getattr(rules, name) for rules in self.each])


def _indices(rows: list[Row]) -> NDArray[np.int64]:
    return np.array([row.request.index for row in rows], np.int64)


def _written(rows: list[Row]) -> NDArray[np.int64]:
    """How many tokens each row has."""
    return np.array([len(row.tokens) for row in rows], np.int64)


def _draw_of(rows: list[Row]) -> NDArray[np.int64]:
    """Which draw of its index each row's next token is."""
    return np.array([row.first_draw + len(row.tokens) for row in rows], np.int64)


class StepLanes:
    """Tokens are drawn here, one a row at a time, and the model makes a step."""

    BLOCK = 16  # steps whose uniforms are made at once, and whose tokens are handed to the rows at once

    def __init__(self, model: RowModel, eos: int | None) -> None:
        self.model, self._eos = model, -1 if eos is None else eos
        self.rows: list[Row] = []
        config = model.config
        self._logits = np.empty((0, config.vocab_size), np.float32)
        self._state = np.empty(config.state_shape(0), np.float32)
        self._u = np.empty((self.BLOCK, 0))
        self._drawn = np.empty((self.BLOCK, 0), np.int64)
        self._phase = 0  # steps of this block that are over
        self._since = np.empty(0, np.int64)  # the step of the block from which on a row's tokens are not handed to it
        self._left = np.empty(0, np.int64)  # the most tokens still to come
        self._tokens: NDArray[np.int64] | None = None  # drawn, but not read yet

    def replace(self, going: NDArray[np.bool_], rows: list[Row], read: Any) -> None:
        if len(rows) < len(going) - int(going.sum()):  # those that are over do not see another step
            self._replace(going, [], (self._logits[:0], self._state[:, :, :0]))
            going = np.ones(len(self.rows), bool)
        self._step()
        if rows:
            self._replace(going, rows, read)
        if self.rows:
            self._rules = _Rules(self.rows)
            self._looking = np.array([row.looks for row in self.rows])
            self._plain = all(row.config.plain for row in self.rows)

    def _replace(self, going: NDArray[np.bool_], rows: list[Row], read: tuple[NDArray, NDArray]) -> None:
        n, u = len(rows), np.zeros((self.BLOCK, len(rows)))
        if rows:
            u[self._phase :] = self._uniforms(rows, self.BLOCK - self._phase)
        self._u = _replace(self._u, going, u, 1)
        self._logits = _replace(self._logits, going, read[0], 0)
        self._state = _replace(self._state, going, read[1], 2)
        self._drawn = _replace(self._drawn, going, np.empty((self.BLOCK, n), np.int64), 1)
        self._since = _replace(self._since, going, np.full(n, self._phase), 0)
        self._left = _replace(self._left, going, np.array([row.left for row in rows], np.int64), 0)
        if self._tokens is not None:
            self._tokens = _replace(self._tokens, going, np.zeros(n, np.int64), 0)
        self.rows = _replace_rows(self.rows, going, rows)

    def _step(self) -> None:
        """What was drawn last is read."""
        if self._tokens is not None and self.rows:
            self._logits, self._state = self.model.step(self._tokens, self._state)
        self._tokens = None

    def _uniforms(self, rows: list[Row], steps: int) -> NDArray[np.float64]:
        """Of the next steps of these rows, (steps, n)."""
        u = np.zeros((steps, len(rows)))
        indices, draws = _indices(rows), _draw_of(rows)
        for rules, some in _Rules(rows).groups():
            if rules.do_sample:
                u[:, some] = uniforms(rules.seed, indices[some], draws[some] + np.arange(steps)[:, None])
        return u

    def _choose(self) -> NDArray[np.int64]:
        """The next token of each row; 0 where the settings leave none, and the row is over."""
        u = self._u[self._phase]
        if self._rules.one and self._plain:
            return choose(self._logits, self._rules.first, u)
        tokens = np.zeros(len(self.rows), np.int64)
        for rules, some in self._rules.groups():
            self._choose_by(rules, some, u, tokens)
        return tokens

    def _choose_by(self, rules: SamplingConfig, some: NDArray[np.intp], u: NDArray, tokens: NDArray[np.int64]) -> None:
        rows = [self.rows[b] for b in some]
        history = None
        if rules.needs_history:
            history = History([row.history or [] for row in rows], _written(rows))
        try:
            tokens[some] = choose(self._logits[some], rules, u[some], history)
        except NothingLeftError as error:
            for place in error.rows:
                rows[place].reason = NOTHING_LEFT
            if len(rest := np.delete(some, error.rows)):
                self._choose_by(rules, rest, u, tokens)

    def _keep_logprobs(self, tokens: NDArray[np.int64]) -> None:
        asking = np.flatnonzero([row.config.logprobs for row in self.rows])
        for b, value in zip(asking, token_logprobs(self._logits[asking], tokens[asking]).tolist(), strict=True):
            if self.rows[b].reason is None:
                self.rows[b].logprobs.append(value)

    def advance(self, chunk: int) -> bool:
        self._step()
        if self._phase == self.BLOCK:
            self._u = self._uniforms(self.rows, self.BLOCK)
            self._phase = 0
            self._since[:] = 0
        tokens = self._choose()
        if not self._plain:
            self._keep_logprobs(tokens)
        self._drawn[self._phase] = tokens
        self._phase += 1
        self._left -= 1
        told = (tokens == self._eos) | (self._left == 0) | self._looking
        told |= self._phase == self.BLOCK
        for b in np.flatnonzero(told):
            if self.rows[b].reason is None:
                self.rows[b].extend(self._drawn[self._since[b] : self._phase, b].tolist())
        self._since[told] = self._phase
        self._tokens = tokens
        return any(row.reason is not None for row in self.rows)


class DecodeLanes:
    """The model draws and steps, many tokens at a time."""

    def __init__(self, model: DecodingModel) -> None:
        self.model = model
        self.rows: list[Row] = []
        self._logits = np.empty((0, model.config.vocab_size), np.float32)
        self._state = np.empty(model.config.state_shape(0), np.float32)

    def replace(self, going: NDArray[np.bool_], rows: list[Row], read: Any) -> None:
        logits, state = read if rows else (self._logits[:0], self._state[:, :, :0])
        self.rows = _replace_rows(self.rows, going, rows)
        self._logits = _replace(self._logits, going, logits, 0)
        self._state = _replace(self._state, going, state, 2)
        if self.rows:
            rules = _Rules(self.rows)
            self._columns = [rules.column(name) for name in PLAIN]
            self._indices = _indices(self.rows)

    def advance(self, chunk: int) -> bool:
        steps = min(chunk, max(row.left for row in self.rows))
        draws = Draws(steps, _draw_of(self.rows), self._indices, *self._columns)
        tokens, self._logits, self._state = self.model.decode(self._logits, self._state, draws)
        for row, written in zip(self.rows, tokens.T.tolist(), strict=True):
            row.extend(written)
        return any(row.reason is not None for row in self.rows)


class WholeLanes:
    """The model reads prompts, draws and steps. What is read next stands in front of each row: its prompt, later a token."""

    def __init__(self, model: WritingModel) -> None:
        self.model = model
        self.rows: list[Row] = []
        self._next: list[NDArray[np.int64]] = []
        self._state = np.empty(model.config.state_shape(0), np.float32)

    def replace(self, going: NDArray[np.bool_], rows: list[Row], read: Any) -> None:
        n = len(rows)
        state = zero_state(self.model.config, n) if n else self._state[:, :, :0]
        for place, row in enumerate(rows):
            if row.request.context is not None:
                state[:, :, place] = row.request.context.state
        nexts = dict(zip(map(id, self.rows), self._next, strict=True))
        self.rows = _replace_rows(self.rows, going, rows)
        self._next = [nexts.get(id(row), row.request.tokens) for row in self.rows]
        self._state = _replace(self._state, going, state, 2)

    def advance(self, chunk: int) -> bool:
        steps = min(chunk, max(row.left for row in self.rows))
        for rules, some in _Rules(self.rows).groups():
            # rows that read a prompt apart from those that go on: nothing is padded for those
            reading = np.array([not self.rows[b].tokens for b in some])
            for part in (some[reading], some[~reading]):
                if len(part):
                    self._write(part, rules, steps)
        return any(row.reason is not None for row in self.rows)

    def _write(self, part: NDArray[np.intp], rules: SamplingConfig, steps: int) -> None:
        rows = [self.rows[b] for b in part]
        draws = Draws(steps, _draw_of(rows), _indices(rows), *(getattr(rules, name) for name in PLAIN))
        tokens, lengths = pad_prompts([self._next[b] for b in part])
        written, moved = self.model.write(tokens, lengths, np.ascontiguousarray(self._state[:, :, part]), draws)
        self._state[:, :, part] = moved
        for b, row, column in zip(part, rows, written.T, strict=True):
            self._next[b] = column[-1:]  # written, but not read yet
            row.extend(column.tolist())


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
        self._reads = not hasattr(model, "write")
        self._lanes: dict[bool, Lanes] = {}  # of plain rows, and of those with settings that only this package knows
        self._ready: list[Row] = []  # read, and waiting for a lane
        self._read: Any = None  # their logits (n, V) and states (S, L, n, H)
        self._begun: deque[Row] = deque()  # in order, until they are given back
        self._over = True  # whether a row is, so that its lane is free

    def _ask(self) -> None:
        """Read the prompts of as many rows as there are lanes."""
        room = min(self._lanes_most, self._lanes_most * AHEAD - len(self._begun))
        if self._requests is None or room <= 0:
            return
        asked = list(itertools.islice(self._requests, room))
        if len(asked) < room:
            self._requests = None
        self._ready = [Row(self._model.tokenizer, request, self._watched) for request in asked]
        self._begun.extend(self._ready)
        # a model that writes by itself reads plain rows' prompts too
        if self._ready and (self._reads or not all(row.config.plain for row in self._ready)):
            states = [None if request.context is None else request.context.state for request in asked]
            self._read = read_prompts(self._rows_model, [request.tokens for request in asked], states)
        else:
            self._read = None

    def _lanes_of(self, plain: bool) -> Lanes:
        model: Any = self._model
        if plain and not self._reads:
            return WholeLanes(model)
        if plain and hasattr(model, "decode"):
            return DecodeLanes(model)
        alone = self._lanes_most == 1 or (self._requests is None and len(self._begun) == 1)
        if plain and alone and getattr(model, "form", None) == "step":
            return OneLane(model)
        return StepLanes(self._rows_model, self._model.tokenizer.eos_id)

    def _next(self, free: int) -> list[Row]:
        """Rows for lanes that are free, as many as there are."""
        if free and not self._ready:
            self._ask()
        rows, self._ready = self._ready[:free], self._ready[free:]
        return rows

    def _fill(self) -> None:
        going = {
            kind: np.array([row.reason is None for row in lanes.rows], bool) for kind, lanes in self._lanes.items()
        }
        new = self._next(self._lanes_most - sum(int(mask.sum()) for mask in going.values()))
        n, now = len(new), self._read if new else None
        if now is not None:
            self._read = now[0][n:], now[1][:, :, n:]
        plain = np.array([row.config.plain for row in new], bool)
        for kind in {*plain.tolist()} - set(self._lanes):
            self._lanes[kind], going[kind] = self._lanes_of(kind), np.empty(0, bool)
        for kind, lanes in self._lanes.items():
            some = np.flatnonzero(plain == kind)
            if len(some) or not going[kind].all():
                read = None if now is None else (now[0][some], np.ascontiguousarray(now[1][:, :, some]))
                lanes.replace(going[kind], [new[i] for i in some], read)

    def advance(self) -> bool:
        """Write some tokens more; False: all rows are over."""
        if self._over:
            self._fill()
        busy = [lanes for lanes in self._lanes.values() if lanes.rows]
        chunk = min(max(TOKENS // max(sum(len(lanes.rows) for lanes in busy), 1), CHUNK), self._most_tokens)
        over = [lanes.advance(chunk) for lanes in busy]
        self._over = any(over)
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
