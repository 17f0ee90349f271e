"""A text as it is asked for, as it grows, and as it is given back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from unrolled.engine.errors import ConfigError
from unrolled.engine.models.step_contract import StepModel
from unrolled.engine.tokenizers.contract import Tokenizer
from unrolled.runtime.generation.requests.config import GenerationConfig
from unrolled.runtime.generation.requests.context import Context, more_tokens


@dataclass(frozen=True, slots=True)
class Request:
    """A text to write; ``make_request`` makes it.

    Args:
        prompt: what it is written behind.
        tokens: (n,) int64, the prompt encoded.
        index: of the row, not negative: with ``config.seed`` it fixes the draws.
        config: settings, of this row alone, resolved.
        context: where it goes on from; ``tokens`` then begins with the last token of that.
    """

    prompt: str
    tokens: NDArray[np.int64]
    index: int
    config: GenerationConfig
    context: Context | None = None


def make_request(
    model: StepModel, prompt: str, index: int, config: GenerationConfig, context: Context | None = None
) -> Request:
    """A text to write, checked.

    Raises:
        UnknownTokenError: the prompt or a setting holds what the vocabulary has not.
        ConfigError: settings that do not go with each other, the vocabulary or the model; a context of another model.
    """
    return Request(prompt, more_tokens(model, prompt, context), index, resolve(model, config), context)


def resolve(model: StepModel, config: GenerationConfig) -> GenerationConfig:
    """The same settings with ids for texts; ConfigError where the model cannot follow them."""
    if not config.plain and "step" not in model.capabilities:
        raise ConfigError(
            f"{', '.join(config.extras)}: an ONNX file of form generate draws inside its graph, which has only "
            "temperature, top_k and top_p; export --form both, or use the checkpoint"
        )
    return config.resolved(model.tokenizer)


@dataclass(frozen=True)
class Generation:
    """One text: what was written behind ``prompt``, and why it ended.

    That is "eos", "stop", "length", or "nothing left" where the settings ban every token that could come next; the last only
    from ``write_rows``: who calls it makes an error of it.
    """

    prompt: str
    text: str
    tokens: tuple[int, ...]  # as drawn, <eos> and the tokens of a stop text included
    finish_reason: str
    index: int  # of the row: prompt index · num_return_sequences + which of them
    logprobs: tuple[float, ...] | None = None  # log-softmax of the model's own logits at each token, where asked for


NOTHING_LEFT = "nothing left"  # why a row ended: the settings ban every token that could come next


def before_stop(text: str, stop: Sequence[str]) -> str:
    """A text up to the first of its stop texts, or all of it."""
    return text[: min((text.index(end) for end in stop if end in text), default=len(text))] if stop else text


class Row:
    """A text as it grows, and whether it is over."""

    def __init__(self, tokenizer: Tokenizer, request: Request, watched: bool = False) -> None:
        self.tokenizer, self.request, self.config = tokenizer, request, request.config
        self.rules = request.config.rules
        self.tokens: list[int] = []
        before = request.context
        self.unread = request.tokens  # (n,), n ≥ 1, what stands between ``state`` and its first draw
        self.state = None if before is None else before.state  # (S, L, H); None: zeros
        self.first_draw = 0 if before is None else before.written  # of the draws of its index
        self.history: list[int] | None = None  # all that stands before the next token, where that depends on it
        if self.rules.needs_history:
            self.history = [*([] if before is None else before.tokens[:-1].tolist()), *request.tokens.tolist()]
        self._watched = watched
        self.logprobs: list[float] = []
        self.reason: str | None = None
        if self.config.stop:
            self._streamer = tokenizer.streamer()
        self._longest = max(map(len, self.config.stop), default=0)
        self._tail = ""  # of the text, as much as a stop text that is not whole yet can reach back

    @property
    def looks(self) -> bool:
        """Whether every token must be looked at as it comes: somebody waits for it, a stop text may, or the next."""
        return self._watched or self._longest > 0 or self.history is not None

    @property
    def left(self) -> int:
        """The most tokens still to come."""
        return self.config.max_new_tokens - len(self.tokens)

    def extend(self, tokens: list[int]) -> None:
        """Add tokens up to the one that ends the text."""
        if self.history is not None:
            self.history += tokens
        if not self.config.stop:  # nothing to look for but <eos>: no walk over the tokens
            left, eos = self.left, self.tokenizer.eos_id
            end = tokens.index(eos) + 1 if eos is not None and eos in tokens else len(tokens) + 1
            self.tokens += tokens[: min(end, left)]
            self.reason = "eos" if end <= left and end <= len(tokens) else "length" if left <= len(tokens) else None
            return
        for token in tokens:
            self._add(token)
            if self.reason is not None:
                return

    def _add(self, token: int) -> None:
        self.tokens.append(token)
        self._tail = self._tail[-self._longest :] + self._streamer.feed(token)
        if token == self.tokenizer.eos_id:
            self.reason = "eos"
        elif any(stop in self._tail for stop in self.config.stop):
            self.reason = "stop"
        elif self.left == 0:
            self.reason = "length"

    def text(self) -> str:
        return before_stop(self.tokenizer.decode(self.tokens), self.config.stop)

    def result(self) -> Generation:
        logprobs = tuple(self.logprobs) if self.config.logprobs else None
        return Generation(
            self.request.prompt, self.text(), tuple(self.tokens), self.reason or "length", self.request.index, logprobs
        )  # fmt: skip
