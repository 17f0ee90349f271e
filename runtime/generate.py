"""The generation loop: prompts in, texts out. It knows only the step contract."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unrolled.engine.contract import DecodingModel, Draws, StepModel, WritingModel, pad_prompts, zero_state
from unrolled.engine.errors import ConfigError, UnknownTokenError
from unrolled.engine.text import SPECIALS, Tokenizer
from unrolled.runtime.philox import uniforms
from unrolled.runtime.sampling import SamplingConfig, check_whole, choose


@dataclass(frozen=True)
class GenerationConfig(SamplingConfig):
    """How texts are written; ``SamplingConfig`` says how each token is chosen.

    Args:
        max_new_tokens: the most tokens written behind a prompt.
        stop: texts at which writing ends; the stop text itself is left out.
        num_return_sequences: texts for each prompt.
        batch_size: rows run side by side; does not change what they say.
    """

    max_new_tokens: int = 200
    stop: tuple[str, ...] = ()
    num_return_sequences: int = 1
    batch_size: int = 256

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("max_new_tokens", "num_return_sequences", "batch_size"):
            check_whole(name, getattr(self, name), 1)
        stop = (self.stop,) if isinstance(self.stop, str) else self.stop
        if not isinstance(stop, list | tuple) or not all(isinstance(text, str) and text for text in stop):
            raise ConfigError(f"stop: got {self.stop!r}, needs texts that are not empty")
        object.__setattr__(self, "stop", tuple(stop))


@dataclass(frozen=True)
class Generation:
    """One text: what was written behind ``prompt``, and why it ended: "eos", "stop" or "length"."""

    prompt: str
    text: str
    tokens: tuple[int, ...]  # as drawn, <eos> and the tokens of a stop text included
    finish_reason: str
    index: int  # of the row: prompt index · num_return_sequences + which of them


def prompt_tokens(tokenizer: Tokenizer, prompt: str) -> NDArray[np.int64]:
    """Ids (n,) of a prompt, n ≥ 1, behind <bos> where the vocabulary has it.

    Raises:
        UnknownTokenError: the prompt holds what the vocabulary has not, or nothing.
    """
    ids = tokenizer.encode(prompt)
    if tokenizer.bos_id is not None:
        return np.concatenate([[tokenizer.bos_id], ids]).astype(np.int64)
    if len(ids) == 0:
        raise UnknownTokenError(
            f"prompt: {prompt!r} has no token to start from, and this model has no <bos>; "
            f"begin with some text, for instance {start_prompt(tokenizer)!r}"
        )
    return ids


def start_prompt(tokenizer: Tokenizer) -> str:
    """What begins a text when nobody said: nothing behind a <bos>, else a line end, else the most usual token."""
    if tokenizer.bos_id is not None:
        return ""
    if "\n" in tokenizer.vocabulary:
        return "\n"
    return next((token for token in tokenizer.vocabulary if token not in SPECIALS), "")


def read_prompts(model: StepModel, prompts: Sequence[NDArray[np.int64]]) -> tuple[NDArray, NDArray]:
    """Read prompts of different lengths: logits (B, V) behind the last token of each, and states (S, L, B, H).

    Rows are sorted by length; between two lengths only the rows that go on are read, so no row sees padding.
    """
    lengths = np.array([len(prompt) for prompt in prompts])
    order = np.argsort(-lengths, kind="stable")  # the longest first, so that the rows that go on come first
    B = len(prompts)
    tokens = np.zeros((lengths.max(), B), np.int64)
    for column, row in enumerate(order):
        tokens[: lengths[row], column] = prompts[row]
    state = zero_state(model.config, B)
    logits = np.empty((B, model.config.vocab_size), np.float32)
    begin = 0
    for end in np.unique(lengths):
        going = int((lengths >= end).sum())
        chunk = np.ascontiguousarray(tokens[begin:end, :going])
        stepped, moved = model.step(chunk, np.ascontiguousarray(state[:, :, :going]))
        logits[:going], state[:, :, :going] = stepped[-1], moved
        begin = end
    back = np.argsort(order)
    return logits[back], np.ascontiguousarray(state[:, :, back])


class _Row:
    """A text as it grows, and whether it is over."""

    def __init__(self, tokenizer: Tokenizer, config: GenerationConfig) -> None:
        self.tokenizer, self.config = tokenizer, config
        self.tokens: list[int] = []
        self.reason: str | None = None
        # how many tokens a stop text can reach over: each but <bos> adds a character, and words a space before them
        self._window = max(map(len, config.stop), default=-1) + 1
        self._tail: deque[int] = deque(maxlen=self._window)

    def extend(self, tokens: list[int]) -> None:
        """Add tokens up to the one that ends the text."""
        if self._window == 0:  # nothing to look for but <eos>: no walk over the tokens
            left = self.config.max_new_tokens - len(self.tokens)
            eos = self.tokenizer.eos_id
            end = tokens.index(eos) + 1 if eos in tokens else len(tokens) + 1
            self.tokens += tokens[: min(end, left)]
            self.reason = "eos" if end <= left and end <= len(tokens) else "length" if left <= len(tokens) else None
            return
        for token in tokens:
            self._add(token)
            if self.reason is not None:
                return

    def _add(self, token: int) -> None:
        self.tokens.append(token)
        if token != self.tokenizer.bos_id:
            self._tail.append(token)
        if token == self.tokenizer.eos_id:
            self.reason = "eos"
        elif self._window and any(stop in self.tokenizer.decode(self._tail) for stop in self.config.stop):
            self.reason = "stop"
        elif len(self.tokens) == self.config.max_new_tokens:
            self.reason = "length"

    def text(self) -> str:
        text = self.tokenizer.decode(self.tokens)
        cuts = [text.index(stop) for stop in self.config.stop if stop in text]
        return text[: min(cuts)] if cuts else text


CHUNK = 128  # tokens that a model with a path of its own draws before the texts are looked at


class _StepWriter:
    """Draws tokens here, and steps the model; one token a row at a time."""

    def __init__(self, model: StepModel, config: GenerationConfig, logits: NDArray, state: NDArray) -> None:
        self.model, self.config, self.logits, self.state = model, config, logits, state
        self.tokens = np.empty(0, np.int64)

    def draw(self, indices: NDArray[np.int64], step: int) -> NDArray[np.int64]:
        """Tokens (n, B), n ≥ 1, of the rows with these indices; ``step`` is which of their tokens the first one is."""
        u = uniforms(self.config.seed, indices, step) if self.config.do_sample else None
        self.tokens = choose(self.logits, self.config, u)
        return self.tokens[None]

    def go_on(self, going: NDArray[np.bool_]) -> None:
        """Prepare the next draw; rows that are over leave the batch."""
        tokens, state = self.tokens, self.state
        if not going.all():
            tokens, state = tokens[going], np.ascontiguousarray(state[:, :, going])
        stepped, self.state = self.model.step(tokens[None], state)
        self.logits = stepped[0]


class _DecodeWriter:
    """Leaves drawing and stepping to the model, many tokens at a time."""

    def __init__(self, model: DecodingModel, config: GenerationConfig, logits: NDArray, state: NDArray) -> None:
        self.model, self.config, self.logits, self.state = model, config, logits, state

    def draw(self, indices: NDArray[np.int64], step: int) -> NDArray[np.int64]:
        draws = _draws(self.config, indices, step)
        tokens, self.logits, self.state = self.model.decode(self.logits, self.state, draws)
        return tokens

    def go_on(self, going: NDArray[np.bool_]) -> None:
        if not going.all():
            self.logits, self.state = self.logits[going], np.ascontiguousarray(self.state[:, :, going])


class _WholeWriter:
    """Leaves reading prompts too to the model."""

    def __init__(self, model: WritingModel, config: GenerationConfig, prompts: Sequence[NDArray[np.int64]]) -> None:
        self.model, self.config = model, config
        self.tokens, self.lengths = pad_prompts(prompts)
        self.state = zero_state(model.config, len(prompts))

    def draw(self, indices: NDArray[np.int64], step: int) -> NDArray[np.int64]:
        tokens, self.state = self.model.write(
            self.tokens, self.lengths, self.state, _draws(self.config, indices, step)
        )  # fmt: skip
        self.tokens = tokens[-1:]  # written, but not read yet
        return tokens

    def go_on(self, going: NDArray[np.bool_]) -> None:
        self.tokens, self.state = (
            np.ascontiguousarray(self.tokens[:, going]),
            np.ascontiguousarray(self.state[:, :, going]),
        )
        self.lengths = np.ones(self.tokens.shape[1], np.int64)


def _draws(config: GenerationConfig, indices: NDArray[np.int64], step: int) -> Draws:
    """The next CHUNK tokens, or as many as are left."""
    count, c = min(CHUNK, config.max_new_tokens - step), config
    return Draws(count, step, indices, c.do_sample, c.temperature, c.top_k, c.top_p, c.seed)


def _make_writer(model: StepModel, config: GenerationConfig, prompts: Sequence[NDArray[np.int64]]) -> Any:
    if hasattr(model, "write"):
        whole: Any = model
        return _WholeWriter(whole, config, prompts)
    make: Any = _DecodeWriter if hasattr(model, "decode") else _StepWriter
    return make(model, config, *read_prompts(model, prompts))


def _generate_rows(
    model: StepModel,
    prompts: Sequence[NDArray[np.int64]],
    indices: NDArray[np.int64],
    config: GenerationConfig,
) -> list[_Row]:
    """Write behind ``prompts``, all at once; a row that is over leaves the batch."""
    rows = [_Row(model.tokenizer, config) for _ in prompts]
    writer = _make_writer(model, config, prompts)
    active, step = np.arange(len(rows)), 0
    while True:
        tokens = writer.draw(indices[active], step)
        for row, written in zip(active, tokens.T.tolist(), strict=True):
            rows[row].extend(written)
        going = np.array([rows[row].reason is None for row in active])
        if not going.any():
            return rows
        writer.go_on(going)
        active, step = active[going], step + len(tokens)


def generate(
    model: StepModel, prompts: Sequence[str], config: GenerationConfig | None = None, **settings: Any
) -> list[Generation]:
    """Write texts behind ``prompts``.

    A row's text depends on its prompt, the seed and its index alone, and not on the other rows or the batch size, as far
    as the engine's logits do not.

    Args:
        model: from ``load``, or any StepModel.
        prompts: one or more texts, of any lengths.
        config: settings; or give them by name, for instance ``temperature=0.8``.

    Returns:
        ``num_return_sequences`` generations for each prompt, in order.

    Raises:
        ConfigError: a setting is out of its range, or there is no prompt.
        UnknownTokenError: a prompt holds what the vocabulary has not.
    """
    if config is not None and settings:
        raise ConfigError("give a GenerationConfig or settings by name, not both")
    if unknown := sorted(set(settings) - {field.name for field in fields(GenerationConfig)}):
        known = ", ".join(field.name for field in fields(GenerationConfig))
        raise ConfigError(f"generate: no setting {', '.join(unknown)}; there are {known}")
    config = config or GenerationConfig(**settings)
    if not isinstance(config, GenerationConfig):
        raise ConfigError(f"config: got a {type(config).__name__}, needs a GenerationConfig")
    if isinstance(prompts, str):
        raise ConfigError("prompts: got one text, needs a list of them: [prompt]")
    if len(prompts) == 0:
        raise ConfigError("prompts: got none, needs at least one")
    for place, prompt in enumerate(prompts):
        if not isinstance(prompt, str):
            raise ConfigError(f"prompts: got {prompt!r} at {place}, needs texts")
    repeats = config.num_return_sequences
    encoded = [prompt_tokens(model.tokenizer, prompt) for prompt in prompts]
    total = len(prompts) * repeats
    generations = []
    for first in range(0, total, config.batch_size):
        indices = np.arange(first, min(first + config.batch_size, total))
        rows = _generate_rows(model, [encoded[i // repeats] for i in indices], indices, config)
        for index, row in zip(indices, rows, strict=True):
            prompt = prompts[int(index) // repeats]
            generations.append(Generation(prompt, row.text(), tuple(row.tokens), row.reason or "length", int(index)))
    return generations
