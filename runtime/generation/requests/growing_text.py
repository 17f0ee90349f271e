"""A text while it is written, until it ends."""

from __future__ import annotations

from unrolled.engine.tokenizers.contract import Tokenizer
from unrolled.runtime.generation.requests.generation import Generation, before_stop
from unrolled.runtime.generation.requests.request import Request


class GrowingText:
    """The row of a request: its tokens so far, and the reason of its end once it has ended.

    Args:
        watched: a caller needs every token as soon as it is drawn.

    Attributes:
        unread: (n,), n ≥ 1, the tokens between ``state`` and the first draw.
        state: (S, L, H) before ``unread``; None: zeros.
        first_draw: the number of its first draw among those of its index.
        history: all tokens before the next one, if the settings need them; else None.
        reason: the reason of its end; None before.
    """

    def __init__(self, tokenizer: Tokenizer, request: Request, watched: bool = False) -> None:
        self.tokenizer, self.request, self.config = tokenizer, request, request.config
        self.rules = request.config.rules
        self.tokens: list[int] = []
        before = request.context
        self.unread = request.tokens
        self.state = None if before is None else before.state
        self.first_draw = 0 if before is None else before.written
        self.history: list[int] | None = None
        if self.rules.needs_history:
            self.history = [*([] if before is None else before.tokens[:-1].tolist()), *request.tokens.tolist()]
        self._watched = watched
        self.logprobs: list[float] = []
        self.reason: str | None = None
        if self.config.stop:
            self._streamer = tokenizer.streamer()
        self._longest = max(map(len, self.config.stop), default=0)
        self._tail = ""  # the end of the text that an unfinished stop text can reach back to

    @property
    def needs_each_token(self) -> bool:
        """Return whether each token is needed as it is drawn: by a caller, a stop text, or the choice of the next."""
        return self._watched or self._longest > 0 or self.history is not None

    @property
    def left(self) -> int:
        """Return the most tokens that may still come."""
        return self.config.max_new_tokens - len(self.tokens)

    def extend(self, tokens: list[int]) -> None:
        """Add tokens up to the one that ends the text."""
        if self.history is not None:
            self.history += tokens
        if not self.config.stop:  # only <eos> can end it: no loop over the tokens
            left, eos = self.left, self.tokenizer.end_id
            end = tokens.index(eos) + 1 if eos is not None and eos in tokens else len(tokens) + 1
            self.tokens += tokens[: min(end, left)]
            self.reason = "eos" if end <= left and end <= len(tokens) else "length" if left <= len(tokens) else None
            return
        for token in tokens:
            self._add(token)
            if self.reason is not None:
                return

    def _add(self, token: int) -> None:
        """Add one token, and end the text if it completes a stop text, is <eos> or is the last allowed."""
        self.tokens.append(token)
        self._tail = self._tail[-self._longest :] + self._streamer.feed(token)
        if token == self.tokenizer.end_id:
            self.reason = "eos"
        elif any(stop in self._tail for stop in self.config.stop):
            self.reason = "stop"
        elif self.left == 0:
            self.reason = "length"

    def text(self) -> str:
        """Return the text so far, up to a stop text."""
        return before_stop(self.tokenizer.decode(self.tokens), self.config.stop)

    def result(self) -> Generation:
        """Return the finished text."""
        logprobs = tuple(self.logprobs) if self.config.logprobs else None
        return Generation(
            self.request.prompt, self.text(), tuple(self.tokens), self.reason or "length", self.request.index, logprobs
        )  # fmt: skip
